"""Times on the exchange's clock: ticks of an axis, the window in words."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from sor.orders import Window

NS = 10**9
_TICK_STEPS_NS = (
    *(m * 10**k for k in range(9) for m in (1, 2, 5)),
    *(s * NS for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 86_400)),
)


def window_text(window: Window, time_zone: str) -> str:
    """Date and times of the window on the clock of the time zone; milliseconds where it is shorter than a minute."""
    unit_ns = NS if window.end_ns - window.start_ns >= 60 * NS else NS // 1000
    start_ns, end_ns = (_local_ns(at_ns, time_zone) for at_ns in (window.start_ns, window.end_ns))
    day = np.datetime64(start_ns // NS, "s").astype("datetime64[D]")
    return f"{day}, {_clock_text(start_ns, unit_ns)} to {_clock_text(end_ns, unit_ns)} {time_zone}"


def clock_ticks(start_ns: int, end_ns: int, time_zone: str, room: int) -> tuple[np.ndarray, list[str]]:
    """Round times on the clock of `time_zone`, as close as `room` characters allow: seconds after `start_ns`, and texts."""
    local_ns = np.array([_local_ns(at_ns, time_zone) for at_ns in (start_ns, end_ns)])
    for step_ns in _TICK_STEPS_NS:
        ticks_ns = range(-(-local_ns[0] // step_ns) * step_ns, local_ns[1] + 1, step_ns)
        if len(ticks_ns) * len(_clock_text(0, step_ns)) <= room:
            break
    return (np.array(ticks_ns) - local_ns[0]) / NS, [_clock_text(int(at_ns), step_ns) for at_ns in ticks_ns]


def _local_ns(at_ns: int, time_zone: str) -> int:
    """Nanoseconds since 1970 as the clocks of the time zone show them."""
    offset = datetime.fromtimestamp(at_ns // NS, ZoneInfo(time_zone)).utcoffset()
    return at_ns + round(offset.total_seconds()) * NS


def _clock_text(local_ns: int, unit_ns: int) -> str:
    """HH:MM, with the seconds and decimals that multiples of `unit_ns` need."""
    seconds, fraction_ns = divmod(local_ns, NS)
    text = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}"
    if unit_ns % (60 * NS):
        text += f":{seconds % 60:02}"
    decimals = len(f"{unit_ns % NS:09}".rstrip("0"))
    return text + (f".{fraction_ns:09}"[: 1 + decimals] if decimals else "")
