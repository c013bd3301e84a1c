"""The two terminals for real: kafka_producer.py and backtest.py as processes around a broker, in the ways people start them."""

import json
import signal
import time

import pytest

from tests.integration.terminals import ROWS, Terminals, but_run, done, wait_for


def test_two_terminals_in_either_order_three_times_in_a_row_give_six_right_runs(either_kafka, terminals, day):
    done(terminals.backtest("csv", "--csv", day))
    expected = terminals.output("csv")
    assert expected["data"]["rows"] == ROWS - 1
    assert expected["data"]["rejects"] == {"unknown_action": {"count": 1, "first_line": ROWS + 1}}
    runs = []
    for i in range(3):
        backtest = terminals.backtest(f"first{i}", PYTHONHASHSEED=str(i))
        wait_for(backtest, "waiting for a run")
        done(terminals.producer(day, PYTHONHASHSEED=str(i)))
        done(backtest)
        runs.append(terminals.output(f"first{i}"))
    for i in range(3):
        done(terminals.producer(day))
        done(terminals.backtest(f"second{i}"))
        runs.append(terminals.output(f"second{i}"))
    assert len({output["run"]["run_id"] for output in runs}) == 6
    assert {output["run"]["transport"] for output in runs} == {"kafka"}
    assert all(output["run"]["whole"] for output in runs)
    assert {but_run(output) for output in runs} == {but_run(expected)}
    assert all(list(output) == list(expected) for output in runs)


def test_a_run_is_reported_only_once_output_json_is_there(terminals, day):
    done(terminals.producer(day, "--run-id", "one"))
    (terminals.folder / "a" / "output.json").mkdir(parents=True)  # a folder where the file must be
    _, err = done(terminals.backtest("a"), code=1)
    assert err.splitlines()[-1].startswith("error: ")
    backtest = terminals.backtest("b")
    wait_for(backtest, "reading run one")
    backtest.kill()
    backtest.wait()
    done(terminals.backtest("c"))
    assert terminals.output("c")["run"]["run_id"] == "one"
    done(terminals.backtest("d", "--timeout", "0.5"), code=1)


def test_a_producer_killed_with_9_leaves_a_run_that_is_not_whole_and_the_next_is_clean(terminals, day):
    producer = terminals.producer(day, "--run-id", "broken", "--speed", "1", "--max-gap", "0.01")
    backtest = terminals.backtest("a", "--timeout", "2")
    wait_for(backtest, "reading run broken")
    time.sleep(0.5)
    producer.kill()
    _, err = done(backtest, code=1)
    verdict = err.splitlines()[-1]
    assert verdict.startswith("error: run broken is not whole: no end record after ")
    assert not (terminals.folder / "a" / "output.json").exists()
    done(terminals.producer(day, "--run-id", "clean"))
    done(terminals.backtest("b"))
    assert terminals.output("b")["run"]["run_id"] == "clean"
    done(terminals.backtest("c", "--run-id", "broken", "--allow-partial", "--timeout", "0.5"))
    partial = terminals.output("c")
    assert partial["run"]["whole"] is False
    assert 0 < partial["data"]["rows"] == partial["run"]["counts"]["rows"] < ROWS - 1


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_producer_says_so_on_the_topic(terminals, day, number, word):
    producer = terminals.producer(day, "--run-id", "stopped", "--speed", "1", "--max-gap", "0.05")
    backtest = terminals.backtest("a")
    wait_for(backtest, "reading run stopped")
    time.sleep(0.3)
    producer.send_signal(number)
    _, err = done(producer, code=128 + number)
    assert err.splitlines()[-1] == word
    _, err = done(backtest, code=1)
    assert "run stopped is not whole: aborted by the producer: " in err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backtest_leaves_the_run_unreported(terminals, day, number):
    waiting = terminals.backtest("a")
    wait_for(waiting, "waiting for a run")
    time.sleep(0.3)
    waiting.send_signal(number)
    done(waiting, code=128 + number)
    done(terminals.producer(day))
    done(terminals.backtest("b"))
    assert terminals.output("b")["run"]["whole"]


