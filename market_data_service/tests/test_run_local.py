"""scripts/run_local.py: everything comes up, answers, and is gone afterwards, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import Program
from servers import reachable_folder

from app.errors import SettingsError
from app.settings import Settings
from broker import ports
from local import SERVICE, run

SCRIPT = "scripts/run_local.py"
NAMES = ("API_PORT", "POSTGRES_PORT", "KAFKA_PORT", "ZOOKEEPER_PORT")
UP_S, DOWN_S = 180.0, 60.0
Run = Callable[..., Program]
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a run keeps its data."""
    with reachable_folder("run-local") as made:
        yield made


@pytest.fixture
def free() -> dict[str, str]:
    """Free ports for everything, as environment variables."""
    first = next(p for p in iter(ports.free_port, None) if not any(ports.is_taken("127.0.0.1", p + n) for n in (1, 2)))
    return {name: str(ports.free_port()) for name in NAMES} | {"METRICS_PORT": str(first)}


@pytest.fixture
def run_local(folder: Path, free: dict[str, str], start: Callable[..., Program]) -> Run:
    """A function that starts the script with servers of its own, on free ports."""

    def begin(*words: str, **environment: str) -> Program:
        return start(SCRIPT, "--dir", str(folder), *words, settings=Settings(), **unset(), **free | environment)

    return begin


@pytest.fixture
def run_beside(folder: Path, free: dict[str, str], settings: Settings, start: Callable[..., Program]) -> Run:
    """The same with the database and the Kafka of the test."""

    def begin(*words: str, **environment: str) -> Program:
        return start(SCRIPT, "--dir", str(folder), *words, settings=settings, **free | environment)

    return begin


def unset() -> dict[str, str]:
    """An empty variable is one that is not set."""
    return dict.fromkeys(("DATABASE_URL", "POSTGRES_HOST", "POSTGRES_PASSWORD", "KAFKA_BOOTSTRAP_SERVERS"), "")


def is_up(program: Program) -> str:
    """Wait until it has printed its addresses; the API's."""
    program.wait_for("Ctrl-C stops everything", UP_S)
    return re.search(r"^API\s+(\S+)", program.out, re.MULTILINE)[1]


