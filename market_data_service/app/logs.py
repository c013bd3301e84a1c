"""How the programs write their logs: lines on stderr, with the time in UTC."""

from __future__ import annotations

import logging
import time


def to_stderr(name: str, level: str, *, replace: bool) -> None:
    """Write what is logged from `level` on to stderr, each line with the program's name.

    Parameters
    ----------
    replace
        Whether what was set up before goes; else nothing is done where something was.
    """
    form = logging.Formatter(f"%(asctime)s.%(msecs)03dZ {name} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logging.basicConfig(level=level, handlers=[handler], force=replace)
