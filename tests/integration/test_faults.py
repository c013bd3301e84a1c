"""What breaks while the programs work: brokers, processes, topics, disks, signals. Nothing is lost, doubled or half-written.

Moments are drawn with a fixed seed; `make chaos` draws many more.
"""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

import kafka_producer
from broker.ports import free_port
from sor import stream
from sor.audit import RunAudit
from sor.errors import StreamError
from sor.ledger import Claim, Notes
from sor.stream import Reader, Topic
from tests.integration.terminals import PY, ROOT, ROWS, but_run, done, wait_for

QUICK = ("--evaluate", "off")
GOOD = ROWS - 1  # rows of the file `day` that are not set aside
VERIFIED = f"verified {GOOD}/{GOOD} rows, 0 duplicate, 0 gap"


def slowly(seconds):
    """Flags with which the producer takes about so long."""
    return "--speed", "1", "--max-gap", str(seconds / 1150)  # the file's distinct times


def assert_every_row_is_accounted_for(output):
    """Rows of the file are rows used and rows set aside, of the file and of the run."""
    aside = [
        kinds for place in (output["data"]["rejects"], output["run"]["messages_set_aside"]) for kinds in place.values()
    ]
    assert output["data"]["rows"] + sum(kind["count"] for kind in aside) == ROWS
    assert output["run"]["counts"]["rows"] == GOOD
    assert output["run"]["whole"]


@pytest.fixture(scope="module")
def expected(day, tmp_path_factory):
    """output.json but for `run`, of the file without Kafka."""
    folder = tmp_path_factory.mktemp("csv")
    words = ["backtest.py", "--csv", day, "--out", folder, *QUICK, "--lambda-over", "0.01", "--lambda-under", "0.02"]
    subprocess.run([PY, *words, "--theta-queue", "0"], cwd=ROOT, check=True, capture_output=True)
    return but_run(json.loads((folder / "output.json").read_text()))


@pytest.fixture
def whole(terminals, expected):
    """Assert that a backtest process ends well, with all rows and the results of the file."""

    def check(process, out):
        _, err = done(process)
        assert err.splitlines()[-1] == VERIFIED
        output = terminals.output(out)
        assert_every_row_is_accounted_for(output)
        assert but_run(output) == expected
        assert list((terminals.folder / out).glob(".*")) == []

    return check


def there(terminals):
    return Topic(terminals.broker.bootstrap, terminals.topic)


def sent(terminals, day, run_id):
    """A whole run on the topic, by a producer in this process."""
    words = ["--csv", str(day), "--speed", "0", "--run-id", run_id]
    flags = ["--kafka-bootstrap-servers", terminals.broker.bootstrap, "--kafka-topic", terminals.topic]
    assert kafka_producer.main([*words, *flags]) == 0


# --- two at once ----------------------------------------------------------------------------------------------------


def test_of_two_backtests_in_one_group_one_works_and_the_other_says_so(terminals, day, whole):
    first = terminals.backtest("a", *QUICK)
    wait_for(first, "waiting for a run")
    _, err = done(terminals.backtest("b", *QUICK), code=1)
    assert f"a backtest.py of group backtest is at work already ({socket.gethostname()}, pid {first.pid}, since " in err
    done(terminals.backtest("c", *QUICK, "--kafka-group", "another", "--timeout", "0.1"), code=1)
    done(terminals.producer(day))
    whole(first, "a")
    assert not (terminals.folder / "b").exists() or not list((terminals.folder / "b").iterdir())


def test_a_backtest_whose_group_was_taken_over_writes_nothing(terminals, day, whole):
    first = terminals.backtest("a", *QUICK)
    wait_for(first, "waiting for a run")
    with Reader(there(terminals), "backtest") as reader:
        reader._commit(0, Notes([], Claim("x", "elsewhere", 7, "", "2026-01-01T00:00:00Z")), 5_000)
    done(terminals.producer(day))
    _, err = done(first, code=1)
    assert err.splitlines()[-1] == (
        "error: another backtest.py took over group backtest (elsewhere, pid 7, since 2026-01-01T00:00:00Z); "
        "this one writes nothing"
    )
    assert list((terminals.folder / "a").iterdir()) == []
    second = terminals.backtest("b", *QUICK)
    assert "(elsewhere, pid 7, since 2026-01-01T00:00:00Z) has not finished" in wait_for(second, "takes over")
    whole(second, "b")


