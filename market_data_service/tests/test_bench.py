"""scripts/bench.py: each benchmark runs, small, and notices a wrong answer; how figures are compared and told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import Program
from servers import reachable_folder

from app.database import Connection
from app.kafka import Publisher
from app.settings import Settings
from benchmarks import backlog, cached, jobs, latency, load, memory, misses, relay, run, series
from benchmarks.stage import BenchError, Scale, Stage, WrongAnswerError, alternate, check, median_ratio
from benchmarks.table import Row, text
from broker.processes import command_line
from local import SERVICE
from local.kafka import LocalBroker

TINY = Scale(
    rounds=1, loads=1, load_s=1, history=300, events=1_500, stream_s=1.0, misses=15, jobs=60, jobs_s=1.0
)  # fmt: skip
BENCH = "scripts/bench.py"


@pytest.fixture(scope="module")
def stage(kafka: LocalBroker) -> Iterator[Stage]:
    """Servers of the benchmarks: a PostgreSQL of their own, and the run's Kafka."""
    with reachable_folder("bench") as folder, Stage(folder, TINY, broker=kafka) as made:
        yield made


@pytest.fixture
def wrk() -> None:
    try:
        load.program()
    except BenchError as error:
        pytest.skip(str(error))


@contextmanager
def noticed(what: str) -> Iterator[None]:
    """The block must find a wrong answer, and say this."""
    with pytest.raises(WrongAnswerError, match=what):
        yield


def spoilt(spoil: str, what: str, compare: Callable[..., Any]) -> Callable[..., Any]:
    """`compare`, which must find nothing, but `what` once the statement `spoil` was executed; that is undone."""

    def twice(*given: Any) -> Any:
        found = compare(*given)
        db = next(each for each in given if isinstance(each, Connection.__origin__))
        with db.transaction(force_rollback=True):
            assert db.execute(spoil).rowcount == 1
            with noticed(what):
                compare(*given)
        return found

    return twice


