"""Say whether a program of this machine or container works: the health check of docker-compose.yml.

    PYTHONPATH=. python scripts/alive.py relay|consumer|poller

It works if it has said so in the table `heartbeats` within the last 15 seconds.
Exit codes: 0 it works, 1 it does not or the database cannot be reached, 2 wrong usage or a bad setting.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg

from app import database, settings
from app.errors import SettingsError
from app.service import first_line

NAMES = ("relay", "consumer", "poller")
SILENT_S = 15.0

_AGE = """
SELECT extract(epoch FROM now() - max(beat_at))::float8 AS age_s FROM heartbeats
WHERE name = %s AND starts_with(instance, %s)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    name = parser.parse_args(argv).name
    try:
        age_s = _age_s(name)
    except SettingsError as error:
        return _failed(str(error), 2)
    except psycopg.Error as error:
        return _failed(f"database: {first_line(error)}", 1)
    if age_s is None or age_s > SILENT_S:
        return _failed(f"{name}: {'never seen' if age_s is None else f'silent for {age_s:.0f} s'} on this machine", 1)
    print(f"{name}: worked {age_s:.0f} s ago")
    return 0


def _age_s(name: str) -> float | None:
    """Seconds since a program of that name on this machine has said that it works; None if none has."""
    with database.connect(settings.load(), "alive") as connection:
        row = connection.execute(_AGE, (name, f"{socket.gethostname()}-")).fetchone()
    return row["age_s"] if row else None


def _failed(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
