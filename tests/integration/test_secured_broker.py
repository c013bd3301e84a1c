"""A secured local Kafka for real: both programs as processes against TLS, SCRAM and access control lists.

Each refusal is one line, within seconds, that says what was wrong and what to set. The rows of docs/trust.md come from
the properties these tests record (`pytest --junitxml`).
"""

import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

import config
from broker.local import GROUP, TOPIC, LocalBroker
from broker.security import Vault
from sor.errors import StreamError
from sor.security import Security
from sor.stream import Reader, Topic, ensure_topic, topic_of
from tests.integration.terminals import ROOT, Terminals, but_run, done

QUICK_S = 6.0  # of a refusal; a client left to itself retries for 10 s, and a producer for 120 s
LONGEST_S = 60.0  # of a process from its start on, on a machine that is busy with much else; 1 to 3 s on an idle one
MADE, READABLE, WRITABLE, UNMADE, FORBIDDEN = "made", "readable", "writable", "unmade", "forbidden"
OPEN = {
    "KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
    "KAFKA_SASL_USERNAME": "",
    "KAFKA_SASL_PASSWORD": "",
    "KAFKA_SSL_CAFILE": "",
}


class CommandLines:
    """Collects the command line of every process of this machine while the block runs."""

    def __enter__(self):
        self.seen, self._over = set(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(0.1):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue

    def holding(self, secrets):
        return [line for line in self.seen if any(secret.encode() in line for secret in secrets)]


@pytest.fixture(scope="module")
def secured(tmp_path_factory, kafka):
    """A secured broker with topics of every kind, its clients' environment, and the command lines seen at its start."""
    broker = LocalBroker(tmp_path_factory.mktemp("secured"), port=0, host="127.0.0.1", secure=True, libs=kafka.libs)
    with CommandLines() as lines, broker:
        broker.environment = {**broker.open_for_clients(), "KAFKA_TOPIC": TOPIC, "KAFKA_GROUP": GROUP}
        _prepare(broker)
        broker.lines_at_start = set(lines.seen)
        yield broker


def _prepare(broker):
    """Topics that `sor` may use in part, beside the one that `open_for_clients` granted."""
    admin = KafkaAdminClient(**as_user(broker, "admin").client)
    try:
        admin.create_topics({name: {"num_partitions": 1} for name in (MADE, READABLE, WRITABLE, FORBIDDEN)})
        rights = [(MADE, "READ"), (MADE, "WRITE"), (READABLE, "READ"), (WRITABLE, "WRITE"), (UNMADE, "WRITE")]
        allowed = ACLPermissionType.ALLOW
        patterns = [(ResourcePattern(ResourceType.TOPIC, name), ACLOperation[right]) for name, right in rights]
        admin.create_acls([ACL("User:sor", "*", right, allowed, pattern) for pattern, right in patterns])
    finally:
        admin.close()


def as_user(broker, user, password=None, topic=TOPIC, **changes):
    """A topic of the broker as seen by a user."""
    password = password or broker.vault.passwords[user]
    security = {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "ca_file": str(broker.vault.ca_file), **changes}
    return Topic(broker.bootstrap, topic, Security(username=user, password=password, **security))


@pytest.fixture
def programs(secured, tmp_path):
    """Both programs on the secured broker, with changes to their environment."""
    terminals = Terminals(secured, TOPIC, tmp_path)
    yield terminals
    terminals.end()


def line_of(process, code):
    """The one line that a program says before it gives up, and how long it took from its start."""
    out, err = done(process, code)
    assert out == ""
    lines = [
        line for line in err.splitlines() if not re.match(r"\S+\.csv: |from 2024|1 rows? set aside|waiting for", line)
    ]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def refusal(programs, day, record_property, changes, words, code=1, names=("producer", "backtest")):
    """Start the programs, both at once, and hold what they say against `words`."""
    environment = {**programs.broker.environment, **changes}
    began = time.monotonic()
    ways = {
        "producer": lambda: programs.producer(day, **environment),
        "backtest": lambda: programs.backtest("o", **environment),
    }
    started = {name: ways[name]() for name in names}
    for name, program in started.items():
        line = line_of(program, code)
        seconds = time.monotonic() - began
        record_property(name, f"{seconds:.1f} s | {line}")
        assert re.search(words, line), line
        assert seconds < LONGEST_S
    assert not (programs.folder / "o" / "output.json").exists()


def test_the_right_credentials_give_the_same_results_as_an_open_broker(
    secured, programs, kafka, topic, day, record_property
):
    began = time.monotonic()
    opened = Terminals(kafka, topic, programs.folder)
    done(opened.producer(day))
    done(opened.backtest("open"))
    environment = secured.environment
    with CommandLines() as lines:
        producer = done(programs.producer(day, "--run-id", "known", "--log-level", "debug", **environment))
        backtest = done(programs.backtest("secured", "--run-id", "known", "--log-level", "debug", **environment))
    record_property("both", f"{time.monotonic() - began:.1f} s | {programs.output('secured')['run']['transport']}")
    assert programs.output("secured")["run"]["whole"] is True
    assert but_run(programs.output("secured")) == but_run(opened.output("open"))
    secrets = secured.vault.passwords.values()
    assert lines.holding(secrets) == []
    texts = [*producer, *backtest, *(path.read_bytes().decode("latin-1") for path in files_of(programs.folder))]
    assert not any(secret in text for secret in secrets for text in texts)
    assert not any(name.startswith("kafka_") for name in programs.output("secured")["settings"])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files_of(programs.folder / "secured")}
    assert modes == {0o666 & ~current_umask()}


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def files_of(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_no_command_line_and_no_log_of_the_broker_holds_a_password(secured):
    secrets = [secret.encode() for secret in secured.vault.passwords.values()]
    assert len(secured.lines_at_start) > 5
    assert not any(secret in line for secret in secrets for line in secured.lines_at_start)
    logs = files_of(secured.folder / "logs")
    assert logs
    assert not any(secret in path.read_bytes() for secret in secrets for path in logs)


def test_what_the_broker_keeps_is_its_owners_alone(secured):
    assert stat.S_IMODE(secured.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(secured.vault.home.stat().st_mode) == 0o700
    private = [*files_of(secured.vault.home), secured.vault.client_file]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {path.name for path in files_of(secured.vault.home)} == {
        "passwords", "keystore.password", "names", "ca.p12", "ca.pem", "server.p12", "kafka.properties",
        "admin.properties", "zookeeper.jaas",
    }  # fmt: skip


LOGIN = (
    r"does not accept user '{}' with this password \(SCRAM-SHA-512\): set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD$"
)
NOT_TRUSTED = r"certificate of the broker at \S+ is not trusted \(.*\): set KAFKA_SSL_CAFILE to the PEM file"
REFUSED = {
    "wrong password": ({"KAFKA_SASL_PASSWORD": "wrong"}, LOGIN.format("sor")),
    "unknown user": ({"KAFKA_SASL_USERNAME": "nobody"}, LOGIN.format("nobody")),
    "mechanism not offered": (
        {"KAFKA_SASL_MECHANISM": "PLAIN"},
        "does not offer PLAIN: set KAFKA_SASL_MECHANISM to SCRAM-SHA-512$",
    ),
    "plain client": (OPEN, "speaks TLS only, and KAFKA_SECURITY_PROTOCOL is PLAINTEXT: set it to SSL or SASL_SSL"),
    "SASL without TLS": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CAFILE": ""},
        "speaks TLS only, and KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT: set it to SSL or SASL_SSL",
    ),
    "TLS without SASL": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_USERNAME": "", "KAFKA_SASL_PASSWORD": ""},
        r"asks for a login \(SCRAM-SHA-512\): set KAFKA_SECURITY_PROTOCOL to SASL_SSL",
    ),
    "no CA file": ({"KAFKA_SSL_CAFILE": ""}, NOT_TRUSTED),
    "forbidden topic": (
        {"KAFKA_TOPIC": FORBIDDEN},
        f"user 'sor' is not allowed to use topic {FORBIDDEN}: set KAFKA_TOPIC",
    ),
    "forbidden create": (
        {"KAFKA_TOPIC": UNMADE},
        f"topic {UNMADE} does not exist, and user 'sor' is not allowed to create it: set KAFKA_TOPIC",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_broker_refuses_is_one_line_within_seconds(programs, day, record_property, case):
    changes, words = REFUSED[case]
    refusal(programs, day, record_property, changes, words)


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_not_tried_again_and_again(secured, case):
    changes, words = REFUSED[case]
    topic = topic_of(config.settings("backtest", [], "", {**secured.environment, **changes}))
    began = time.monotonic()
    with pytest.raises(StreamError, match=words):
        ensure_topic(topic)
    assert time.monotonic() - began < QUICK_S


def test_a_foreign_authority_is_not_believed(programs, day, record_property, tmp_path):
    java = Path(sys.executable)  # any neighbour: keytool is found on the PATH then
    other = Vault(tmp_path / "other")
    other.folder.mkdir()
    other.prepare(str(java), ["localhost"], "localhost:1")
    refusal(programs, day, record_property, {"KAFKA_SSL_CAFILE": str(other.ca_file)}, NOT_TRUSTED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file or directory; it must be a PEM file"),
        ("no certificate\n", "which holds no certificate; it must be a PEM file"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "which holds no certificate; it must be"),
    ],
    ids=["CA file missing", "CA file of another kind", "CA file damaged"],
)
def test_a_ca_file_that_is_none_is_wrong_usage(programs, day, record_property, tmp_path, text, words):
    path = tmp_path / "authority.pem"
    if text is not None:
        path.write_text(text)
    refusal(programs, day, record_property, {"KAFKA_SSL_CAFILE": str(path)}, words, code=2)


def test_a_name_that_the_certificate_does_not_hold_is_refused(secured, programs, day, record_property):
    with Forwarder("127.0.0.2", secured.port) as there:
        words = r"certificate of the broker at 127\.0\.0\.2:\d+ is not for this name .*set KAFKA_BOOTSTRAP_SERVERS"
        refusal(programs, day, record_property, {"KAFKA_BOOTSTRAP_SERVERS": there}, words)


def test_a_forbidden_group_is_named_by_the_backtest(programs, day, record_property):
    words = "user 'sor' is not allowed to use this consumer group: set KAFKA_GROUP"
    refusal(programs, day, record_property, {"KAFKA_GROUP": "other"}, words, names=["backtest"])


def test_a_topic_that_may_only_be_read_refuses_the_producer_and_the_other_way_round(programs, day, record_property):
    words = "user 'sor' is not allowed to use topic {}: .* have Write .* and Read .* granted"
    refusal(programs, day, record_property, {"KAFKA_TOPIC": READABLE}, words.format(READABLE), names=["producer"])
    refusal(programs, day, record_property, {"KAFKA_TOPIC": WRITABLE}, words.format(WRITABLE), names=["backtest"])


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("SASL_SSL", "speaks no TLS, and KAFKA_SECURITY_PROTOCOL is SASL_SSL: set it to PLAINTEXT or SASL_PLAINTEXT"),
        ("SASL_PLAINTEXT", "asks for no login, and KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT: set .* to PLAINTEXT"),
    ],
)
def test_a_secured_client_finds_an_open_listener(programs, kafka, day, record_property, protocol, words):
    changes = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_SECURITY_PROTOCOL": protocol}
    if protocol == "SASL_PLAINTEXT":
        changes["KAFKA_SSL_CAFILE"] = ""
    refusal(programs, day, record_property, changes, words)


