"""Fetch the symbols of polling jobs when they are due, and store their prices: see POST /prices/poll.

    PYTHONPATH=. python scripts/poller.py
    PYTHONPATH=. python scripts/poller.py --lease-seconds 30

Any number of pollers may run, on any number of machines: a job's slot is run by one of them. It waits for the database where
that is not there. The first Ctrl-C or SIGTERM lets it finish what it is doing; the second ends it at once.
Exit codes: 0 stopped, 1 failed, 2 wrong usage, a bad setting or METRICS_PORT is taken.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C while the modules load ends the program without a traceback
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import poller, service

if __name__ == "__main__":
    sys.exit(service.main("poller", __doc__, poller.work, add_flags=poller.add_flags))
