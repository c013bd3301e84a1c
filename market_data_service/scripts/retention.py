"""Delete old responses of providers and old events that were published: neither is needed to answer or to average.

    PYTHONPATH=. python scripts/retention.py --dry-run                        what would be deleted
    PYTHONPATH=. python scripts/retention.py
    PYTHONPATH=. python scripts/retention.py --raw-days 30 --outbox-days 7    the same, spelled out

Prices, averages and events that wait to be published are never touched. A price keeps its row when its response is deleted;
`raw_response_id` of its event then points to nothing. Rows go in chunks of 5,000, each a transaction of its own, so it may
run beside everything else and be stopped at any time. Run it once a day.
Exit codes: 0 done or stopped, 1 failed (no database), 2 wrong usage or a bad setting.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C while the modules load ends the program without a traceback
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import database, service
from app.database import Connection
from app.service import Stop
from app.settings import Settings

RAW_DAYS, OUTBOX_DAYS = 30, 7
CHUNK = 5_000
MOST_DAYS = 36_500


@dataclass(frozen=True)
class Kind:
    """Rows that grow old: `table`, and the column of their age; rows without a time in it stay."""

    what: str
    table: str
    column: str

    def count(self, connection: Connection, days: int) -> int:
        """How many are older than `days`."""
        row = connection.execute(
            f"SELECT count(*) AS n FROM {self.table} WHERE {self._is_old}", {"days": days}
        ).fetchone()
        assert row is not None
        return int(row["n"])

    def delete(self, connection: Connection, days: int, most: int) -> int:
        """Delete at most `most` that are older than `days`; how many it were."""
        some = f"SELECT id FROM {self.table} WHERE {self._is_old} LIMIT %(most)s FOR UPDATE SKIP LOCKED"
        sql = f"WITH old AS MATERIALIZED ({some}) DELETE FROM {self.table} AS kept USING old WHERE kept.id = old.id"
        return connection.execute(sql, {"days": days, "most": most}).rowcount

    @property
    def _is_old(self) -> str:
        return f"{self.column} < now() - make_interval(days => %(days)s)"


RESPONSES = Kind("responses of providers", "raw_responses", "fetched_at")
EVENTS = Kind("published events", "outbox", "published_at")


def work(settings: Settings, stop: Stop, flags: argparse.Namespace) -> None:
    """Count or delete both kinds, and say so on stdout."""
    with contextlib.closing(database.connect(settings, "retention")) as connection:
        for kind, days in ((RESPONSES, flags.raw_days), (EVENTS, flags.outbox_days)):
            done = kind.count(connection, days) if flags.dry_run else delete_all(connection, kind, days, stop)
            verb = "would be deleted" if flags.dry_run else "deleted"
            print(f"{kind.what} older than {days} days: {done} {verb}", flush=True)


def delete_all(connection: Connection, kind: Kind, days: int, stop: Stop, chunk: int = CHUNK) -> int:
    """Delete chunk by chunk until none is left or `stop` is set; how many."""
    total = 0
    while not stop.is_set() and (done := kind.delete(connection, days, chunk)):
        total += done
    return total


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the program."""
    parser.add_argument("--raw-days", type=_days, default=RAW_DAYS, metavar="DAYS", help="default: %(default)s")
    parser.add_argument("--outbox-days", type=_days, default=OUTBOX_DAYS, metavar="DAYS", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="count, delete nothing")


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a whole number from 1 to {MOST_DAYS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(service.main("retention", __doc__, work, add_flags=add_flags, has_metrics=False))
