"""app/service.py: what a program does with its flags, its settings, signals, its port, and a database that is not there (yet)."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import urllib.request

import psycopg
import pytest
from databases import new_database

from app import service
from app.errors import ServiceError, SettingsError
from app.service import Heart, Stop, Stopped
from app.settings import Settings
from scripts.create_tables import create_tables

PROGRAM = """
import sys, time
from app import service
def work(settings, stop, flags):
    print("begun", flush=True)
    {body}
    print("ended", flush=True)
sys.exit(service.main("test", "A program of the tests.", work, []))
"""
IDLES = "stop.wait(60)"
HANGS = "[time.sleep(60) for _ in range(9)]"


def run(work, *words: str, **more) -> int:
    return service.main("test", "A program of the tests.", work, list(words), **more)


# --- stop ------------------------------------------------------------------------------------------------------------


def test_a_wait_ends_at_once_when_stop_is_set():
    stop = Stop()
    began = time.monotonic()
    threading.Timer(0.1, stop.set).start()
    assert stop.wait(30) is True
    assert time.monotonic() - began < 5
    assert stop.is_set()
    assert stop.wait(30) is True
    assert stop.wait(None) is True


def test_a_wait_without_stop_takes_its_time():
    stop = Stop()
    began = time.monotonic()
    assert stop.wait(0.05) is False
    assert time.monotonic() - began >= 0.05
    assert stop.wait(-1) is False


def test_setting_it_many_times_never_blocks():
    stop = Stop()
    for _ in range(100_000):
        stop.set()
    assert stop.is_set()


# --- main ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def as_before(tmp_path, monkeypatch):
    """Programs run in this process find no .env of a user, and the log is pytest's again afterwards."""
    monkeypatch.chdir(tmp_path)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_the_exit_code_is_what_work_returns_and_0_where_it_returns_nothing():
    assert run(lambda settings, stop, flags: None) == 0
    assert run(lambda settings, stop, flags: 5) == 5


def test_work_gets_settings_and_its_own_flags(monkeypatch):
    monkeypatch.setenv("MA_WINDOW", "7")
    got = []
    code = run(
        lambda settings, stop, flags: got.append((settings.ma_window, flags.most)),
        *("--most", "3"),
        add_flags=lambda parser: parser.add_argument("--most", type=int),
    )
    assert (code, got) == (0, [(7, 3)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError("it is broken"), 1),
        (SettingsError("MA_WINDOW is 0"), 2),
        (psycopg.errors.UndefinedTable('relation "outbox" does not exist\nLINE 1'), 1),
        (Stopped(), 0),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, capsys):
    def work(settings, stop, flags):
        raise error

    assert run(work) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == (1 if code else 0)
    assert err.startswith("error: ") == bool(code)


def test_a_bad_setting_ends_the_program_before_any_work(monkeypatch, capsys):
    monkeypatch.setenv("PRICE_MAX_AGE_SECONDS", "soon")
    assert run(lambda settings, stop, flags: pytest.fail("it worked")) == 2
    assert capsys.readouterr().err.startswith("error: PRICE_MAX_AGE_SECONDS is 'soon'; it must be a number")


@pytest.mark.parametrize("words", [["--nonsense"], ["word"]])
def test_a_flag_that_does_not_exist_is_one_line_and_exit_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda settings, stop, flags: None, *words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help_is_the_text_of_the_program(capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda settings, stop, flags: None, "--help")
    assert ended.value.code == 0
    assert "A program of the tests." in capsys.readouterr().out


