"""The local Kafka in operation, as far as it needs no Java: logs that are kept and do not grow, its status, a wrong JAVA_HOME."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker import jars, local
from broker.errors import NotInstalledError
from broker.processes import KEPT, Jvm

ROOT = Path(__file__).resolve().parents[1]
LOG4J = (ROOT / "broker" / "log4j.properties").read_text(encoding="utf-8")
STANDS_IN = (
    'import sys, time; print("started", flush=True); open("logs/kafka.log", "w").write(sys.argv[-1]); time.sleep(60)'
)


def start(folder, word):
    """A Python that stands in for the JVM and writes `word` to its log."""
    jvm = Jvm(folder, "kafka")
    jvm.keep_logs()
    marker = [*jvm.marker, "-Dlocal.kafka.listens=127.0.0.1:1"]
    command = [sys.executable, "-c", STANDS_IN, *marker, word]
    jvm.log_file.parent.mkdir(parents=True, exist_ok=True)
    with jvm.out_file.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out)
    jvm.pid_file.write_text(str(process.pid))
    while not (jvm.log_file.exists() and jvm.log_file.read_text() == word):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def end(process):
    process.kill()
    process.wait()


def test_the_logs_of_the_last_starts_are_kept_and_no_more(tmp_path):
    for word in ("one", "two", "three", "four"):
        end(start(tmp_path, word))
    logs = tmp_path / "logs"
    assert [(logs / name).read_text() for name in ("kafka.log", "kafka.log.1", "kafka.log.2")] == [
        "four",
        "three",
        "two",
    ]
    assert (logs / "kafka.out.1").read_text() == "started\n"
    assert len(list(logs.iterdir())) == 2 * (1 + KEPT)


def test_log4j_goes_on_with_the_same_numbers_and_bounds_what_is_written():
    assert f"MaxBackupIndex={KEPT}\n" in LOG4J
    assert "MaxFileSize=10MB\n" in LOG4J
    assert "log4j.rootLogger=INFO, file\n" in LOG4J  # nothing to the console, which is kafka.out
    assert re.findall(r"appender\.(\w+)=", LOG4J) == ["file"]


def test_no_jvm_of_ours_writes_a_gc_log(tmp_path):
    assert not [option for option in local._jvm_options(tmp_path) if "gc:" in option or "loggc" in option.lower()]


def test_status_tells_pid_uptime_memory_topics_and_logs(tmp_path, capsys):
    data = tmp_path / "data-kraft" / "kafka"
    for name in ("stream-0", "a.b-0", "__consumer_offsets-0", "__cluster_metadata-0"):
        (data / name).mkdir(parents=True)
        (data / name / "0.log").write_bytes(b"x" * 300_000)
    process = start(tmp_path, "up")
    try:
        assert local.main(["--dir", str(tmp_path), "status"]) == 0
    finally:
        end(process)
    kafka, mode, logs = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"kafka: pid {process.pid}, 127\.0\.0\.1:1, gives no answer, up 0:00:\d\d, \d+ MiB", kafka)
    assert mode == "mode: kraft, topics: a.b (0.3 MB), stream (0.3 MB)"
    assert logs == f"logs: {tmp_path}/logs, 0.0 MB; runs and lag: backtest.py --doctor"
    assert local.main(["--dir", str(tmp_path), "status"]) == 3


def test_a_java_home_that_leads_nowhere_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", "/no/where")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jars, "_BREW_JAVA", ())
    lines = []
    for _ in range(2):
        with pytest.raises(NotInstalledError):
            jars.prepare(lines.append, tmp_path / "libs")
    told = [line for line in lines if "JAVA_HOME" in line]
    assert told == ["JAVA_HOME is '/no/where', which holds no bin/java that runs: looking elsewhere for a Java"]