def test_a_broker_killed_with_9_in_mid_stream_and_restarted_loses_nothing(either_kafka, terminals, day):
    done(terminals.backtest("csv", "--csv", day))
    producer = terminals.producer(day, "--run-id", "through", "--speed", "1", "--max-gap", "0.005")
    backtest = terminals.backtest("a")
    wait_for(backtest, "reading run through")
    either_kafka.kill()
    time.sleep(1)
    assert producer.poll() is None, "the run was over before the broker was killed"
    either_kafka.start()
    done(producer)
    done(backtest)
    through = terminals.output("a")
    assert through["run"]["whole"]
    assert but_run(through) == but_run(terminals.output("csv"))


def test_a_broker_that_does_not_come_back_fails_both_loudly(tmp_path, day, topic, kafka):
    from broker.local import LocalBroker

    with LocalBroker(tmp_path / "broker", port=0, libs=kafka.libs) as broker:
        terminals = Terminals(broker, topic, tmp_path)
        try:
            producer = terminals.producer(day, "--speed", "1", "--max-gap", "0.01")
            backtest = terminals.backtest("a", "--timeout", "1")
            wait_for(backtest, "reading run ")
            broker.kill()
            time.sleep(0.5)
            producer.send_signal(signal.SIGINT)
            _, err = done(backtest, code=1)
            assert err.splitlines()[-1].startswith("error: no Kafka broker answers at ")
            _, err = done(producer, code=130)
            assert "the end of the run could not be announced" in err
        finally:
            terminals.end()


def test_two_producers_at_once_are_reported_one_after_the_other(terminals, day):
    slow = ["--speed", "1", "--max-gap", "0.0003"]
    both = [terminals.producer(day, "--run-id", name, *slow) for name in ("left", "right")]
    for producer in both:
        done(producer)
    outputs = []
    for out in ("a", "b"):
        done(terminals.backtest(out))
        outputs.append(terminals.output(out))
    assert {output["run"]["run_id"] for output in outputs} == {"left", "right"}
    assert outputs[0]["run"]["counts"]["foreign"] > 0
    assert but_run(outputs[0]) == but_run(outputs[1])


def test_the_console_consumer_shows_the_messages(terminals, day, kafka):
    done(terminals.producer(day, "--run-id", "shown"))
    words = ["--from-beginning", "--max-messages", "3", "--timeout-ms", "20000", "--property", "print.headers=true"]
    lines = kafka.tool("console-consumer", "--topic", terminals.topic, *words).stdout.splitlines()
    assert lines[0].startswith('run:shown,record:start\t{"run_id":"shown","file":"morning.csv","sha256":"')
    assert lines[1].startswith('run:shown,row:0\t{"ts_event":"2024-')
    assert lines[2].startswith('run:shown,row:1\t{"ts_event":"2024-')


def test_stdout_holds_the_four_sections_and_nothing_else(terminals, day):
    done(terminals.producer(day))
    out, err = done(terminals.backtest("a"))
    sections = json.loads(out)
    assert list(sections) == ["best_parameters", "optimized", "baselines", "savings_vs_baselines_bps"]
    assert sections == {name: terminals.output("a")[name] for name in sections}
    assert "reading: 100%" in err
    assert "shares, " in err  # the running totals
    assert "clairvoyant (floor)" in err


def test_show_prints_every_timestamp_once(terminals, day):
    done(terminals.producer(day))
    out, _ = done(terminals.backtest("a", "--show"))
    text, _, rest = out.partition("{")
    lines = text.splitlines()
    stamps = [line.split()[0] for line in lines]
    assert len(stamps) > 500
    assert stamps[0].startswith("2024-")
    assert json.loads("{" + rest)