def test_cached_a_wrong_body_and_a_miss_are_noticed(stage: Stage, wrk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    put = load.put
    wrongs = [(" ", ""), ("", "!")]  # added to the body and to the X-Cache that are expected

    def and_wrongly(url: str, body: str, seconds: int, x_cache: str) -> load.Load:
        while wrongs:
            more_body, more_cache = wrongs.pop()
            with noticed("answers were wrong"):
                put(url, body + more_body, seconds, x_cache + more_cache)
        return put(url, body, seconds, x_cache)

    monkeypatch.setattr(load, "put", and_wrongly)
    rate, p99, short = cached.rows(stage)
    assert (rate.name, short.name) == ("GET cached, 300 rows, 16 connections", "GET cached, 200 rows")
    assert rate.ratio
    assert p99.ratio
    assert rate.figures["cpu_us"]["long"][0] > 0


def test_cached_a_price_that_is_not_the_stored_one_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = cached.fill
    monkeypatch.setattr(cached, "fill", lambda *given: series.series(1)[0] if fill(*given) else None)
    with noticed("the API answers"), cached.serving(stage, 5):
        pass


def test_consumer_an_average_that_is_off_by_a_millionth_is_noticed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = "UPDATE moving_averages SET avg_price = avg_price + 0.000001 WHERE ctid = (SELECT min(ctid) FROM moving_averages)"
    monkeypatch.setattr(backlog, "compare", spoilt(off, "1 of 1300 averages are wrong", backlog.compare))
    rate, peak = backlog.rows(stage)
    assert rate.name == "consumer, backlog of 1,500 events, 50 symbols"
    assert len(rate.figures["events_per_s"]["ours"]) == 1
    assert 20 < peak.figures["mb"][0] < 200


def test_consumer_an_average_too_many_is_noticed(stage: Stage) -> None:
    prices = series.series(500)
    with stage.database() as name, backlog.open_database(stage.settings(name, with_kafka=False)) as db:
        series.fill_prices(db, prices)
        averages = series.averages_of(prices, 5)
        with noticed("300 of 300 averages are wrong"):
            backlog.compare(db, averages, 5)
        with noticed("the recomputation says"):
            backlog.compare(db, {}, 5)


def test_relay_a_message_that_comes_twice_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = relay.compare

    def twice(given: Settings, wanted: list) -> None:
        compare(given, wanted)
        for wrong in ([*wanted, wanted[0]], [*wanted[1:], wanted[1]], [*wanted[1:], wanted[0]]):
            with noticed("messages"):
                compare(given, wrong)
        with Publisher(given) as publisher:
            publisher.publish(wanted[:1])
        with noticed("1501 messages on the topic, not 1500"):
            compare(given, wanted)

    monkeypatch.setattr(relay, "compare", twice)
    (row,) = relay.rows(stage)
    assert row.name == "relay, 1,500 events in the outbox"
    assert row.ratio


def test_latency_a_wrong_average_and_a_wrong_message_are_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    off = "UPDATE moving_averages SET avg_price = 1 WHERE ctid = (SELECT min(ctid) FROM moving_averages)"
    monkeypatch.setattr(backlog, "compare", spoilt(off, "1 of 300 averages are wrong", backlog.compare))
    published = latency._published

    def twice(given: Settings, stream: list) -> dict:
        with noticed("messages"):
            published(given, stream[1:])
        with noticed("messages tell other prices"):
            published(given, [*stream[1:], series.series(1, seed=9)[0]])
        return published(given, stream)

    monkeypatch.setattr(latency, "_published", twice)
    monkeypatch.setattr(latency, "SLACK", 5)  # the machine that tests run on may be busy
    stored, sent = latency.rows(stage)
    assert stored.figures["p99_ms"][0] >= stored.figures["p50_ms"][0] > 0
    assert sent.name == "300 prices/s for 1 s: published to average, p99"


def test_misses_a_price_that_is_not_the_answered_one_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    off = "UPDATE market_prices SET price = price + 1 WHERE id = (SELECT min(id) FROM market_prices)"
    monkeypatch.setattr(misses, "compare", spoilt(off, "60 prices were answered", misses.compare))
    (row,) = misses.rows(stage)
    assert row.name == "GET miss, Kafka killed"
    assert set(row.figures["p50_ms"]) == {"up", "down"}
    assert stage.kafka.is_ready()


def test_memory_a_route_that_fails_is_noticed(stage: Stage, wrk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use = memory.use_everything

    def twice(base: str) -> None:
        use(base)
        with monkeypatch.context() as other:
            other.setattr(memory, "PLACES", ("/prices/latest?symbol=NONE&provider=replay",))
            with noticed("answers 404"):
                use(base)

    monkeypatch.setattr(memory, "use_everything", twice)
    (row,) = memory.rows(stage)
    figures = row.figures
    assert 20 < figures["bare_mb"] < figures["api_mb"] < 300
    assert figures["child_mb"] > 60, "yfinance is not loaded"


def test_jobs_a_slot_that_is_leased_twice_is_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    again = "INSERT INTO bench_leases SELECT * FROM bench_leases LIMIT 1"
    monkeypatch.setattr(jobs, "compare", spoilt(again, "of 60 jobs: .'leases': 61, 'slots': 60", jobs.compare))
    (row,) = jobs.rows(stage)
    assert row.name == "scheduler of 2 pollers, 60 jobs in 1 s, none leased twice"
    assert row.figures["processes"][0] >= row.figures["scheduler"][0] >= 0


def test_a_machine_without_wrk_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "UNPACKED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="wrk is missing") as raised:
        load.program.__wrapped__()
    assert raised.value.exit_code == 1


def test_a_wrong_answer_is_a_row_of_the_table_and_an_exit_code(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(run.BENCHES, "relay", lambda _: check(False, "2 messages are wrong"))
    found = run.measured(stage, "relay")
    assert run.report(found, "2 cores") == 1
    assert "| relay     | wrong: 2 messages are wrong |" in capsys.readouterr().out


def test_the_exit_code_is_0_if_all_bars_are_met() -> None:
    met = Row("a", "1", "", None, "", True)
    assert [run.report([met], ""), run.report([met, Row("b", "1", "", None, "", False)], "")] == [0, 1]


def test_the_table_is_aligned() -> None:
    rows = [Row("first", "1,000/s", "bare 2,000/s", 0.5, ">= 0.4x", True), Row("2", "1 MB", "", None, "<= 2 MB", False)]
    assert text(rows).splitlines() == [
        "| benchmark | ours    | beside it    | ratio | bar     | met |",
        "| --------- | ------- | ------------ | ----- | ------- | --- |",
        "| first     | 1,000/s | bare 2,000/s | 0.50  | >= 0.4x | yes |",
        "| 2         | 1 MB    |              |       | <= 2 MB | NO  |",
    ]


def test_sides_take_turns_and_a_ratio_is_of_the_same_round() -> None:
    turns: list[str] = []
    found = alternate(3, a=lambda: turns.append("a"), b=lambda: turns.append("b"))
    assert "".join(turns) == "abbaab"
    assert found == {"a": [None] * 3, "b": [None] * 3}
    assert median_ratio([1.0, 10.0, 300.0], [2.0, 20.0, 100.0]) == 0.5


def test_the_averages_that_must_come_out_are_by_definition() -> None:
    prices = series.series(6, symbols=1)
    exact = [each.price for each in prices]
    mean = [(sum(exact[start : start + 5]) / 5).quantize(Decimal("0.000001")) for start in (0, 1)]
    assert list(series.averages_of(prices, 5).values()) == mean
    assert series.averages_of(prices[:4], 5) == {}


def test_the_docs_name_every_benchmark() -> None:
    page = (SERVICE / "docs" / "benchmarks.md").read_text()
    assert [name for name in run.BENCHES if f"| `{name}` |" not in page] == []


def test_bench_says_what_it_does_and_what_is_wrong(tmp_path: Path) -> None:
    def ended(*words: str) -> tuple[int, str]:
        line = [sys.executable, BENCH, *words]
        done = subprocess.run(line, cwd=SERVICE, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    code, told = ended("--help")
    assert (code, "--quick" in told, "--only" in told, "--json" in told) == (0, True, True, True)
    code, told = ended("--only", "nothing")
    assert (code, told.count("\n")) == (2, 1)
    assert told.startswith("error: argument --only: invalid choice: 'nothing'")
    code, told = ended("--json", f"{tmp_path}/none/figures.json")
    assert (code, told) == (2, f"error: --json is {tmp_path}/none/figures.json; {tmp_path}/none must be a folder\n")


def test_bench_that_is_ended_leaves_nothing_running(
    start: Callable[..., Program], database_settings: Settings, eventually: Callable[..., Any]
) -> None:
    bench = start(BENCH, "--quick", "--only", "jobs", settings=database_settings, TMPDIR="/tmp")
    eventually(lambda: any("poller.py" in command_line(each.pid) for each in _family(bench)))
    family = _family(bench)
    assert bench.stop(60) == 143
    eventually(lambda: not [each.pid for each in family if command_line(each.pid)])


def _family(program: Program) -> list[psutil.Process]:
    return psutil.Process(program.pid).children(recursive=True)


def test_what_is_kept_as_json_holds_every_round() -> None:
    row = Row("a", "1", "", 0.5, "", True, {"events_per_s": {"ours": [1.0, 2.0]}})
    assert json.loads(json.dumps(run.kept([row], "2 cores", TINY)))["rows"][0]["figures"] == row.figures
