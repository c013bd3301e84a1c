"""What is kept secret, what is refused before a broker is needed, and the audit of packages, as far as they need no Java."""

import json
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import config
from broker.local import LocalBroker
from broker.security import Vault, certificate_names, is_loopback, write_private
from sor import security
from sor.errors import UsageError
from sor.security import Password, Security
from sor.stream import Topic, topic_of
from tests import audit_packages

ROOT = Path(__file__).resolve().parent.parent
SECRET = "correct-horse-battery"
SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "sor", "KAFKA_SASL_PASSWORD": SECRET}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("KAFKA_")]:
        monkeypatch.delenv(name)


def run(*words, **changes):
    command = [sys.executable, *map(str, words)]
    env = {**os.environ, **changes}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


# --- who may reach the broker ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_is_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "no-such-host.invalid"])
def test_all_else_may_be_reached_by_others(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("command", ["start", "run"])
def test_an_open_listener_beyond_this_machine_is_refused_in_one_line(tmp_path, command):
    done = run("-m", "broker.local", command, "--dir", tmp_path / "k", KAFKA_LISTEN="0.0.0.0:19092")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "0.0.0.0:19092, which other machines may reach, without any password" in line
    assert "it must be 127.0.0.1, or --secure (users and TLS), or --insecure" in line
    assert not (tmp_path / "k").exists()


def test_make_run_refuses_it_too(tmp_path):
    call = "import sys; from pathlib import Path; from broker import pipeline; here = Path(sys.argv[1]); "
    call += "sys.exit(pipeline.main([], here, here / 'kafka'))"
    done = run("-c", call, tmp_path, KAFKA_LISTEN="0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "without any password" in done.stderr


@pytest.mark.parametrize("allowed", [{"secure": True}, {"insecure": True}, {"host": "127.0.0.1"}])
def test_secured_spelled_out_or_on_this_machine_it_may_listen(tmp_path, allowed):
    LocalBroker(tmp_path, **{"host": "0.0.0.0", **allowed})._check_exposure()


def test_status_and_stop_of_such_a_setting_are_not_refused(tmp_path):
    assert run("-m", "broker.local", "status", "--dir", tmp_path, KAFKA_LISTEN="0.0.0.0").returncode == 3
    assert run("-m", "broker.local", "stop", "--dir", tmp_path, KAFKA_LISTEN="0.0.0.0").returncode == 0


# --- passwords -------------------------------------------------------------------------------------------------------


def test_a_password_is_in_no_repr_and_no_text_of_settings():
    settings = config.settings("backtest", [], "", SASL)
    topic = topic_of(settings)
    assert settings.kafka_sasl_password == topic.security.password == SECRET
    for shown in (repr(settings), str(settings), repr(topic), str(topic), repr(topic.security), repr(topic.client)):
        assert SECRET not in shown
    assert topic.client["sasl_plain_password"] == SECRET
    assert f"{Password('x')!r}" == "'...'"


def test_a_password_has_no_flag():
    done = run("backtest.py", "--kafka-sasl-password", SECRET)
    assert done.returncode == 2
    assert "unrecognized arguments: --kafka-sasl-password" in done.stderr


def test_private_files_are_private_and_whole(tmp_path):
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_the_certificate_is_for_the_names_that_clients_use(tmp_path):
    assert certificate_names("10.1.2.3", "kafka.example.com") == {
        "localhost", "127.0.0.1", "::1", "10.1.2.3", "kafka.example.com"
    }  # fmt: skip


def copy_makefile(folder):
    """The Makefile, and the file that its targets depend on."""
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    (folder / "l1_day.csv").touch()


def test_make_shows_no_password_of_dotenv_and_hands_it_on(tmp_path):
    copy_makefile(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}={text}\n" for name, text in SASL.items()))
    for path, script in (("setup.sh", "exit 0"), (".venv/bin/python", 'echo "ran $*"; env >seen.txt')):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / path).chmod(0o755)
    for target in ("run", "broker-start", "broker-status"):
        done = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        assert "ran -m broker." in done.stdout
        assert SECRET not in done.stdout + done.stderr
        assert f"KAFKA_SASL_PASSWORD={SECRET}\n" in (tmp_path / "seen.txt").read_text()


def test_make_passes_the_form_of_the_broker_on(tmp_path):
    copy_makefile(tmp_path)
    for words, flag in ((["SECURE=1"], "--secure"), (["INSECURE=1"], "--insecure"), (["SECURE=0"], None)):
        command = ["make", "-n", "broker-start", *words]
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False).stdout
        (line,) = [line for line in shown.splitlines() if "broker.local start" in line]
        assert line.split()[-1] == (flag or "kraft")


