"""The memory group, and the pipeline in it: 900 MiB without swap are enough for the simulated day.

Where this machine or user can make no group, its error is what is tested, and the pipeline's processes are added up.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import memory, memory_group
from benchmarks.memory_group import MemoryGroup, NoMemoryGroupError, name_of
from broker.processes import command_line

ROOT = Path(__file__).parent.parent
HAS_PROC = Path("/proc/self/status").exists()


def can_make_groups() -> bool:
    try:
        with MemoryGroup(10):
            return True
    except NoMemoryGroupError:
        return False


CAN = can_make_groups()


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "benchmarks.memory_group", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_command_within_the_limit_ends_as_it_would_without_and_its_peak_is_reported(tmp_path):
    found = tmp_path / "report.json"
    hold = "x = bytearray(50 << 20); import sys, time; time.sleep(0.3); print('done'); sys.exit(3)"
    done = command("--limit-mib", "100", "--json", str(found), "--", *python(hold))
    if not CAN:
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("memory_group: no memory group can be made here (")
        return
    assert (done.returncode, done.stdout) == (3, "done\n")
    assert "killed for memory 0; exit code 3" in done.stderr
    report = json.loads(found.read_text())
    assert 50 <= report["peak_anonymous_mib"] <= report["peak_held_mib"] <= report["peak_mib"] <= 80
    assert 50 <= max(each["peak_rss_mib"] for each in report["processes"]) <= 80


def test_a_command_beyond_the_limit_is_killed_and_counted():
    done = command("--limit-mib", "60", "--", *python("x = bytearray(150 << 20)"))
    assert done.returncode == (137 if CAN else 2)
    assert ("killed for memory 1; exit code 137" in done.stderr) == CAN


def test_what_a_command_leaves_behind_is_ended_with_the_group():
    done = command("--limit-mib", "60", "--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    assert done.returncode == (0 if CAN else 2)
    if CAN:
        assert command_line(int(done.stdout)) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit-mib", "900"], "there is no command; it must follow after --"),
        (["--limit-mib", "0", "--", "true"], "argument --limit-mib: 0 must be 1 or more mebibytes"),
        (["--limit-mib", "nan", "--", "true"], "argument --limit-mib: nan must be 1 or more mebibytes"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, message):
    done = command(*words)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.skipif(not HAS_PROC, reason="processes are watched through /proc, as on Linux")
def test_a_tree_of_processes_is_watched_where_no_group_can_be_made():
    child = "import time; x = bytearray(40 << 20); time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    report = memory_group.watch(python(parent))
    assert report.code == 0
    assert 40 <= report.peak_anonymous_mib <= report.peak_mib
    assert sorted(each.peak_rss_mib >= 40 for each in report.processes) == [False, True]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/x/python3.11", "-u", "backtest.py", "--csv", "-m"], "backtest.py"),
        (["python", "-m", "broker.local", "start"], "broker.local"),
        (["python", "-c", "pass"], "python -c"),
        (["python", "-W", "error", "x/y.py"], "y.py"),
        (["python"], "python"),
        (["java", "-Dlocal.kafka.role=zookeeper", "x.Main"], "zookeeper JVM"),
        (["/bin/sh", "setup.sh"], "sh"),
    ],
)
def test_a_process_is_named_after_what_it_runs(words, name):
    assert name_of(words) == name


def test_the_dense_day_has_every_row_ten_times_within_the_session(tmp_path):
    day = tmp_path / "day.csv"
    day.write_text(
        "ts_event,price,symbol\n2024-08-05T13:30:00.000000005Z,1,A\n2024-08-05T13:30:00.000000005Z,2,A\n2024-08-05T13:30:01.000000024Z,3,A\n"
    )  # 1,000,000,020 ns from the first time to just after the last: each round takes a tenth of it
    lines = memory.dense(day, tmp_path / "dense.csv").read_text().splitlines()
    assert lines[0] == "ts_event,price,symbol"
    assert lines[1:5] == [
        "2024-08-05T13:30:00.000000005Z,1,A",
        "2024-08-05T13:30:00.000000005Z,2,A",
        "2024-08-05T13:30:00.100000006Z,3,A",
        "2024-08-05T13:30:00.100000007Z,1,A",
    ]
    assert len(lines) == 31
    assert lines[1:] == sorted(lines[1:], key=lambda line: line[:30])
    assert lines[-1] == "2024-08-05T13:30:01.000000024Z,3,A"


def test_ten_days_are_the_day_again_a_day_later_each(tmp_path):
    day = tmp_path / "day.csv"
    day.write_text("symbol,ts_event,price\nA,2024-08-31T13:30:00.000000005Z,1\n")
    lines = memory.days(day, tmp_path / "days.csv", 3).read_text().splitlines()
    assert [line.split(",")[1][:10] for line in lines[1:]] == ["2024-08-31", "2024-09-01", "2024-09-02"]


@pytest.mark.skipif(not HAS_PROC, reason="processes are watched through /proc, as on Linux")
def test_the_whole_pipeline_needs_no_more_than_900_mib_for_the_simulated_day(tmp_path):
    run = memory.measured("kraft", memory.DAY, tmp_path / "run", memory.LIMIT_MIB if CAN else None)
    assert run.good
    assert run.rows == 60_067
    peaks = run.report.peaks()
    assert {"kafka JVM", "kafka_producer.py", "backtest.py"} <= set(peaks)
    assert run.report.peak_anonymous_mib <= memory.LIMIT_MIB
    if not CAN:
        assert sum(peaks.values()) <= memory.LIMIT_MIB