def test_a_topic_that_is_there_needs_no_right_to_create_it(secured, programs, day):
    environment = {**secured.environment, "KAFKA_TOPIC": MADE}
    done(programs.producer(day, "--run-id", "made", **environment))
    with Reader(as_user(secured, "sor", topic=MADE), GROUP) as reader:
        assert reader.newest_whole().run_id == "made"


def test_a_password_changed_on_the_way_is_said_too(secured):
    error = as_user(secured, "sor", "an old one").unreachable(TimeoutError())
    assert "does not accept user 'sor' with this password" in str(error)


def test_the_first_server_that_lets_us_in_is_enough(secured, kafka):
    security = as_user(secured, "sor").security
    assert Topic(f"127.0.0.1:1,{kafka.bootstrap},{secured.bootstrap}", TOPIC, security).obstacle() is None
    assert "speaks no TLS" in str(Topic(f"127.0.0.1:1,{kafka.bootstrap}", TOPIC, security).obstacle())


def test_the_controller_asks_for_a_password_of_its_own(secured):
    text = secured.vault.broker_file.read_text()
    controller = re.findall(r"CONTROLLER://(127\.0\.0\.1:\d+)", text)[-1]

    def obstacle(**changes):
        topic = as_user(secured, "sor", **changes)
        return str(Topic(controller, TOPIC, topic.security).obstacle())

    assert "asks for a login (PLAIN)" in obstacle(protocol="SSL")
    assert "does not accept user 'sor'" in obstacle(mechanism="PLAIN")


