"""Send messages that were set aside on KAFKA_DLQ_TOPIC to KAFKA_TOPIC again, once their cause is mended.

    PYTHONPATH=. python scripts/replay_dlq.py --dry-run                     count them by reason; change nothing
    PYTHONPATH=. python scripts/replay_dlq.py [--reason unknown_price] [--since 2025-06-15T20:30:00+00:00] [--max 100]

A payload that was corrected in the table dead_letters is sent as it is there. A message that has been tried --max-attempts
times stays: it is marked quarantined and listed. One replay runs at a time. Messages that are not chosen stay for a later
replay, and so do quarantined ones, with a higher --max-attempts.
Exit codes: 0 done, 1 failed, 2 wrong usage or a bad setting.
"""

import argparse
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import database, dead_letters, events, service
from app.dead_letters import Choice, Letter, Report
from app.service import Stop
from app.settings import Settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's own flags."""
    parser.add_argument("--dry-run", action="store_true", help="count by reason; change nothing")
    parser.add_argument("--reason", choices=events.REASONS, help="only those set aside for this reason")
    parser.add_argument(
        "--since", type=_time, help="only those that first failed then or later (ISO 8601; UTC if not said)"
    )
    parser.add_argument("--max", type=_count, help="at most so many")
    parser.add_argument("--max-attempts", type=_count, default=5, help="tried so often, a message is quarantined (5)")


def work(settings: Settings, stop: Stop, flags: argparse.Namespace) -> None:
    """Replay, and print what was done."""
    choice = Choice(flags.reason, flags.since, flags.max, flags.max_attempts, flags.dry_run)
    with database.connect(settings, "replay_dlq") as connection:
        print(_text(dead_letters.replay(settings, connection, choice, stop.is_set), is_dry_run=flags.dry_run))


def _text(report: Report, *, is_dry_run: bool) -> str:
    lines = [f"{reason or '(none)':<18} {count:>7}" for reason, count in report.reasons.most_common()]
    lines += map(_line, report.quarantined)
    would = "would be " if is_dry_run else ""
    total = f"{report.sent} {would}sent again, {len(report.quarantined)} {would}quarantined, {report.left} left"
    return "\n".join([*lines, total])


def _line(letter: Letter) -> str:
    topic, partition, offset = letter.place
    where = f"{topic}, partition {partition}, offset {offset}"
    return f"quarantined after {letter.attempts} attempts: {where}: {letter.reason}: {letter.detail}"


def _time(text: str) -> datetime.datetime:
    """A time; UTC where it has no offset."""
    try:
        time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a time such as 2025-06-15T20:30:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)


def _count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(service.main("replay_dlq", __doc__, work, add_flags=add_flags, has_metrics=False))