def test_logs_go_to_stderr_in_utc_with_the_program_s_name(capsys):
    run(lambda settings, stop, flags: service.log.info("hello"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("Z test INFO hello\n")


# --- the metrics port ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_metrics_are_served_while_it_works_and_not_after(monkeypatch):
    port = free_port()
    monkeypatch.setenv("METRICS_PORT", str(port))
    address, got = f"http://127.0.0.1:{port}/metrics", []

    def work(settings, stop, flags):
        with urllib.request.urlopen(address, timeout=5) as answer:
            got.append(answer.read().decode())

    assert run(work) == 0
    assert "python_gc_objects_collected_total" in got[0]
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free again


def test_a_taken_metrics_port_is_one_line_and_exit_2(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("METRICS_PORT", str(port))
        assert run(lambda settings, stop, flags: pytest.fail("it worked")) == 2
    assert capsys.readouterr().err == (
        f"error: METRICS_PORT: 127.0.0.1:{port} cannot be listened on: Address already in use\n"
    )


def test_a_tool_runs_beside_the_program_that_has_the_metrics_port(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("METRICS_PORT", str(taken.getsockname()[1]))
        assert service.main("tool", "A tool.", lambda settings, stop, flags: 7, [], has_metrics=False) == 7


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(start):
    """A function that starts a program whose work is `body`."""

    def begin(body: str, before: str = ""):
        begun = start("-c", before + PROGRAM.format(body=body), settings=Settings(), PYTHONPATH=".")
        begun.wait_for("begun")
        return begun

    return begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_it_end_with_0(program, number):
    begun = program(IDLES)
    os.kill(begun.pid, number)
    assert begun.finish(10) == 0
    assert (begun.out, begun.err) == ("begun\nended\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_it_at_once(program, number, code):
    begun = program(HANGS)
    os.kill(begun.pid, number)
    time.sleep(0.3)
    assert begun.is_running
    os.kill(begun.pid, number)
    assert begun.finish(2) == code
    assert begun.out == "begun\n"


def test_a_program_that_does_not_come_to_an_end_is_ended(program):
    begun = program(HANGS, before="from app import service; service.SHUTDOWN_S = 0.5")
    os.kill(begun.pid, signal.SIGTERM)
    assert begun.finish(5) == 1
    assert "error: did not stop within" in begun.err
    assert "Traceback" not in begun.err


def test_signals_are_the_caller_s_again_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run(lambda settings, stop, flags: None)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# --- the database ----------------------------------------------------------------------------------------------------


def stop_after(seconds: float) -> Stop:
    stop = Stop()
    timer = threading.Timer(seconds, stop.set)
    timer.daemon = True
    timer.start()
    return stop


def test_without_a_database_it_waits_says_so_once_and_shows_no_password(caplog):
    away = Settings(postgres_port=free_port(), postgres_password="geheim")
    with pytest.raises(Stopped):
        service.connect(away, stop_after(1.5), "test")
    (told,) = [record.getMessage() for record in caplog.records if record.name == "app.service"]
    assert told.startswith("database: connection failed")
    assert told.endswith("waiting for it")
    assert "geheim" not in caplog.text


def test_it_waits_for_the_tables_too(postgres, caplog):
    with new_database(postgres) as url:
        given, got = Settings(given_database_url=url), []
        waits = threading.Thread(target=lambda: got.append(service.connect(given, stop_after(30), "test")))
        waits.start()
        time.sleep(0.5)
        assert got == []
        assert "scripts/create_tables.py" in caplog.text
        create_tables(url)
        waits.join(20)
        with contextlib.closing(got[0]) as connection:
            assert connection.execute("SELECT count(*) AS n FROM heartbeats").fetchone() == {"n": 0}


def test_a_loop_gets_a_new_connection_when_its_own_was_cut(db, database_settings):
    pids = []

    def loop(connection):
        pids.append(connection.info.backend_pid)
        if len(pids) < 3:
            db.execute("SELECT pg_terminate_backend(%s)", (pids[-1],))
            connection.execute("SELECT 1")

    service.keep_connected(database_settings, Stop(), "test", loop)
    assert len(set(pids)) == 3


def test_a_statement_that_takes_too_long_is_tried_again(database_settings):
    times = []

    def loop(connection):
        times.append(time.monotonic())
        if len(times) == 1:
            connection.execute("SET statement_timeout = '10ms'")
            connection.execute("SELECT pg_sleep(5)")

    service.keep_connected(database_settings, Stop(), "test", loop)
    assert len(times) == 2
    assert times[1] - times[0] >= service.AGAIN_S


def test_a_wrong_statement_is_not_an_absent_database(database_settings):
    with pytest.raises(psycopg.errors.UndefinedTable):
        service.keep_connected(
            database_settings, Stop(), "test", lambda connection: connection.execute("TABLE nowhere")
        )


# --- heartbeats ------------------------------------------------------------------------------------------------------


def beats(db) -> list[dict]:
    return db.execute("SELECT name, instance, details, beat_at FROM heartbeats ORDER BY instance").fetchall()


def test_a_heart_beats_every_two_seconds_at_most(db, database_settings, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    heart = Heart("poller", database_settings)
    heart.beat(db, running=1)
    (first,) = beats(db)
    assert (first["name"], first["instance"], first["details"]) == ("poller", heart.instance, {"running": 1})
    clock[0] += 1.9
    heart.beat(db, running=2)
    assert beats(db) == [first]
    clock[0] += 0.2
    heart.beat(db, running=3)
    (second,) = beats(db)
    assert second["details"] == {"running": 3}
    assert second["beat_at"] > first["beat_at"]


def test_each_process_has_its_own_row_and_removes_it_when_it_ends(db, database_settings):
    one, two = Heart("poller", database_settings), Heart("poller", database_settings)
    one.beat(db)
    two.beat(db)
    assert len(beats(db)) == 2
    one.end(db)
    assert [row["instance"] for row in beats(db)] == [two.instance]


def test_rows_of_processes_that_are_long_dead_are_removed(db, database_settings):
    db.execute(
        "INSERT INTO heartbeats (name, instance, beat_at) VALUES ('relay', 'dead', now() - interval '25 hours'), "
        "('relay', 'quiet', now() - interval '23 hours')"
    )
    heart = Heart("poller", database_settings)
    heart.beat(db)
    assert {row["instance"] for row in beats(db)} == {"quiet", heart.instance}


def test_a_process_that_slept_for_days_beats_again(db, database_settings, monkeypatch):
    heart = Heart("poller", database_settings)
    heart.beat(db)
    db.execute("UPDATE heartbeats SET beat_at = now() - interval '3 days'")
    later = time.monotonic() + service.BEAT_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    heart.beat(db)
    (row,) = db.execute("SELECT now() - beat_at < interval '1 minute' AS is_new FROM heartbeats").fetchall()
    assert row["is_new"]