def test_the_vault_hands_a_client_what_it_needs_and_nothing_of_admin(tmp_path):
    vault = Vault(tmp_path)
    vault.home.mkdir()
    write_private(vault.home / "passwords", "admin=a-secret\nsor=b-secret\n")
    environment = vault.client_environment("127.0.0.1:1")
    settings = config.settings("backtest", [], "", environment)
    assert (settings.kafka_sasl_username, settings.kafka_sasl_password) == ("sor", "b-secret")
    assert "a-secret" not in json.dumps(environment)


# --- what is said of a listener that does not understand us ------------------------------------------------------------


class Listener:
    """A listener that reads what comes and answers with the same bytes each time; then it closes, or waits."""

    def __init__(self, answer=b"", wait=False):
        self._answer, self._wait = answer, wait
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open = []

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            connection.recv(4096)
            connection.sendall(self._answer)
            if not self._wait:
                connection.close()


def handshake_answer(code, *mechanisms):
    text = b"".join(len(name).to_bytes(2, "big") + name.encode() for name in mechanisms)
    body = (7).to_bytes(4, "big") + code.to_bytes(2, "big") + len(mechanisms).to_bytes(4, "big") + text
    return len(body).to_bytes(4, "big") + body


def obstacle(server, protocol="PLAINTEXT", mechanism="SCRAM-SHA-512"):
    topic = Topic(server, "quotes", Security(protocol, mechanism, "sor", SECRET))
    found = topic.obstacle()
    return None if found is None else str(found)


def test_where_nobody_listens_nothing_is_said():
    assert obstacle("127.0.0.1:1") is None
    assert obstacle("no-such-host.invalid:9092") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\0\0\x05",
        (3).to_bytes(4, "big") + b"abc",
        (2**31 - 1).to_bytes(4, "big"),
        b"\0\0\0\x0a" + (7).to_bytes(4, "big") + b"\0\0\0\0\0\xff",
        b"\0\0\0\x0a" + (8).to_bytes(4, "big") + b"\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_a_listener_that_is_no_broker_is_left_to_the_client_to_report(answer, protocol):
    with Listener(answer) as server:
        assert obstacle(server, protocol) is None


def test_a_listener_that_keeps_silent_is_waited_for_only_so_long(monkeypatch):
    monkeypatch.setattr(security, "CONNECT_S", 0.2)
    with Listener(wait=True) as server:
        assert obstacle(server) is None
        assert obstacle(server, "SSL") is None


def test_tls_with_a_web_server_that_speaks_none_says_so():
    with Listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert obstacle(server, "SSL").startswith(f"TLS with the broker at {server} failed: ")


@pytest.mark.parametrize(
    ("protocol", "answer", "words"),
    [
        ("PLAINTEXT", handshake_answer(34), None),
        (
            "PLAINTEXT",
            handshake_answer(33, "PLAIN"),
            "asks for a login (PLAIN): set KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT",
        ),
        ("SASL_PLAINTEXT", handshake_answer(34), "asks for no login"),
        (
            "SASL_PLAINTEXT",
            handshake_answer(33, "PLAIN", "GSSAPI"),
            "does not offer SCRAM-SHA-512: set KAFKA_SASL_MECHANISM to PLAIN, GSSAPI",
        ),
    ],
)
def test_the_answer_to_our_way_of_logging_in_is_put_into_words(protocol, answer, words):
    with Listener(answer, wait=True) as server:
        found = obstacle(server, protocol)
    assert found is None if words is None else words in found


def test_one_server_that_understands_us_is_enough():
    with (
        Listener(handshake_answer(33, "PLAIN"), wait=True) as wrong,
        Listener(handshake_answer(34), wait=True) as right,
    ):
        assert obstacle(f"{wrong},{right}") is None
        assert obstacle(f"127.0.0.1:1,{wrong}").startswith(f"the broker at {wrong} asks for a login")


