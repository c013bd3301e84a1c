"""The child process in which providers are asked: time limits, death, concurrency, and what stays out of the parent."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from app import errors
from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
    UnknownSymbolError,
)
from app.providers.base import Quote
from app.providers.process import ProviderProcess, SyncProviderProcess
from app.settings import Settings
from tests.stub_worker import AT, LOADING_S, SLOW_S
from tests.yahoo import Yahoo, yahoo  # noqa: F401

SERVICE = Path(__file__).resolve().parents[1]
STUB = (sys.executable, str(SERVICE / "tests" / "stub_worker.py"))
SETTINGS = Settings(provider_timeout_seconds=5, provider_max_concurrency=2)
HEAVY = ("yfinance", "pandas", "numpy", "curl_cffi")

Start = Callable[..., SyncProviderProcess]


@pytest.fixture
def stub() -> Iterator[Start]:
    """A function that makes a process whose provider is the stub; its parameters are settings."""
    with contextlib.ExitStack() as stack:

        def make(**changes: object) -> SyncProviderProcess:
            process = SyncProviderProcess(replace(SETTINGS, **changes), command=STUB)
            stack.callback(process.close)
            return process

        yield make


@pytest.fixture
def process() -> Iterator[SyncProviderProcess]:
    """A process with the real providers."""
    started = SyncProviderProcess(SETTINGS)
    yield started
    started.close()


def failure(process: SyncProviderProcess, symbol: str, provider: str = "stub") -> ProviderError:
    """What the call fails with."""
    with pytest.raises(ProviderError) as caught:
        process.latest(provider, symbol)
    return caught.value


def wait_until(is_so: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_quote_comes_through_the_pipe_as_the_provider_made_it(stub: Start) -> None:
    quote = stub().latest("stub", "PLAIN")
    assert quote == Quote("PLAIN", "stub", Decimal("1.5"), AT, {"running": 1}, 200)
    assert (type(quote.price), quote.ts.utcoffset()) == (Decimal, datetime.timedelta(0))


def test_a_history_comes_through_the_pipe_in_order(stub: Start) -> None:
    start = datetime.datetime(2025, 6, 15, 22, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    quotes = stub().history("stub", "PLAIN", start)
    assert [quote.price for quote in quotes] == [1, 2, 3]
    assert quotes[0].ts == datetime.datetime(2025, 6, 15, 20, 1, tzinfo=datetime.timezone.utc)


def test_the_child_starts_with_the_first_call_and_is_kept(stub: Start) -> None:
    process = stub()
    assert process.pid is None
    process.latest("stub", "PLAIN")
    first = process.pid
    process.latest("stub", "PLAIN")
    assert process.pid == first is not None


@pytest.mark.parametrize(
    "kind", ["UnknownSymbolError", "ProviderTimeoutError", "ProviderNetworkError", "BadPriceError"]
)
def test_each_kind_of_error_comes_through_the_pipe(stub: Start, kind: str) -> None:
    error = failure(stub(), f"RAISE:{kind}")
    assert (type(error), error.provider, error.message) == (getattr(errors, kind), "stub", "as asked")


def test_a_rate_limit_keeps_the_wait_that_the_provider_named(stub: Start) -> None:
    error = failure(stub(), "RAISE:RateLimitedError")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == 7.5


def test_a_fault_of_a_library_is_a_provider_error_that_names_it(stub: Start) -> None:
    process = stub()
    assert str(failure(process, "BREAK")) == "stub: RuntimeError: a fault of the library"
    assert process.latest("stub", "PLAIN").price == Decimal("1.5")


def test_a_response_with_nan_is_an_error_and_not_broken_json(stub: Start) -> None:
    assert "not JSON compliant" in str(failure(stub(), "NAN"))


def test_a_price_of_a_time_yet_to_come_is_bad_for_it_would_stay_the_newest(stub: Start) -> None:
    process = stub()
    assert isinstance(failure(process, "AHEAD:330"), BadPriceError)
    assert process.latest("stub", "AHEAD:270").price == Decimal("1.5"), "a clock may go a little fast"


def test_what_libraries_print_or_read_does_not_touch_the_pipes(stub: Start, capfd: pytest.CaptureFixture[str]) -> None:
    process = stub()
    quotes = [process.latest("stub", symbol) for symbol in ("PRINT", "PLAIN", "PRINT")]
    assert quotes[0].body == {"running": 1, "stdin": ""}
    out, err = capfd.readouterr()
    assert (out, err.count("noise of a library"), err.count("noise of C code")) == ("", 2, 2)


def test_an_unknown_provider_is_named_with_those_there_are(process: SyncProviderProcess) -> None:
    assert (
        failure(process, "AAPL", "bloomberg").message == "there is no such provider; it must be one of yfinance, replay"
    )


def test_a_bad_replay_file_is_told_to_the_caller(tmp_path: Path) -> None:
    process = SyncProviderProcess(replace(SETTINGS, replay_file=str(tmp_path / "none.csv")))
    assert "REPLAY_FILE" in str(failure(process, "AAPL", "replay"))
    process.close()


def test_a_replay_file_is_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.csv").write_text("symbol,ts,price\nX,2025-06-15T20:30:27Z,3.25\n")
    monkeypatch.chdir(tmp_path)
    process = SyncProviderProcess(replace(SETTINGS, replay_file="own.csv"))
    assert process.latest("replay", "X").price == Decimal("3.25")
    process.close()


def test_at_most_the_set_number_of_calls_run_at_once(stub: Start) -> None:
    process = stub(provider_max_concurrency=3)
    process.latest("stub", "PLAIN")
    began = time.monotonic()
    calls = [process.submit("latest", "stub", "SLOW") for _ in range(12)]
    running = [call.result()[0].body["running"] for call in calls]
    assert max(running) == 3
    assert 4 * SLOW_S <= time.monotonic() - began < 12 * SLOW_S


def test_a_call_that_hangs_fails_in_time_and_does_not_hold_up_others(stub: Start) -> None:
    process = stub(provider_timeout_seconds=0.6)
    process.latest("stub", "PLAIN")
    pid, began = process.pid, time.monotonic()
    hanging = process.submit("latest", "stub", "HANG")
    assert process.latest("stub", "PLAIN").price == Decimal("1.5")
    with pytest.raises(ProviderTimeoutError, match=r"^stub: no answer within 0\.6 s$"):
        hanging.result()
    assert 0.6 <= time.monotonic() - began < 1.5
    assert process.pid == pid


def test_a_child_in_which_all_calls_hang_is_ended_and_the_next_call_gets_a_new_one(stub: Start) -> None:
    process = stub(provider_timeout_seconds=0.6)
    process.latest("stub", "PLAIN")
    first = process.pid
    hanging = [process.submit("latest", "stub", "HANG") for _ in range(2)]
    assert [type(call.exception()) for call in hanging] == [ProviderTimeoutError] * 2
    assert process.latest("stub", "PLAIN").price == Decimal("1.5")
    assert process.pid != first
    wait_until(lambda: not is_running(first))


def test_time_spent_waiting_for_a_place_counts(stub: Start) -> None:
    process = stub(provider_max_concurrency=1, provider_timeout_seconds=0.6)
    process.latest("stub", "PLAIN")
    began = time.monotonic()
    calls = [process.submit("latest", "stub", symbol) for symbol in ("HANG", "PLAIN")]
    assert [type(call.exception()) for call in calls] == [ProviderTimeoutError] * 2
    assert time.monotonic() - began < 1.2


def test_the_import_of_a_heavy_library_is_not_counted(stub: Start) -> None:
    process = stub(provider_timeout_seconds=LOADING_S / 2)
    assert process.latest("heavy", "PLAIN").price == Decimal("1.5")


def test_after_the_import_the_limit_holds(stub: Start) -> None:
    process = stub(provider_timeout_seconds=0.5)
    began = time.monotonic()
    assert isinstance(failure(process, "HANG", "heavy"), ProviderTimeoutError)
    assert time.monotonic() - began < LOADING_S + 0.5 + 1.5


def test_killed_in_a_call_the_caller_is_told_and_the_next_call_starts_a_new_child(stub: Start) -> None:
    process = stub()
    process.latest("stub", "PLAIN")
    first = process.pid
    call = process.submit("latest", "stub", "HANG")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ProviderNetworkError, match=r"^stub: its process was ended by signal 9 \(Killed\)$"):
        call.result()
    assert process.latest("stub", "PLAIN").price == Decimal("1.5")
    assert process.pid != first


def test_killed_while_idle_the_next_call_is_not_lost(stub: Start) -> None:
    process = stub()
    process.latest("stub", "PLAIN")
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: process.pid is None)
    assert process.latest("stub", "PLAIN").price == Decimal("1.5")


def test_calls_that_wait_survive_the_death_of_the_child(stub: Start) -> None:
    process = stub(provider_max_concurrency=1)
    calls = [process.submit("latest", "stub", symbol) for symbol in ("DIE", "PLAIN", "DIE", "PLAIN")]
    ends = [call.exception() for call in calls]
    assert [str(end) for end in ends[::2]] == ["stub: its process ended with exit code 3"] * 2
    assert ends[1::2] == [None, None]


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (("/does/not/exist",), "its process did not start: [Errno 2] No such file or directory: '/does/not/exist'"),
        ((sys.executable, "-c", "raise SystemExit(7)"), "its process ended with exit code 7"),
    ],
)
def test_a_child_that_cannot_start_fails_the_call_and_is_not_tried_for_ever(
    command: tuple[str, ...], cause: str
) -> None:
    process = SyncProviderProcess(SETTINGS, command=command)
    assert failure(process, "PLAIN").message == cause
    assert failure(process, "PLAIN").message == cause
    process.close()


def test_ctrl_c_is_left_to_the_parent(stub: Start) -> None:
    process = stub()
    process.latest("stub", "PLAIN")
    call = process.submit("latest", "stub", "SLOW")
    os.kill(process.pid, signal.SIGINT)
    assert call.result()[0].price == Decimal("1.5")


def test_closing_ends_the_child_and_its_calls_at_once(stub: Start) -> None:
    process = stub()
    process.latest("stub", "PLAIN")
    pid = process.pid
    calls = [process.submit("latest", "stub", "HANG") for _ in range(5)]
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 1.0
    assert {str(call.exception()) for call in calls} == {"stub: this program is shutting down"}
    assert not is_running(pid)
    assert failure(process, "PLAIN").message == "this program is shutting down"


def test_closing_while_the_child_starts_leaves_nothing_behind(stub: Start) -> None:
    before = {child.pid for child in psutil.Process().children()}
    process = stub()
    call = process.submit("latest", "stub", "PLAIN")
    process.close()
    assert isinstance(call.exception(), ProviderNetworkError)
    wait_until(lambda: {child.pid for child in psutil.Process().children()} <= before)


def test_the_childs_temporary_files_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = SyncProviderProcess(SETTINGS)
    process.latest("replay", "AAPL")
    assert len(list(tmp_path.iterdir())) == 1
    process.close()
    assert list(tmp_path.iterdir()) == []


PARENT = """
import sys, threading, time
from app.providers.process import SyncProviderProcess
from app.settings import Settings
process = SyncProviderProcess(Settings(), command=(sys.executable, "tests/stub_worker.py"))
thread = threading.Thread(target=process.latest, args=("stub", "PLAIN"))
thread.start(), thread.join()
process.submit("latest", "stub", "HANG")
print(process.pid, flush=True)
time.sleep(60)
"""


def test_the_child_ends_when_its_parent_is_killed_and_not_with_the_thread_that_asked(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=SERVICE,
        env=os.environ | {"PYTHONPATH": ".", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))


IMPORTS = """
import json, os, sys
import psutil
from app.settings import Settings
from app.providers.process import SyncProviderProcess
before = psutil.Process().memory_info().rss
process = SyncProviderProcess(Settings())
quote = process.latest("yfinance", "AAPL")
print(json.dumps({
    "price": str(quote.price), "modules": sorted(sys.modules), "grown": psutil.Process().memory_info().rss - before,
    "child": psutil.Process(process.pid).memory_info().rss,
}))
process.close()
"""


def test_yahoo_is_asked_without_its_libraries_in_the_parent(yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.price("AAPL", 196.45)
    environment = os.environ | {"PYTHONPATH": "."}
    command = [sys.executable, "-c", IMPORTS]
    told = json.loads(subprocess.run(command, cwd=SERVICE, env=environment, capture_output=True, check=True).stdout)
    assert told["price"] == "196.450000"
    assert not {name.partition(".")[0] for name in told["modules"]} & set(HEAVY)
    assert told["grown"] < 5 * 2**20
    assert told["child"] < 200 * 2**20


def test_what_yahoo_answers_comes_through_the_child(process: SyncProviderProcess, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.answer("TSLA", "429")
    yahoo.answer("NONE", "404")
    yahoo.price("AAPL", 196.45)
    limited = failure(process, "TSLA", "yfinance")
    assert isinstance(limited, RateLimitedError)
    assert limited.retry_after_s == 30.0
    assert isinstance(failure(process, "NONE", "yfinance"), UnknownSymbolError)
    assert process.latest("yfinance", "AAPL").price == Decimal("196.450000")


def test_yahoo_is_asked_by_no_more_than_the_set_number_at_once(process: SyncProviderProcess, yahoo: Yahoo) -> None:  # noqa: F811
    yahoo.slow_s = 0.2
    symbols = [f"SLOW{n}" for n in range(6)]
    for symbol in symbols:
        yahoo.answer(symbol, "slow")
    prices = [call.result()[0].symbol for call in [process.submit("latest", "yfinance", each) for each in symbols]]
    assert prices == symbols
    assert yahoo.most_at_once == 2


def test_a_slow_yahoo_ends_in_time_and_keeps_the_child(yahoo: Yahoo) -> None:  # noqa: F811
    process = SyncProviderProcess(replace(SETTINGS, provider_timeout_seconds=3.0))
    process.latest("yfinance", "AAPL")
    pid = process.pid
    yahoo.answer("TSLA", "slow")
    calls = [process.submit("latest", "yfinance", "TSLA") for _ in range(4)]
    assert {type(call.exception()) for call in calls} == {ProviderTimeoutError}
    assert process.latest("yfinance", "AAPL").symbol == "AAPL"
    assert process.pid == pid
    process.close()


def test_many_threads_at_once_get_each_their_own_answer(process: SyncProviderProcess, yahoo: Yahoo) -> None:  # noqa: F811
    symbols = [f"S{n}" for n in range(20)]
    for n, symbol in enumerate(symbols, 1):
        yahoo.price(symbol, n)
    prices: dict[str, Decimal] = {}
    threads = [
        threading.Thread(target=lambda each: prices.update({each: process.latest("yfinance", each).price}), args=[each])
        for each in symbols
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert prices == {symbol: Decimal(n) for n, symbol in enumerate(symbols, 1)}


def test_asyncio_callers_share_the_child_and_one_may_give_up() -> None:
    async def run() -> tuple[list[Decimal], bool]:
        process = ProviderProcess(SETTINGS, command=STUB)
        tasks = [asyncio.create_task(process.latest("stub", "SLOW")) for _ in range(6)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        quotes = await asyncio.gather(*tasks[1:])
        history = await process.history("stub", "PLAIN", AT)
        await process.close()
        return [quote.price for quote in [*quotes, *history]], tasks[0].cancelled()

    prices, is_cancelled = asyncio.run(run())
    assert prices == [Decimal("1.5")] * 5 + [1, 2, 3]
    assert is_cancelled


def test_the_event_loop_goes_on_while_a_provider_is_asked() -> None:
    async def run() -> int:
        process = ProviderProcess(SETTINGS, command=STUB)
        call = asyncio.create_task(process.latest("stub", "SLOW"))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        await process.close()
        return ticks

    assert asyncio.run(run()) >= 10
