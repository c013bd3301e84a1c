"""Time and memory of sor.feed.load beside a plain pandas.read_csv of the same columns with ts_event converted.

python -m benchmarks.bench_feed
"""

import gzip
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd

from benchmarks.table import Row, show
from sor import feed
from sor.events import QUOTE, TRADE, Checker, Events, Intake

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "real_dev.csv.gz"
ROUNDS = 15
SECOND_NS = 10**9


def rows() -> list[Row]:
    """One row per claim: ours, what it stands beside, their ratio, the bar, and ok: answer right and bar met."""
    with tempfile.TemporaryDirectory() as folder:
        path = _plain_csv(Path(folder))
        right = _same(_ours(path), _beside(path))
        return [_time(path, right), _memory(path, right)]


def main() -> int:
    """Print the rows as a markdown table; 1 if one of them is not ok."""
    return show(rows())


def _plain_csv(folder: Path) -> Path:
    """The real day if it is here, decompressed so that unpacking is not timed; else the simulated one."""
    if not REAL.exists():
        return ROOT / "l1_day.csv"
    path = folder / "real_dev.csv"
    with gzip.open(REAL, "rb") as packed, open(path, "wb") as plain:
        shutil.copyfileobj(packed, plain)
    return path


def _ours(path: Path) -> Events:
    intake = Intake(Checker(SECOND_NS))
    feed.load(path, intake)
    return intake.buffer.events()


def _beside(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, usecols=list(feed.COLUMNS))
    frame["ts_event"] = pd.to_datetime(frame["ts_event"])
    return frame


def _same(events: Events, frame: pd.DataFrame) -> bool:
    """Both hold the same times, venues, quotes and trades (the files have no row that we set aside)."""
    ids = np.array(events.publisher_ids)[events.venue]
    times_ns = frame["ts_event"].dt.tz_convert(None).to_numpy("datetime64[ns]").astype(np.int64)
    same = (times_ns == events.ts_ns).all() and (frame["publisher_id"] == ids).all()
    for action, sides in ((QUOTE, ("bid", "ask")), (TRADE, ("trade",))):
        at = events.action == action
        for side in sides:
            px, sz = ("price", "size") if side == "trade" else (f"{side}_px_00", f"{side}_sz_00")
            same &= _same_side(
                frame[px][at], frame[sz][at], *(getattr(events, f"{side}_{x}")[at] for x in ("px_e4", "sz"))
            )
    return bool(same)


def _same_side(px: pd.Series, sz: pd.Series, px_e4: np.ndarray, shares: np.ndarray) -> bool:
    shown = px.to_numpy() > 0
    rounded_e4 = np.rint(px.to_numpy() * 1e4)
    return bool((rounded_e4[shown] == px_e4[shown]).all() and (np.where(shown, sz, 0) == shares).all())


def _time(path: Path, right: bool) -> Row:
    """CPU time, both have one thread; the fastest of several alternating rounds: the machine's noise only ever adds."""
    pairs = [(_seconds(_ours, path), _seconds(_beside, path)) for _ in range(ROUNDS)]
    ours_s, beside_s = map(min, zip(*pairs, strict=True))
    return _row(path, "CPU time", f"{ours_s:.3f} s", f"{beside_s:.3f} s", ours_s / beside_s, right)


def _seconds(call: Callable[[Path], object], path: Path) -> float:
    start = process_time()
    call(path)
    return process_time() - start


def _memory(path: Path, right: bool) -> Row:
    """Peak resident memory above that of a process that has imported everything and read nothing."""
    ours, beside, nothing = (_peak_mb(what, path) for what in ("_ours", "_beside", "str"))
    ours, beside = ours - nothing, beside - nothing
    return _row(path, "peak memory", f"{ours:.0f} MB", f"{beside:.0f} MB", ours / beside, right)


def _peak_mb(what: str, path: Path) -> float:
    code = f"from benchmarks import bench_feed as b; {'' if what == 'str' else 'b.'}{what}({str(path)!r}); print(b._own_peak_mb())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(run.stdout)


def _own_peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss would count what this process was forked from
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1)) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _row(path: Path, what: str, ours: str, beside: str, ratio: float, right: bool) -> Row:
    return {
        "name": f"feed.load, {path.name}, {what}",
        "ours": ours,
        "beside": f"pandas.read_csv {beside}",
        "ratio": round(ratio, 2),
        "bar": "ratio <= 1.0",
        "ok": right and ratio <= 1.0,
    }


if __name__ == "__main__":
    sys.exit(main())
