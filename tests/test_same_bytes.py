"""output.json but for `run` is the same bytes: under 20 hash seeds, on an older processor, on 1, 2 and 4 workers, in every Python.

Kafka and CSV, each in both broker modes and under several seeds: tests/integration/test_pipeline.py. The sums in
tests/data/same_bytes.json were written once; every Python that runs this file has to find them. After a change that is meant
to change results:

    python -m tests.test_same_bytes > tests/data/same_bytes.json
"""

import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.system
import numpy as np
import pytest

import backtest
import config
import utils
from sor.placement import many

ROOT = Path(__file__).resolve().parents[1]
SUMS = ROOT / "tests" / "data" / "same_bytes.json"
ROWS, FEW = 4_000, 2_000
SMALL = [
    *("--lambda-over", "0.01", "--lambda-under", "0.02,0.05", "--theta-queue", "0", "--slice-s", "15"),
    *("--evaluation-window-s", "30", "--evaluation-stride-s", "30", "--evaluation-skip-s", "0", "--resamples", "200"),
]
PRINTS = """
import backtest, config, sys, utils
settings = config.settings("backtest", sys.argv[1:], "", {})
venues = backtest._venue_table(settings)
print(utils.json_text(backtest.results(settings, venues, backtest._from_csv(settings))[0]), end="")
"""
SEEDS = range(20)
# A processor without the wide instructions that numpy, and OpenBLAS beneath it, choose by themselves where they can.
OLD_PROCESSOR = {
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR "
    "X86_V3 X86_V4",
    "OPENBLAS_CORETYPE": "Prescott",
    "PYTHONWARNINGS": "ignore",  # numpy names the features that this processor does not have
}


def first_rows(folder, rows=ROWS):
    """The first minutes of l1_day.csv."""
    path = Path(folder, "first.csv")
    with open(ROOT / "l1_day.csv", encoding="utf-8") as whole:
        path.write_text("".join(itertools.islice(whole, rows + 1)), encoding="utf-8")
    return str(path)


def text_of(path):
    """output.json but for `run`, of the file at `path`."""
    settings = config.settings("backtest", ["--csv", path, *SMALL], "", {})
    venues = backtest._venue_table(settings)
    return utils.json_text(backtest.results(settings, venues, backtest._from_csv(settings))[0])


def text_elsewhere(path, **environ):
    """The same by a process of its own."""
    command, env = [sys.executable, "-c", PRINTS, "--csv", path, *SMALL], {**os.environ, **environ}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sums(text):
    """The SHA-256 of every section, and of all."""
    sections = {name: utils.json_text(section) for name, section in json.loads(text).items()}
    return {name: hashlib.sha256(each.encode()).hexdigest() for name, each in (*sections.items(), ("all", text))}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return first_rows(tmp_path_factory.mktemp("same"))


@pytest.fixture(scope="module")
def recorded():
    return json.loads(SUMS.read_text(encoding="utf-8"))


def test_this_python_finds_the_recorded_sums(first, recorded):
    assert sums(text_of(first)) == recorded


def test_twenty_hash_seeds_give_the_same_bytes(tmp_path):
    few = first_rows(tmp_path, FEW)
    text = text_of(few)  # compiles what is not compiled yet, once
    with ThreadPoolExecutor(os.cpu_count()) as several:
        found = several.map(lambda seed: text_elsewhere(few, PYTHONHASHSEED=str(seed)), SEEDS)
        assert list(found) == [text] * len(SEEDS)


def test_an_older_processor_gives_the_same_bytes(first, recorded):
    assert sums(text_elsewhere(first, **OLD_PROCESSOR)) == recorded


def test_a_cost_is_rounded_after_every_step_even_within_a_fast_kernel():
    """0.1 x 3 rounds to 0.30000000000000004. A processor that multiplies and adds in one step would leave -2.8e-17."""
    once, filled, none = np.ones(1), np.full(1, 3.0), np.zeros(1)
    assert many.along((filled, none, none, once, 0.1, 0.0, 0.0, -0.1, 3.0), 3.0) == 0.0
    assert many.plus(-(0.1 * 3.0), 0.1, 3.0, 0.0, 0.0) == 0.0


HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"


def quote(day, second):
    ask_px = 100.02 + 0.01 * (second * day % 5)
    at = f"2024-08-{day:02}T14:{second // 60:02}:{second % 60:02}.000000000Z"
    return f"{at},2,SIM,A,B,0,0,100.00,{ask_px:.2f},400,{100 + 10 * (second % 7)},{second}\n"


def test_one_two_and_four_workers_give_the_same_bytes(tmp_path, monkeypatch):
    """One is this process: a scheduler with one worker is in tests/test_days.py."""
    for day in range(1, 6):
        text = HEADER + "".join(quote(day, second) for second in range(121))
        (tmp_path / f"2024-08-{day:02}.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    windows = ["--evaluation-window-s", "10", "--evaluation-stride-s", "10", "--slice-s", "5"]
    words = ["--days", str(tmp_path / "*"), *SMALL, *windows]

    def pooled(workers, *more):
        monkeypatch.setattr(dask.system, "CPU_COUNT", workers)
        settings = config.settings("backtest", [*words, *more], "", {})
        output, found = backtest.pooled_results(settings, backtest._venue_table(settings))
        assert len(found) == 5
        return utils.json_text(output)

    assert pooled(2, "--dask", "local") == pooled(4, "--dask", "local") == pooled(1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(utils.json_text(sums(text_of(first_rows(folder)))), end="")