@pytest.mark.parametrize(
    "text", [None, "", "no certificate", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_file_that_is_none_is_wrong_usage(tmp_path, text):
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"kafka_ssl_cafile \(KAFKA_SSL_CAFILE\) is .* it must be a PEM file"):
        Security("SSL", ca_file=str(path)).tls_context()


def test_a_broker_that_tells_its_clients_a_dead_address_is_said_to():
    topic = Topic("broker.example.com:9092", "quotes")
    error = topic.led_astray(TimeoutError(), "127.0.0.1:1")
    assert str(error) == (
        "the broker at broker.example.com:9092 sends its clients on to 127.0.0.1:1 (its advertised.listeners), "
        "which does not answer (TimeoutError)"
    )


def test_certificates_are_checked_and_old_tls_is_not_spoken():
    context = Security("SSL").tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# --- the audit of packages ---------------------------------------------------------------------------------------------

FIXED = {"id": "CVE-1", "fix_versions": ["1.1"], "aliases": ["GHSA-1"]}
UNFIXED = {"id": "CVE-2", "fix_versions": [], "aliases": ["GHSA-2"]}


def package(*advisories):
    return {"name": "made-up", "version": "1.0", "vulns": list(advisories)}


def test_packages_without_findings_pass_and_are_counted():
    assert audit_packages.verdict([package(), package()], {}) == (["2 of 2 installed packages audited, 0 findings"], 0)


def test_a_finding_with_a_fix_fails_even_if_it_is_listed():
    lines, code = audit_packages.verdict([package(FIXED)], {"CVE-1": "does not matter"})
    assert (lines[0], code) == ("FOUND: made-up 1.0: CVE-1, fixed in 1.1", 1)


@pytest.mark.parametrize(
    ("listed", "code"), [({}, 1), ({"CVE-2": "why"}, 0), ({"GHSA-2": "why"}, 0), ({"CVE-1": "why"}, 1)]
)
def test_a_finding_without_a_fix_passes_only_if_it_is_listed(listed, code):
    assert audit_packages.verdict([package(UNFIXED)], listed)[1] == code


def test_an_advisory_listed_without_a_reason_is_not_tolerated():
    assert audit_packages.ignored("# comment\n\nCVE-1\nCVE-2 a reason of words\n") == {"CVE-2": "a reason of words"}


def test_what_was_not_audited_is_said_loudly_and_fails_where_it_must():
    packages = [package(), {"name": "other", "skip_reason": "not known"}]
    lines, code = audit_packages.verdict(packages, {})
    assert lines == [
        "1 of 2 installed packages audited, 0 findings",
        "NOT AUDITED: 1 of 2 packages; the advisory service has no answer for them",
    ]
    assert code == 0
    assert audit_packages.verdict(packages, {}, strict=True)[1] == 1


def test_every_ignored_advisory_has_a_reason():
    assert audit_packages.ignored("# a comment\n\nCVE-9 only on Windows, until 2027\n") == {
        "CVE-9": "only on Windows, until 2027"
    }
    assert all(audit_packages.ignored(audit_packages.IGNORED.read_text()).values())


class Advisories(BaseHTTPRequestHandler):
    """An OSV service that knows one flaw: made-up before 1.1."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        flawed = asked["package"]["name"] == "made-up" and asked["version"] == "1.0"
        body = json.dumps({"vulns": [self.flaw] if flawed else []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

    flaw = {  # noqa: RUF012 - never changed
        "id": "PYSEC-0", "aliases": [], "summary": "made up", "details": "made up", "modified": "2026-01-01T00:00:00Z",
        "affected": [{
            "package": {"name": "made-up", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }],
    }  # fmt: skip


@pytest.fixture
def advisories():
    server = HTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("version", "code", "line"), [("1.0", 1, "FOUND: made-up 1.0: PYSEC-0, fixed in 1.1"), ("1.1", 0, "")]
)
def test_an_installed_package_with_a_known_flaw_fails_the_audit(tmp_path, advisories, version, code, line):
    if not (audit_packages.TOOL / "pip_audit").is_dir():
        pytest.skip("pip-audit is not there: make check")
    info = tmp_path / f"made_up-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-up\nVersion: {version}\n")
    (info / "RECORD").write_text("")
    done = run("tests/audit_packages.py", "--path", tmp_path, "--osv-url", advisories)
    assert done.returncode == code, done.stderr
    assert line in done.stderr
    assert re.search(rf"audit: 1 of 1 installed packages audited, {code} findings", done.stderr)


def test_an_advisory_service_that_cannot_be_asked_is_not_a_pass_in_silence(tmp_path):
    if not (audit_packages.TOOL / "pip_audit").is_dir():
        pytest.skip("pip-audit is not there: make check")
    info = tmp_path / "made_up-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    words = ["tests/audit_packages.py", "--path", tmp_path, "--osv-url", "http://127.0.0.1:1/"]
    done = run(*words)
    assert done.returncode == 0
    assert "audit: 0 of 1 installed packages audited" in done.stderr
    assert "audit: NOT AUDITED: 1 of 1 packages; the advisory service could not be asked (" in done.stderr
    assert run(*words, "--strict").returncode == 1
