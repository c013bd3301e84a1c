"""Compute all moving averages anew from the stored prices, and put right what differs.

    PYTHONPATH=. python scripts/recompute_averages.py
    PYTHONPATH=. python scripts/recompute_averages.py --check     change nothing; exit code 1 if anything differs

Prints how many averages there must be, and how many were missing, wrong or surplus. Consumers may be at work meanwhile;
what they have not worked on yet counts as missing. Averages of another MA_WINDOW are left alone.
Exit codes: 0 done, 1 failed or (--check) something differs, 2 wrong usage or a bad setting.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app import averages, database, service
from app.service import Stop
from app.settings import Settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's own flags."""
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if anything differs")


def work(settings: Settings, _stop: Stop, flags: argparse.Namespace) -> int:
    """Compare or recompute, and print what was found."""
    with database.connect(settings, "recompute_averages") as connection:
        found = (averages.compare if flags.check else averages.recompute)(connection, settings.ma_window)
    done = "differ" if flags.check else "put right"
    print(
        f"{found.averages} averages of {settings.ma_window} prices; {found.differences} {done} "
        f"({found.missing} missing, {found.wrong} wrong, {found.surplus} surplus)"
    )
    return int(flags.check and found.differences > 0)


if __name__ == "__main__":
    sys.exit(service.main("recompute_averages", __doc__, work, add_flags=add_flags, has_metrics=False))
