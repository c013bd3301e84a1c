"""The API as a program: `uvicorn app.main:app --reload` and `python -m app.main`, good and bad settings, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from local.postgres import EmbeddedPostgres
from tests.programs import Program
from tests.serving import free_port, hung, listener
from tests.yahoo import Yahoo

SERVICE = Path(__file__).resolve().parents[1]
MODULE = ("-m", "app.main")
UVICORN = ("-m", "uvicorn", "app.main:app")

Start = Callable[..., Program]


def serve(start: Start, settings: Settings, **environment: str) -> tuple[Program, str]:
    """`python -m app.main` on a free port, and its address."""
    port = free_port()
    program = start(*MODULE, settings=settings, API_PORT=str(port), **environment)
    program.wait_for("serving on")
    return program, f"http://127.0.0.1:{port}"


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """A call that goes on in a thread; what it returned, or raised, is the list's one element later."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except httpx.HTTPError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_it_is_imported_with_nothing_running_and_with_settings_that_are_wrong() -> None:
    heavy = ("kafka", "pandas", "numpy", "sqlalchemy", "yfinance", "sor", "broker")
    code = f"import sys, json, app.main; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    wrong = {"API_PORT": "x", "DATABASE_URL": "mysql://", "KAFKA_BOOTSTRAP_SERVERS": "nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SERVICE, env=os.environ | wrong, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


def test_the_seeds_command_serves(start: Start, database_settings: Settings) -> None:
    port = free_port()
    program = start(*UVICORN, "--reload", "--port", str(port), settings=database_settings)
    program.wait_for("Application startup complete")
    assert httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"}
    assert httpx.get(f"http://127.0.0.1:{port}/prices/latest?symbol=AAPL&provider=replay").status_code == 200
    program.process.send_signal(signal.SIGINT)
    assert program.finish() in (0, 130, -signal.SIGINT)
    assert "Traceback" not in program.err


@pytest.mark.parametrize("words", [MODULE, UVICORN], ids=["python -m app.main", "uvicorn"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("PRICE_MAX_AGE_SECONDS", "soon"), ("API_PORT", "70000"), ("DATABASE_URL", "mysql://x"), ("MA_WINDOW", "0")],
)
def test_a_bad_setting_is_one_line_and_exit_code_2(start: Start, words: tuple[str, ...], name: str, value: str) -> None:
    program = start(*words, settings=Settings(), **{name: value})
    assert program.finish() == 2
    errors = [line for line in program.err.splitlines() if not line.startswith("INFO")]  # uvicorn's own
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {name} is ")
    assert program.out == ""


def test_a_taken_port_is_one_line_and_exit_code_2(start: Start) -> None:
    with listener() as taken:
        port = taken.getsockname()[1]
        program = start(*MODULE, settings=Settings(), API_PORT=str(port))
        assert program.finish() == 2
    assert program.err == f"error: API_PORT: 127.0.0.1:{port} cannot be listened on: Address already in use\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_ends_it_with_0(
    start: Start, database_settings: Settings, yahoo: Yahoo, number: signal.Signals
) -> None:  # fmt: skip
    yahoo.slow_s = 1.5
    program, address = serve(start, database_settings)
    assert httpx.get(f"{address}/prices/latest?symbol=AAPL", timeout=60).status_code == 200
    yahoo.answer("TSLA", "slow")
    thread, found = in_thread(lambda: httpx.get(f"{address}/prices/latest?symbol=TSLA", timeout=20).status_code)
    time.sleep(0.5)
    began = time.monotonic()
    program.process.send_signal(number)
    assert program.finish() == 0
    thread.join()
    assert found == [200]
    assert time.monotonic() - began < 10
    assert "Traceback" not in program.err


def test_a_second_signal_ends_it_at_once(start: Start, database_settings: Settings, yahoo: Yahoo) -> None:
    yahoo.slow_s = 8
    yahoo.answer("TSLA", "slow")
    program, address = serve(start, database_settings)
    thread, found = in_thread(lambda: httpx.get(f"{address}/prices/latest?symbol=TSLA", timeout=20))
    time.sleep(0.5)
    began = time.monotonic()
    program.process.terminate()
    time.sleep(0.3)
    assert program.is_running
    program.process.terminate()
    assert program.finish() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    thread.join()
    assert isinstance(found[0], httpx.HTTPError)


def test_neither_a_slow_provider_nor_a_hung_database_keeps_it_from_ending(
    start: Start, database_settings: Settings, postgres: EmbeddedPostgres, yahoo: Yahoo
) -> None:  # fmt: skip
    yahoo.slow_s = 30
    yahoo.answer("TSLA", "slow")
    program, address = serve(start, database_settings, PROVIDER_TIMEOUT_SECONDS="60")
    assert httpx.get(f"{address}/prices/poll").status_code == 200
    threads = [in_thread(lambda: httpx.get(f"{address}/prices/latest?symbol=TSLA", timeout=30))[0]]
    time.sleep(0.5)
    with hung(postgres):
        for path in ("/prices/latest?symbol=AAPL", "/prices/poll"):
            threads.append(in_thread(lambda path=path: httpx.get(address + path, timeout=30))[0])
        time.sleep(0.2)
        began = time.monotonic()
        program.process.terminate()
        code = program.finish()
        assert time.monotonic() - began < 10
    assert code == 0
    for thread in threads:
        thread.join()


def test_a_killed_program_leaves_no_child_and_no_lock_and_the_next_one_fetches(
    start: Start, database_settings: Settings, db, yahoo: Yahoo, eventually
) -> None:  # fmt: skip
    yahoo.slow_s = 20
    yahoo.answer("TSLA", "slow")
    program, address = serve(start, database_settings)
    thread, _ = in_thread(lambda: httpx.get(f"{address}/prices/latest?symbol=TSLA", timeout=20))
    own = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    locks = f"SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = {own}"
    eventually(lambda: db.execute(locks).fetchall())
    program.kill()
    thread.join()
    eventually(lambda: not db.execute(locks).fetchall(), 5)
    yahoo.answer("TSLA", "normal")
    _, address = serve(start, database_settings)
    assert httpx.get(f"{address}/prices/latest?symbol=TSLA", timeout=60).headers["X-Cache"] == "MISS"


def test_it_starts_without_a_database_and_answers_once_there_is_one(
    start: Start, database_settings: Settings, postgres: EmbeddedPostgres, eventually
) -> None:
    postgres.kill()
    _, address = serve(start, database_settings)
    assert httpx.get(f"{address}/ready").status_code == 503
    postgres.start()
    eventually(lambda: httpx.get(f"{address}/ready").status_code == 200, 5)


def test_its_memory_stays_under_100_mb(start: Start, database_settings: Settings) -> None:
    program, address = serve(start, database_settings)
    with httpx.Client(base_url=address) as client:
        for _ in range(500):
            assert client.get("/prices/latest?symbol=AAPL&provider=replay").status_code == 200
            with suppress(httpx.HTTPError):
                client.get("/prices/history?symbol=AAPL&provider=replay")
    status = Path(f"/proc/{program.pid}/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    assert peak_kb < 100_000


def test_what_goes_wrong_with_the_database_is_logged_once_and_without_the_password(start: Start) -> None:
    away = Settings(given_database_url="postgresql://someone:hunter2@127.0.0.1:1/none")
    program, address = serve(start, away)
    for _ in range(20):
        assert httpx.get(f"{address}/prices/poll").status_code == 503
    assert len([line for line in program.err.splitlines() if "WARNING" in line]) == 1
    assert "hunter2" not in program.err + program.out
    assert "Traceback" not in program.err