def test_commits_of_several_processes_are_merged(terminals, day):
    for run_id in ("one", "two", "three"):
        sent(terminals, day, run_id)
    with (
        Reader(there(terminals), "g") as one,
        Reader(there(terminals), "g") as other,
        Reader(there(terminals), "g") as third,
    ):
        assert one.claim() is None
        assert one.next_unreported(5).run_id == "one"
        assert other.run("three", 5).run_id == "three"
        assert third.run("two", 5).run_id == "two"
        other.commit_reported("three")
        third.commit_reported("two")
        one.commit_reported("one")
    with Reader(there(terminals), "g") as reader, pytest.raises(StreamError, match="no run to report"):
        reader.next_unreported(0.1)


def test_a_commit_that_others_undo_again_and_again_is_an_error(terminals, day, monkeypatch):
    sent(terminals, day, "one")
    with Reader(there(terminals), "g") as reader:
        reader.next_unreported(5)
        monkeypatch.setattr(reader, "_commit", lambda *_: None)
        with pytest.raises(StreamError, match=r"not committed \(others of the group commit at the same time\)"):
            reader.commit_reported("one")


# --- the broker -----------------------------------------------------------------------------------------------------


def test_a_broker_killed_with_9_at_ten_moments_loses_nothing(terminals, day, whole):
    draw, kills, rounds = random.Random(1), 0, 0
    while kills < 10:
        rounds += 1
        producer = terminals.producer(day, *slowly(5))
        report = terminals.backtest(f"r{rounds}", *QUICK)
        wait_for(report, " run")  # it has had the broker's first answer
        while report.poll() is None and kills < 10:
            time.sleep(draw.uniform(0, 2))
            if report.poll() is None:
                terminals.broker.kill()
                kills += 1
                time.sleep(draw.uniform(0, 0.5))
                terminals.broker.start()
        done(producer)
        whole(report, f"r{rounds}")


def test_a_broker_that_stands_still_for_half_a_minute_loses_nothing(terminals, day, whole):
    producer = terminals.producer(day, *slowly(4))
    report = terminals.backtest("a", *QUICK)
    wait_for(report, "reading run ")
    time.sleep(1)
    pid = terminals.broker.kafka.pid
    try:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(30)
    finally:
        os.kill(pid, signal.SIGCONT)
    done(producer)
    whole(report, "a")


# --- killed programs ------------------------------------------------------------------------------------------------


def test_a_backtest_killed_with_9_at_ten_moments_reports_once_in_the_end(terminals, day, whole):
    draw, kills = random.Random(2), 0
    sent(terminals, day, "run0")
    while kills < 10:
        report = terminals.backtest("a", *QUICK)
        time.sleep(draw.uniform(0.2, 3))
        if report.poll() is None:
            report.kill()
            report.communicate()
            kills += 1
        else:
            whole(report, "a")
            sent(terminals, day, f"run{kills}")
    final = terminals.backtest("a", *QUICK)
    final.wait()
    if final.returncode == 0:
        whole(final, "a")
    else:  # the last kill came after the commit
        assert "no run to report" in final.stderr.read()
    done(terminals.backtest("b", *QUICK, "--timeout", "0.1"), code=1)
    assert list((terminals.folder / "a").glob(".*.tmp")) == []