def test_the_console_tools_and_status_know_a_secured_broker(secured):
    words = ["--dir", str(secured.folder), "--port", str(secured.port)]
    command = [sys.executable, "-m", "broker.local", *words]
    status = subprocess.run([*command, "status"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert status.stdout.startswith(f"kafka: pid {secured.kafka.pid}, {secured.bootstrap}, secured, ready")
    tool = [*command, "tool", "topics", "--list"]
    listed = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert {TOPIC, MADE} <= set(listed.stdout.split()), listed.stderr
    again = subprocess.run([*command, "start"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 2, "an open broker was asked for and a secured one runs"


def test_zookeeper_mode_is_secured_too(tmp_path, kafka):
    broker = LocalBroker(tmp_path / "k", mode="zookeeper", port=0, host="127.0.0.1", secure=True, libs=kafka.libs)
    with CommandLines() as lines, broker:
        assert broker.open_for_clients()["KAFKA_SASL_USERNAME"] == "sor"
        ensure_topic(as_user(broker, "sor"))
        with pytest.raises(StreamError, match="does not accept user 'sor'"):
            ensure_topic(as_user(broker, "sor", "wrong"))
        with pytest.raises(StreamError, match="is not allowed to use topic other"):
            ensure_topic(as_user(broker, "sor", topic="other"))
        assert zookeeper_answers_a_stranger("127.0.0.1", broker.zookeeper_port) is False
        broker.kill()
        broker.start()  # on the same data, with the same passwords
        ensure_topic(as_user(broker, "sor"))
    secrets = broker.vault.passwords.values()
    assert lines.holding(secrets) == []
    assert not any(
        secret in path.read_text(errors="replace") for secret in secrets for path in files_of(broker.folder / "logs")
    )


def zookeeper_answers_a_stranger(host, port):
    """Whether a session that gave no password may list ZooKeeper's root (protocol: jute records behind their length)."""
    hello = struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, b"", False)
    listing = struct.pack(">iii1s?", 1, 8, 1, b"/", False)  # request 1, getChildren
    with socket.create_connection((host, port), 5) as connection, connection.makefile("rb") as answers:
        for request in (hello, listing):
            connection.sendall(struct.pack(">i", len(request)) + request)
            length = answers.read(4)
            answer = answers.read(struct.unpack(">i", length)[0]) if length else b""
    return len(answer) >= 16 and struct.unpack(">iqi", answer[:16])[2] == 0


class Forwarder:
    """A listener on another address of this machine whose connections lead to a port of 127.0.0.1."""

    def __init__(self, host, port, at=0):
        self._server = socket.create_server((host, at))
        self._port, self._sockets = port, []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return "{}:{}".format(*self._server.getsockname())

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                left, _ = self._server.accept()
            except OSError:
                return
            self._sockets.append(left)
            try:
                right = socket.create_connection(("127.0.0.1", self._port))
            except OSError:  # the broker has gone
                left.close()
                continue
            self._sockets.append(right)
            for pair in ((left, right), (right, left)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source, target):
        try:
            while piece := source.recv(65_536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
