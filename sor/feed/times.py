"""Time stamps given as text into UTC nanoseconds."""

from __future__ import annotations

import numpy as np

from sor.events import NO_TIME
from sor.feed.cells import run_starts
from sor.feed.lean_pandas import pd

_ISO_NS = b"0000-00-00T00:00:00.000000000Z"  # the form Databento writes, every digit shown as 0
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_FIRST_YEAR, _AFTER_LAST_YEAR = 1700, 2200  # int64 nanoseconds hold 1677 to 2262


def parse_times(texts: np.ndarray) -> np.ndarray:
    """UTC nanoseconds of time stamps given as text.

    Parameters
    ----------
    texts : array of bytes (n,)
        ISO-8601, without offset meaning UTC, or whole nanoseconds since 1970.

    Returns
    -------
    int64 array (n,), NO_TIME where a text is neither. Equal neighbours are parsed once.
    """
    first = run_starts(texts)
    distinct = texts[first]
    times = _iso_ns_times(distinct)
    if times is None:
        times = _any_times(distinct)
    return np.repeat(times, np.diff(first, append=len(texts)))


def _iso_ns_times(texts: np.ndarray) -> np.ndarray | None:
    """The usual case, quickly: every text is of the form `_ISO_NS` and a valid time. None if not so."""
    forms = np.frombuffer(texts.tobytes().translate(_DIGITS_TO_ZERO), texts.dtype)
    in_range = (texts >= b"%d" % _FIRST_YEAR) & (texts < b"%d" % _AFTER_LAST_YEAR)
    if not ((forms == _ISO_NS) & in_range).all():
        return None
    try:
        return texts.astype(f"S{len(_ISO_NS) - 1}").astype("datetime64[ns]").astype(np.int64)  # numpy takes no Z
    except ValueError:
        return None


def _any_times(texts: np.ndarray) -> np.ndarray:
    texts = np.char.strip(np.char.decode(texts, "ascii", "replace"))
    whole = np.char.isdecimal(texts)
    iso = ~whole & np.char.isdecimal(texts.astype("U1"))  # pandas would take the words now and today
    times = np.full(len(texts), NO_TIME, np.int64)
    times[whole] = [ns if (ns := int(text)) < 2**63 else NO_TIME for text in texts[whole]]
    parsed = pd.to_datetime(texts[iso], utc=True, format="ISO8601", errors="coerce")
    parsed = parsed.where((parsed.year >= _FIRST_YEAR) & (parsed.year < _AFTER_LAST_YEAR))
    times[iso] = parsed.as_unit("ns").asi8  # NaT is NO_TIME
    return times