class KillPoints:
    """The lines of kill_points.py, one after the other."""

    def __init__(self, terminals, program, number, *flags):
        words = ["-m", "tests.integration.kill_points", program, number, *map(str, flags)]
        where = ["--kafka-bootstrap-servers", terminals.broker.bootstrap, "--kafka-topic", terminals.topic]
        self.process = subprocess.Popen(
            [PY, *words, *where], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        terminals.started.append(self.process)

    def __iter__(self):
        for line in self.process.stdout:
            yield json.loads(line)
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        assert self.process.wait(10) == 0


def is_reported(terminals):
    """Has the group reported every run on the topic?"""
    with Reader(there(terminals), "backtest") as reader:
        try:
            reader.next_unreported(0)
        except StreamError:
            return True
    return False


BACKTEST_FLAGS = (*QUICK, "--timeout", "2", "--lambda-over", "0.01", "--lambda-under", "0.02", "--theta-queue", "0")


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_a_backtest_ended_between_any_two_steps(terminals, day, expected, number):
    out, steps, run = terminals.folder / "a", [], 0
    sent(terminals, day, "run0")
    for ended in KillPoints(terminals, "backtest", number, "--out", out, *BACKTEST_FLAGS):
        step, reported = ended["step"], is_reported(terminals)
        code = {"SIGKILL": -9, "SIGTERM": 143}[number]
        assert ended["code"] == (code if step else 0), ended
        assert ended["temporary"] <= (5 if number == "SIGKILL" else 0), ended
        assert "Traceback" not in ended["stderr"]
        if reported or "after commit_reported" in steps:
            output = terminals.output("a")
            assert output["run"]["run_id"] == f"run{run}"
            assert but_run(output) == expected
        steps.append(step)
        if reported and step:
            run += 1
            sent(terminals, day, f"run{run}")
    assert list(out.glob(".*")) == []
    assert {"after claim", "after run", "before _commit", "after commit_reported", "after __exit__"} < set(steps)
    files = {"before save": 3, "before write_text": 2, "before replace": 5, "after replace": 5}
    assert {step: steps.count(step) for step in files} == files


def test_a_producer_killed_with_9_between_any_two_steps_leaves_a_part_of_its_run_or_all(terminals, day):
    small = terminals.folder / "small.csv"
    small.write_text("".join(day.read_text().splitlines(keepends=True)[:601]))
    stream.ensure_topic(there(terminals))
    found = {}
    for ended in KillPoints(terminals, "kafka_producer", "SIGKILL", "--csv", small, "--speed", "0"):
        assert ended["code"] == (-9 if ended["step"] else 0), ended
        found.setdefault(ended["step"], set()).add(_audited(terminals))
    assert found[""] == {"whole"}
    assert found["after flush"] == {"not ended", "whole"}
    assert found["after finish"] == found["after __exit__"] == {"whole"}
    assert found["after ensure_topic"] == {"none"}


def _audited(terminals):
    """What is on the topic of the next run; every row that came is the next one of the file."""
    with Reader(there(terminals), "audit") as reader:
        try:
            start = reader.next_unreported(0)
        except StreamError:
            return "none"
        audit, silent = RunAudit(start), False
        while not audit.ended and not silent:
            records = reader.poll()
            audit.accept(records)
            silent = not records and reader.caught_up()
        reader.commit_reported(start.run_id)
    assert (audit.duplicate, audit.missing, audit.reordered) == (0, 0, 0)
    assert audit.received <= start.rows == 600
    return "not ended" if audit.end is None else "whole" if not audit.faults() else "broken"


# --- the topic ------------------------------------------------------------------------------------------------------


def test_a_topic_deleted_during_a_run_ends_both_with_a_line(terminals, day):
    producer = terminals.producer(day, *slowly(60))
    report = terminals.backtest("a", *QUICK, "--timeout", "1")
    wait_for(report, "reading run ")
    done_ = terminals.broker.tool("topics", "--delete", "--topic", terminals.topic)
    assert done_.returncode == 0, done_.stderr
    for process in (producer, report):
        _, err = done(process, code=1)
        line = err.splitlines()[-1]
        assert line.startswith(f"error: topic {terminals.topic} is not on the broker at ")
        assert "it was deleted while it was in use" in line
    assert list((terminals.folder / "a").iterdir()) == []


def delete_before(terminals, offset):
    admin = KafkaAdminClient(bootstrap_servers=terminals.broker.bootstrap)
    try:
        admin.delete_records({TopicPartition(terminals.topic, 0): offset}, timeout_ms=10_000)
    finally:
        admin.close()


def test_a_run_whose_beginning_was_deleted_is_not_whole_and_the_next_is(terminals, day, whole):
    sent(terminals, day, "cut")
    sent(terminals, day, "next")
    delete_before(terminals, 1_001)  # the start record and rows 0 to 999
    _, err = done(terminals.backtest("a", *QUICK), code=1)
    verified, verdict = err.splitlines()[-2:]
    assert verified == f"verified {GOOD - 1000}/{GOOD} rows, 0 duplicate, 1000 missing"
    assert verdict.startswith(f"error: run cut is not whole: 1000 rows missing before row {GOOD}; ")
    whole(terminals.backtest("b", *QUICK), "b")


def test_a_run_deleted_while_it_is_read_is_not_whole(terminals, day, whole):
    report = terminals.backtest("a", *QUICK, "--timeout", "4")
    wait_for(report, "waiting for a run")
    producer = terminals.producer(day, *slowly(5), "--run-id", "cut")
    wait_for(report, "reading run ")
    report.send_signal(signal.SIGSTOP)
    done(producer)
    delete_before(terminals, GOOD - 100)
    report.send_signal(signal.SIGCONT)
    _, err = done(report, code=1)
    assert "missing" in err.splitlines()[-2]
    assert "error: run cut is not whole: " in err.splitlines()[-1]
    sent(terminals, day, "next")
    whole(terminals.backtest("b", *QUICK), "b")


def test_an_emptied_topic_says_what_is_gone(terminals, day):
    sent(terminals, day, "gone")
    delete_before(terminals, GOOD + 2)
    _, err = done(terminals.backtest("a", *QUICK, "--timeout", "0.1"), code=1)
    assert f"within 0.1 s (the messages before offset {GOOD + 2} are deleted): start" in err.splitlines()[-1]


def test_a_topic_of_three_partitions_carries_runs_in_order(terminals, day, whole):
    words = ["--create", "--partitions", "3", "--topic", terminals.topic]
    assert terminals.broker.tool("topics", *words).returncode == 0
    done(terminals.producer(day))
    whole(terminals.backtest("a", *QUICK), "a")


# --- the disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_results_and_the_run_unreported(terminals, day, whole):
    sent(terminals, day, "one")
    whole(terminals.backtest("a", *QUICK), "a")
    old = {path.name: path.read_bytes() for path in (terminals.folder / "a").iterdir()}
    sent(terminals, day, "two")
    limit = 100_000  # bytes that a file may have: more than output.json, less than results.png
    small = "import resource, runpy, sys; sys.argv = sys.argv[1:]; " + (
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY})); "
        "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    _, err = done(
        terminals.start("backtest.py", "--out", terminals.folder / "a", *BACKTEST_FLAGS, python=[PY, "-c", small]), 1
    )
    assert err.splitlines()[-1] == f"error: {terminals.folder / 'a' / 'results.png'}: File too large"
    assert {path.name: path.read_bytes() for path in (terminals.folder / "a").iterdir()} == old
    whole(terminals.backtest("a", *QUICK), "a")
    assert terminals.output("a")["run"]["run_id"] == "two"


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(terminals, day):
    sent(terminals, day, "one")
    _, err = done(terminals.start("backtest.py", "--out", "/proc/self", *BACKTEST_FLAGS), code=2)
    assert err.startswith("error: out_path is '/proc/self': ")
    assert err.count("\n") == 1
    assert not is_reported(terminals)


