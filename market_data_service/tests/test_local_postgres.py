"""The embedded PostgreSQL: crash and restart, who may log in, ports, where data go, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from servers import reachable_folder

from broker.errors import AlreadyRunningError, PortTakenError
from local import SERVICE, account
from local.account import Account, PostgresError, programs
from local.postgres import EmbeddedPostgres

PASSWORD = "p@ss:w/o%rd 'x"
SYMBOLS = ["BRK-B", "BRK.B", "BRKA", "^GSPC", "A", "EURUSD=X", "brk.b", "Ä"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder("embedded") as made:
        yield made


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(folder, password=PASSWORD, user="who@x", database="Market Data", fsync=False)
    with made:
        yield made


def answer(url: str, statement: str) -> object:
    """The first column of the first row; commits."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        row = connection.execute(statement).fetchone()
    return row[0] if row else None


def processes_of(server: EmbeddedPostgres) -> list[int]:
    """What runs with the server's data on its command line, or is a child of that."""
    found = [each for each in psutil.process_iter(["cmdline"]) if str(server.data) in (each.info["cmdline"] or [])]
    return [each.pid for parent in found for each in (parent, *parent.children(recursive=True))]


def keep_a_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")


def test_committed_rows_survive_a_kill_and_the_port_stays(server: EmbeddedPostgres) -> None:
    keep_a_row(server)
    port, killed = server.port, processes_of(server)
    server.kill()
    assert len(killed) > 1
    assert (server.is_running, processes_of(server)) == (False, [])
    server.start()
    assert (server.port, answer(server.url, "SELECT value FROM kept")) == (port, 42)


def test_a_kill_of_the_parent_process_alone_can_be_followed_by_a_start_at_once(server: EmbeddedPostgres) -> None:
    keep_a_row(server)
    with psycopg.connect(server.url):  # a client whose backend has to notice
        os.kill(server.pid, signal.SIGKILL)
        while server.is_running:
            pass
        server.start()
    assert answer(server.url, "SELECT value FROM kept") == 42


def test_a_stop_disconnects_clients_and_a_start_finds_the_rows(server: EmbeddedPostgres) -> None:
    keep_a_row(server)
    with psycopg.connect(server.url) as client:
        assert server.stop().startswith("postgres: stopped (pid ")
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    assert (server.stop(), processes_of(server)) == (None, [])
    server.start()
    assert answer(server.url, "SELECT value FROM kept") == 42


def test_a_pid_file_that_names_another_program_by_now_does_not_matter(server: EmbeddedPostgres) -> None:
    server.kill()
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"], **Account.for_data(server.data).popen) as other:  # of the same user
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert not server.is_running
        server.start()
        assert answer(server.url, "SELECT 1") == 1
        assert other.poll() is None
        other.kill()


def test_only_the_password_lets_in_and_only_over_tcp_on_loopback(server: EmbeddedPostgres) -> None:
    assert answer(server.url, "SHOW listen_addresses") == "127.0.0.1"
    assert answer(server.url, "SHOW unix_socket_directories") == ""
    rules = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
    assert answer(server.url, rules) == "scram-sha-256"
    for password in ("wrong", ""):
        other = EmbeddedPostgres(server.folder, password=password, user=server.user, port=server.port)
        with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|no password supplied"):
            psycopg.connect(other.url_of("postgres"))