def ask(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    try:
        with _DIRECT.open(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def family(pid: int) -> list[psutil.Process]:
    """A process's descendants, which are those of the run."""
    return psutil.Process(pid).children(recursive=True)


def named(program: Program, words: str) -> psutil.Process:
    """The one descendant with these words on its command line."""
    (found,) = [each for each in family(program.pid) if words in " ".join(each.cmdline())]
    return found


def all_gone(processes: list[psutil.Process], timeout_s: float = DOWN_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_everything_comes_up_answers_as_the_seed_says_and_is_gone_after_sigterm(
    run_local: Run, folder: Path, free: dict[str, str], start: Callable[..., Program]
) -> None:
    program = run_local("--replay")
    api = is_up(program)
    assert api == f"http://127.0.0.1:{free['API_PORT']}"
    assert ask(f"{api}/health") == (200, {"status": "ok"})
    assert ask(f"{api}/ready")[1]["status"] == "ready"

    code, price = ask(f"{api}/prices/latest?symbol=AAPL&provider=yfinance")
    assert (code, list(price)) == (200, ["symbol", "price", "timestamp", "provider"])
    assert (price["symbol"], price["provider"]) == ("AAPL", "yfinance")
    code, job = ask(f"{api}/prices/poll", {"symbol": "AAPL", "interval_minutes": 60, "provider": "yfinance"})
    assert code == 202
    assert job["message"] == "Polling job scheduled for symbol: AAPL"

    assert "POSTGRES_PASSWORD is not set: one was made up" in program.err
    kept = folder / "postgres.password"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() not in program.out + program.err
    assert f"127.0.0.1:{free['POSTGRES_PORT']}, database marketdata" in program.out
    assert f"127.0.0.1:{free['KAFKA_PORT']}, topic price-events" in program.out

    again = start(SCRIPT, "--dir", str(folder), settings=Settings(), **unset(), **free)
    assert again.finish() == 2
    assert again.err == f"error: a service of {folder} is running already; another one: --dir\n"

    processes = family(program.pid)
    assert len(processes) >= 8  # PostgreSQL with its own, Kafka, API, relay, consumer, poller, stand-in
    assert program.stop(DOWN_S) == 0
    assert all_gone(processes, 5)
    assert "killed" not in program.err
    assert not any(ports.is_taken("127.0.0.1", int(port)) for port in free.values())


def test_what_a_killed_run_has_left_is_stopped_and_its_prices_are_kept(run_local: Run) -> None:
    first = run_local()
    api = is_up(first)
    price = ask(f"{api}/prices/latest?symbol=AAPL&provider=replay")[1]
    servers = [named(first, "/bin/postgres -D"), named(first, "local.kafka.role=kafka")]
    programs = [named(first, words) for words in ("app.main", "outbox_relay", "kafka_consumer", "poller.py")]
    first.kill()
    assert all_gone(programs)
    assert all(server.is_running() for server in servers)

    second = run_local()
    api = is_up(second)
    assert all_gone(servers, 5)
    assert second.err.count("left by a run that was killed") == 2
    assert "POSTGRES_PASSWORD is not set" not in second.err  # the one that is kept was taken
    status, history = ask(f"{api}/prices/history?symbol=AAPL&provider=replay")
    assert status == 200
    assert price["price"] in [each["price"] for each in history["prices"]]

    processes = family(second.pid)
    named(second, "/bin/postgres -D").kill()
    assert second.finish(DOWN_S) == 1
    second.wait_for("error: PostgreSQL ended; the end of its log:")
    assert all_gone(processes, 5)


def test_zookeeper_mode_comes_up_too(run_local: Run, free: dict[str, str]) -> None:
    program = run_local("--mode", "zookeeper")
    api = is_up(program)
    assert ask(f"{api}/ready")[1]["status"] == "ready"
    assert ports.is_taken("127.0.0.1", int(free["ZOOKEEPER_PORT"]))
    processes = family(program.pid)
    assert program.stop(DOWN_S) == 0
    assert all_gone(processes, 5)


def test_servers_that_are_there_are_used_and_none_is_started(run_beside: Run, settings: Settings) -> None:
    program = run_beside()
    api = is_up(program)
    assert ask(f"{api}/ready")[1]["status"] == "ready"
    assert "starting" not in program.err
    assert f"Kafka       {settings.kafka_bootstrap_servers}, topic {settings.kafka_topic}" in program.out
    assert "PostgreSQL  the one of DATABASE_URL" in program.out
    assert settings.database_url not in program.out + program.err

    processes = family(program.pid)
    program.process.send_signal(signal.SIGINT)
    assert program.finish(DOWN_S) == 130
    assert all_gone(processes, 5)


def test_a_program_that_ends_by_itself_is_named_and_everything_stops(run_beside: Run) -> None:
    program = run_beside()
    is_up(program)
    processes = family(program.pid)
    named(program, "kafka_consumer").kill()
    assert program.finish(DOWN_S) == 1
    assert re.search(r"^error: consumer was ended by SIGKILL; the end of its log:$", program.err, re.MULTILINE)
    assert all_gone(processes, 5)


def test_a_database_that_cannot_be_reached_is_one_line(run_beside: Run) -> None:
    program = run_beside(DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/x")
    assert program.finish(DOWN_S) == 1
    assert re.search(r"^error: .*port 1 failed.*$", program.err, re.MULTILINE)
    assert "secret" not in program.err
    assert "Traceback" not in program.err


def test_a_second_signal_waits_for_nothing(run_beside: Run) -> None:
    program = run_beside()
    is_up(program)
    processes = family(program.pid)
    named(program, "app.main").suspend()  # it would not end
    program.process.terminate()
    time.sleep(1.0)
    assert program.is_running
    asked = time.monotonic()
    program.process.terminate()
    assert program.finish(DOWN_S) == 128 + signal.SIGTERM
    assert time.monotonic() - asked < 5
    assert all_gone(processes, 5)


@pytest.mark.parametrize("name", [*NAMES, "METRICS_PORT"])
def test_a_taken_port_is_one_line_that_names_it_and_its_holder(run_local: Run, name: str, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        program = run_local("--mode", "zookeeper", **{name: str(port)})
        assert program.finish() == 2
    line = program.err.splitlines()[-1]
    assert re.fullmatch(rf"error: port {port} is taken by pid {os.getpid()} \(.*\); another one: {name}", line)
    assert not (folder / "kafka").exists()
    assert not (folder / "postgres").exists()


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        ([], {"API_PORT": "0"}, "error: API_PORT is '0'; it must be a whole number from 1 to 65535"),
        ([], {"KAFKA_PORT": "x"}, "error: KAFKA_PORT is 'x'; it must be a whole number from 1 to 65533"),
        ([], {"METRICS_PORT": "65535"}, "error: METRICS_PORT is '65535'; it must be a whole number from 1 to 65533"),
        (["--mode", "raft"], {}, "error: argument --mode: invalid choice: 'raft'"),
    ],
)
def test_wrong_usage_is_one_line(run_local: Run, words: list[str], environment: dict[str, str], line: str) -> None:
    program = run_local(*words, **environment)
    assert program.finish() == 2
    assert program.err.startswith(line)
    assert program.err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run.main("", ["--dir", str(tmp_path / "file" / "folder")]) == 2
    assert capsys.readouterr().err == f"error: --dir: {tmp_path / 'file' / 'folder'} cannot be made: Not a directory\n"


def test_a_stand_in_needs_the_packages_of_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(run.UsageError, match=r"needs the packages of requirements-dev\.txt"):
        run.Local(plan_of(tmp_path, settings))._start_stand_in()


def plan_of(folder: Path, settings: Settings, **changes: Any) -> run.Plan:
    plan = run.Plan(settings, folder, False, False, "kraft", 9092, 2181, 9101, False)
    return replace(plan, **changes)


def test_only_what_is_started_here_needs_its_port_free(tmp_path: Path) -> None:
    def names(**changes: Any) -> list[str]:
        return [name for name, _, _ in plan_of(tmp_path, Settings(), **changes).ports]

    metrics = ["METRICS_PORT"] * 3
    assert names() == ["API_PORT", *metrics]
    assert names(own_postgres=True) == ["API_PORT", "POSTGRES_PORT", *metrics]
    assert names(own_kafka=True) == ["API_PORT", "KAFKA_PORT", *metrics]
    assert names(own_kafka=True, mode="zookeeper") == ["API_PORT", "KAFKA_PORT", "ZOOKEEPER_PORT", *metrics]


def test_programs_get_the_addresses_and_the_password_of_our_own_servers(tmp_path: Path) -> None:
    asked = Settings(kafka_security_protocol="SSL", postgres_user="me", postgres_port=5999)
    plan = plan_of(tmp_path, asked, own_postgres=True, own_kafka=True, kafka_port=9192)
    given = run.Local(plan).given
    password = (tmp_path / "postgres.password").read_text()
    assert len(password) >= 20
    assert run.Local(plan).given == given
    assert given.database_url == f"postgresql://me:{password}@127.0.0.1:5999/marketdata"
    assert (given.kafka_bootstrap_servers, given.kafka_security_protocol) == ("127.0.0.1:9192", "PLAINTEXT")
    assert run.Local(replace(plan, own_postgres=False, own_kafka=False)).given == asked


def test_every_program_has_its_turn_at_the_end() -> None:
    names = [name for stage in run.STAGES for name in stage]
    assert sorted(names) == sorted(["api", run.STAND_IN, *run.WORKERS])
    assert names[-2:] == ["consumer", run.STAND_IN]  # what reads what others still write


def test_the_seeds_ports_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SERVICE", tmp_path)  # no .env of the user
    for name in ("KAFKA_PORT", "ZOOKEEPER_PORT"):
        monkeypatch.delenv(name, raising=False)
    asked = run.plan(run._parser("").parse_args(["--mode", "zookeeper"]))
    assert [port for _, _, port in asked.ports] == [8000, 5432, 9092, 2181, 9101, 9102, 9103]
    assert asked.folder == SERVICE / ".local"


def test_a_server_of_dotenv_is_used_and_an_empty_line_means_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SERVICE", tmp_path)
    (tmp_path / ".env").write_text("POSTGRES_HOST=db.example\nKAFKA_BOOTSTRAP_SERVERS=\nKAFKA_PORT=9192\n")
    asked = run.plan(run._parser("").parse_args([]))
    assert (asked.own_postgres, asked.own_kafka, asked.kafka_port) == (False, True, 9192)
    monkeypatch.setenv("KAFKA_PORT", "70000")
    with pytest.raises(SettingsError, match="KAFKA_PORT is '70000'"):
        run.plan(run._parser("").parse_args([]))
