"""Verification and the doctor against the real broker, and the log of a broker that was killed."""

import json
import sys

from broker.local import LocalBroker
from tests.integration.terminals import done


def doctor(terminals):
    """The doctor's findings on broker and topic."""
    process = terminals.start("backtest.py", "--doctor", "--log-json")
    out, err = process.communicate(timeout=60)
    assert err == ""
    found = {each["name"]: each for each in map(json.loads, out.splitlines())}
    return found["broker"]["status"], found["topic"]


def test_a_report_made_from_kafka_is_equal_to_what_the_file_gives_and_the_doctor_sees_the_runs(terminals, day):
    status, topic = doctor(terminals)
    assert (status, topic["status"]) == ("ok", "ok")
    assert "is not there yet" in topic["found"]
    for _ in range(2):
        done(terminals.producer(day))
    aborted = terminals.producer(day, "--speed", "1", "--run-id", "aborted")
    while "1 broken or unfinished" not in (topic := doctor(terminals)[1])["found"]:
        assert aborted.poll() is None
    aborted.kill()
    assert ": 2 whole and 1 broken or unfinished runs, 3 of them not reported by group backtest, " in topic["found"]
    done(terminals.backtest("out"))
    assert "2 of them not reported" in doctor(terminals)[1]["found"]
    report = str(terminals.folder / "out" / "output.json")
    out, _ = done(terminals.start("backtest.py", "--verify", report, "--csv", day))
    assert out.startswith(f"equal: {report} is what {day} gives, ")


def test_the_log_of_a_broker_that_was_killed_is_still_there_after_its_next_start(tmp_path):
    with LocalBroker(tmp_path, port=0, host="127.0.0.1", say=lambda line: print(line, file=sys.stderr)) as broker:
        first = broker.kafka.log_file.read_text()
        broker.kill()
        broker.start()
        kept = broker.kafka.log_file.with_name("kafka.log.1").read_text()
        assert kept.startswith(first)
        assert broker.kafka.log_file.read_text() not in kept