def test_symbols_sort_by_their_characters_whatever_the_machine(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        rows = connection.execute(
            "SELECT symbol FROM unnest(%s::text[]) AS t (symbol) ORDER BY 1", [SYMBOLS]
        ).fetchall()
    assert [row[0] for row in rows] == sorted(SYMBOLS)
    assert answer(server.url, "SHOW server_encoding") == "UTF8"
    assert answer(server.url, "SHOW timezone") == "UTC"


def test_memory_is_held_small_and_commits_wait_for_the_disk_unless_told_otherwise(server: EmbeddedPostgres) -> None:
    assert answer(server.url, "SHOW shared_buffers") == "32MB"
    assert answer(server.url, "SHOW fsync") == "off"
    server.stop()
    with EmbeddedPostgres(server.folder, password=PASSWORD, user=server.user) as other:
        assert answer(other.url, "SHOW fsync") == "on"
        assert answer(other.url, "SHOW synchronous_commit") == "on"


def test_a_taken_port_is_one_line_that_names_its_holder(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        server = EmbeddedPostgres(folder, password="x", port=port)
        with pytest.raises(PortTakenError, match=rf"^port {port} is taken by pid {os.getpid()} ") as caught:
            server.start()
    assert (caught.value.exit_code, "\n" in str(caught.value), server.is_running) == (2, False, False)


def test_a_second_start_on_the_folder_is_refused(server: EmbeddedPostgres) -> None:
    other = EmbeddedPostgres(server.folder, password=PASSWORD)
    assert other.pid == server.pid
    with pytest.raises(AlreadyRunningError, match=rf"running already, pid {server.pid}"):
        other.start()
    assert answer(server.url, "SELECT 1") == 1


def test_another_object_can_stop_what_the_folder_runs(server: EmbeddedPostgres) -> None:
    pid = server.pid
    assert EmbeddedPostgres(server.folder, password="whatever").stop() == f"postgres: stopped (pid {pid})"
    assert not server.is_running


def test_data_of_another_password_are_said_to_be_so(server: EmbeddedPostgres) -> None:
    server.stop()
    other = EmbeddedPostgres(server.folder, password="another", user=server.user)
    with pytest.raises(PostgresError, match="made with another POSTGRES_USER or POSTGRES_PASSWORD") as caught:
        other.start()
    assert "another'" not in str(caught.value)
    assert not other.is_running


def test_a_cluster_that_cannot_be_made_leaves_no_data(folder: Path) -> None:
    with pytest.raises(PostgresError, match=r'^initdb failed: .*"pg_x"'):
        EmbeddedPostgres(folder, password="x", user="pg_x").start()
    assert [path.name for path in folder.iterdir() if path.name != "postgres.log"] == []


def test_a_server_that_ends_at_once_is_reported_with_its_log(server: EmbeddedPostgres) -> None:
    server.stop()
    (server.data / "postgresql.conf").write_text("max_connections = none\n")
    with pytest.raises(PostgresError, match=r"did not start; the end of its log:\n.*max_connections"):
        server.start()


def test_no_server_is_left_when_the_program_ends_without_stopping_it(folder: Path) -> None:
    script = f"""
from local.postgres import EmbeddedPostgres
server = EmbeddedPostgres({str(folder)!r}, password="x", fsync=False)
server.start()
print(server.pid, flush=True)
raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SERVICE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert not psutil.pid_exists(int(done.stdout))


def test_client_programs_speak_to_the_server(server: EmbeddedPostgres) -> None:
    keep_a_row(server)
    assert server.tool("psql", "-Atc", "SELECT value FROM kept") == "42\n"
    assert server.tool("psql", "-At", stdin="SELECT 1 + 1;", database="postgres") == "2\n"
    with pytest.raises(PostgresError, match=r'^psql failed: .*"nothing" does not exist') as caught:
        server.tool("psql", "-Atc", "SELECT * FROM nothing")
    assert PASSWORD not in str(caught.value)


# --- whom it runs as, and where ------------------------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What stands for /var/lib/market_data_service."""
    with reachable_folder("shared") as made:
        monkeypatch.setattr(account, "SHARED", made / "below")
        yield made / "below"


def test_data_of_a_private_folder_of_root_are_kept_elsewhere_and_found_again(shared: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path / "deep" / "postgres", password="x", fsync=False)
    with server:
        keep_a_row(server)
        private_to_root = os.geteuid() == 0
        assert (server.folder / "data").is_symlink() == private_to_root
        assert server.data.is_relative_to(shared if private_to_root else tmp_path)
        assert psutil.Process(server.pid).uids().real != 0
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    again = EmbeddedPostgres(server.folder, password="x", fsync=False)
    with again:
        assert answer(again.url, "SELECT value FROM kept") == 42
    again.remove()
    assert not again.folder.exists()
    assert not list(shared.glob("data-*"))


def test_programs_out_of_reach_are_copied_once_and_work_there(
    shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaches = Account.reaches
    monkeypatch.setattr(Account, "reaches", lambda self, path: path.name != account.INSTALLED and reaches(self, path))
    with EmbeddedPostgres(folder, password="x", fsync=False) as server:
        first = programs(Account.for_data(server.data))
        assert first.is_relative_to(shared)
        assert psutil.Process(server.pid).exe() == str(first / "postgres")
        assert server.tool("psql", "-Atc", "SELECT 1") == "1\n"
    (copy,) = shared.iterdir()
    made = copy.stat().st_ctime_ns
    assert programs(Account.for_data(server.data)) == first
    assert (list(shared.iterdir()), copy.stat().st_ctime_ns) == ([copy], made)


def test_a_copy_can_be_read_by_everybody_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir(mode=0o700)
    for name, mode in (("postgres", 0o700), ("postgres.bki", 0o600)):
        (tmp_path / "bin" / name).touch()
        (tmp_path / "bin" / name).chmod(mode)
    account._let_everybody_read(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"bin": 0o755, "postgres": 0o755, "postgres.bki": 0o644}


def test_without_the_package_the_newest_installed_postgresql_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "PACKAGE", "no_such_package")
    monkeypatch.setattr(account, "DEBIAN", tmp_path)
    with pytest.raises(PostgresError, match="programs not found; install the package no-such-package"):
        programs(Account())
    for version in ("9", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "postgres").touch()
    assert programs(Account()) == tmp_path / "15" / "bin"


def test_the_server_sees_none_of_the_secrets_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hidden")
    with EmbeddedPostgres(folder, password="x", fsync=False) as server:
        assert "KAFKA_SASL_PASSWORD" not in psutil.Process(server.pid).environ()
        assert PASSWORD not in " ".join(psutil.Process(server.pid).cmdline())