# --- Ctrl-C and SIGTERM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_any_time_end_both_programs_cleanly(terminals, day, number):
    draw = random.Random(int(number))
    for _ in range(3):
        producer = terminals.producer(day, *slowly(3))
        report = terminals.backtest("a", *QUICK)
        for process in (report, producer):  # the other way round the report would be of a run that was aborted
            time.sleep(draw.uniform(0.1, 1.5))
            process.send_signal(number)
        for process in (producer, report):
            _, err = process.communicate(timeout=30)
            assert process.returncode in (128 + number, -number, 0), err  # the second: while the modules load
            assert "Traceback" not in err
            assert "Exception ignored" not in err
    assert list((terminals.folder / "a").glob(".*.tmp")) == [] if (terminals.folder / "a").exists() else True


@pytest.mark.parametrize(("number", "moment_s"), [(signal.SIGINT, 1.0), (signal.SIGTERM, 4.5), (signal.SIGINT, 7.0)])
def test_an_interrupted_make_run_stops_its_broker(tmp_path, day, kafka, number, moment_s):
    code = (
        "import sys; from pathlib import Path; from broker import pipeline; "
        f"sys.exit(pipeline.main([], folder=Path({str(tmp_path / 'kafka')!r})))"
    )
    port = free_port()
    environment = {
        **os.environ, "KAFKA_LISTEN": f"127.0.0.1:{port}", "SOR_CSV_PATH": str(day), "SOR_OUT_PATH": str(tmp_path / "out"),
        "SPEED": "60", "SOR_EVALUATE": "off",
    }  # fmt: skip
    environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    run = subprocess.Popen([PY, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(moment_s)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number, err
    assert "Traceback" not in err
    assert left_of(tmp_path) == []


def left_of(folder):
    """Processes that have the folder on their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line and int(pid) != os.getpid():
            found.append(line)
    return found
