"""A local Apache Kafka without Docker, as a command and as a context manager.

    python -m broker.local start [--mode kraft|zookeeper] [--port 9092] [--zookeeper-port 2181] [--dir .kafka]
    python -m broker.local start --secure                            with users, passwords, TLS and access control lists
    python -m broker.local stop | status | run [same flags]
    python -m broker.local jars                                      make sure of Java and Kafka's jars
    python -m broker.local [same flags] tool console-consumer --topic mock_l1_stream --from-beginning --timeout-ms 5000

`start` leaves the broker running and the topic made; `run` keeps it in the foreground until Ctrl-C. Data stay in the
folder, apart for each mode and for the secured form, which leaves what its clients need in `client.env` of the folder
(broker/security.py). An address that other machines reach is listened on with --secure only, or where --insecure spells
out that there is no password. Environment: KAFKA_HOME (an unpacked Kafka, instead of jars from Maven), JAVA_HOME,
KAFKA_HEAP_OPTS, KAFKA_LISTEN (HOST or HOST:PORT), KAFKA_ADVERTISE (the host that clients are told), KAFKA_TOPIC,
KAFKA_GROUP (with --secure: the consumer group that is granted).
Exit codes: 0 done, 1 failed, 2 wrong usage or a port is taken, 3 (status) not running, 130 and 143 interrupted.
"""

import argparse
import base64
import contextlib
import fcntl
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from broker import jars, ports
from broker.errors import AlreadyRunningError, BrokerError
from broker.packages import Say
from broker.processes import Interrupted, Jvm, catch_signals
from broker.security import ADMIN, CLIENT, Vault, certificate_names, is_loopback
from sor.errors import SorError, UsageError

HERE = Path(__file__).resolve().parent
FOLDER = jars.ROOT / ".kafka"
KAFKA_PORT, ZOOKEEPER_PORT = 9092, 2181
MODES = ("kraft", "zookeeper")
TOPIC, GROUP = "mock_l1_stream", "backtest"  # where the environment names no other
TOOLS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "acls": "kafka.admin.AclCommand",
    "configs": "kafka.admin.ConfigCommand",
}
_SETTINGS_OPTION = {"console-consumer": "--consumer.config", "console-producer": "--producer.config"}
# Small and short-lived JVMs: no threads for the heap, no second compiler.
_LEAN = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_READY_S = 60.0
_GRACE_S = 20.0
_WILDCARDS = ("0.0.0.0", "::")
_LOOPBACK = "127.0.0.1"


class LocalBroker:
    """A Kafka of its own folder: `with LocalBroker(folder, port=0) as broker: use(broker.bootstrap)`.

    Parameters
    ----------
    folder
        Data, logs and pid files; made if missing. One broker a folder.
    mode
        `kraft` or `zookeeper`.
    port
        Where it listens; 0 takes a free port, which it keeps over `kill` and `start`. Default: KAFKA_LISTEN's, or 9092.
    zookeeper_port
        The same for ZooKeeper; by default 2181, or free where `port` is 0.
    host
        Address to listen on. Default: KAFKA_LISTEN's, or 127.0.0.1. ZooKeeper and the controller stay on 127.0.0.1.
    secure
        Clients speak TLS, log in with SCRAM, and may do what access control lists grant. Data apart from the open form's.
    insecure
        Listening where other machines reach it, without any password, is meant.
    libs
        Where Kafka's jars are, or are fetched to.
    say
        Receives one line per step that takes its time.

    Raises
    ------
    UsageError
        If a setting has an impossible value.
    """

    def __init__(
        self,
        folder: Path | str = FOLDER,
        *,
        mode: str = "kraft",
        port: int | None = None,
        zookeeper_port: int | None = None,
        host: str | None = None,
        secure: bool = False,
        insecure: bool = False,
        libs: Path = jars.LIBS,
        say: Say = lambda line: None,
    ) -> None:
        if mode not in MODES:
            raise UsageError(f"mode is {mode!r}; it must be kraft or zookeeper")
        env_host, env_port = parse_listen(os.environ.get("KAFKA_LISTEN", ""))
        self.folder, self.mode, self.libs, self.say = Path(folder).resolve(), mode, libs, say
        self.host = host or env_host
        self.port = (env_port if port is None else port) or ports.free_port(self.host)
        default = 0 if port == 0 else ZOOKEEPER_PORT
        self.zookeeper_port = (default if zookeeper_port is None else zookeeper_port) or ports.free_port()
        self.kafka, self.zookeeper = Jvm(self.folder, "kafka"), Jvm(self.folder, "zookeeper")
        self.secure, self.insecure, self.vault = secure, insecure, Vault(self.folder)

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients on this machine."""
        return _address(_LOOPBACK if self.host in _WILDCARDS else self.host, self.port)

    @property
    def running_mode(self) -> str:
        """The mode of the folder's running broker, which may be another object's or command's."""
        return "kraft" if self.zookeeper.pid is None else "zookeeper"

    @property
    def running_securely(self) -> bool:
        """Whether the folder's running broker is a secured one; without any, whether this object's would be."""
        return self.secure if self.kafka.pid is None else self.kafka.secure

    def __enter__(self) -> "LocalBroker":
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start and return when it answers clients; whatever ends this early, Ctrl-C too, leaves no JVM behind.

        Raises
        ------
        AlreadyRunningError, PortTakenError
            The folder's broker is up; another program listens on one of the ports.
        BrokerError
            It did not start; with the end of its log.
        UsageError
            It would listen beyond this machine without any password.
        """
        self._check_exposure()
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder / "start.lock"):
            self._check_not_running()
            java, libs = jars.prepare(self.say, self.libs)
            self._check_ports()
            try:
                self._start_all(java, libs)
            except BaseException:
                self.stop(grace_s=2.0)
                raise

    def stop(self, grace_s: float = _GRACE_S) -> list[str]:
        """Stop what this folder's pid files name, if it is still ours; one line for each thing done."""
        lines = [jvm.stop(grace_s) for jvm in (self.kafka, self.zookeeper)]
        return [line for line in lines if line]

    def kill(self) -> None:
        """SIGKILL to the broker (not to ZooKeeper). `start` brings it back, on the same port and data."""
        self.kafka.kill()

    def is_ready(self) -> bool:
        """Whether it answers a Kafka request."""
        return speaks_kafka(self.bootstrap, tls=self.secure or self.kafka.secure)

    def create_topic(self, topic: str) -> None:
        """Make a topic of one partition, if it is not there."""
        done = self.tool("topics", "--create", "--if-not-exists", "--partitions", "1", "--topic", topic)
        if done.returncode:
            raise BrokerError(f"topic {topic} could not be made: {(done.stdout + done.stderr).strip()}")

    def allow(self, topic: str, group: str, user: str = CLIENT) -> None:
        """Grant a user of a secured broker what our programs need on a topic and a consumer group."""
        who = ["--add", "--allow-principal", f"User:{user}"]
        done = self.tool("acls", *who, "--producer", "--consumer", "--topic", topic, "--group", group)
        if done.returncode:
            raise BrokerError(f"{user} could not be granted topic {topic}: {(done.stdout + done.stderr).strip()}")

    def open_for_clients(self) -> dict[str, str]:
        """What programs of ours need in their environment, after a secured broker has been told of their topic and group."""
        if not self.secure:
            return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        self.allow(os.environ.get("KAFKA_TOPIC") or TOPIC, os.environ.get("KAFKA_GROUP") or GROUP)
        return self.vault.client_environment(self.bootstrap)

    def tool(
        self, name: str, *words: str, stdin: str = "", timeout_s: float = 60.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of Kafka's console tools (`TOOLS`) against this broker and return what it wrote."""
        command = self._tool_command(name, words)
        try:
            return _output_of(command, self.folder, stdin, timeout_s)
        except subprocess.TimeoutExpired:
            raise BrokerError(f"Kafka's tool {name} did not end within {timeout_s:.0f} s") from None

    def _tool_command(self, name: str, words: Sequence[str]) -> list[str]:
        java, libs = jars.prepare(self.say, self.libs)
        self.folder.mkdir(parents=True, exist_ok=True)
        where = ["--bootstrap-server", self.bootstrap]
        if self.running_securely:
            where += [_SETTINGS_OPTION.get(name, "--command-config"), str(self.vault.admin_file)]
        return [java, *_tool_options(libs), TOOLS[name], *where, *words]

    def _check_exposure(self) -> None:
        if not (self.secure or self.insecure or is_loopback(self.host)):
            raise UsageError(
                f"Kafka would listen on {_address(self.host, self.port)}, which other machines may reach, without any "
                "password; it must be 127.0.0.1, or --secure (users and TLS), or --insecure to have it so"
            )

    def _check_not_running(self) -> None:
        if (pid := self.kafka.pid) is not None:
            where = self.kafka.listens
            hint = f"use it with KAFKA_BOOTSTRAP_SERVERS={where}, or stop it with: make broker-stop"
            raise AlreadyRunningError(f"a Kafka of {self.folder} is running already on {where}, pid {pid}; {hint}")

    def _check_ports(self) -> None:
        hint = f"; to use a Kafka that runs there: KAFKA_BOOTSTRAP_SERVERS={self.bootstrap}"
        ports.check_free(self.host, self.port, hint)
        if self.mode == "zookeeper" and self.zookeeper.pid is None:
            ports.check_free(_LOOPBACK, self.zookeeper_port)

    def _start_all(self, java: str, libs: Path) -> None:
        if self.secure:
            names = certificate_names(self.host, advertised_host(self.host))
            self.vault.prepare(java, names - set(_WILDCARDS), self.bootstrap)
        if self.mode == "zookeeper":
            jars.require_zookeeper(libs)
            self._start_zookeeper(java, libs)
        else:
            self.zookeeper.stop(_GRACE_S)  # left over from a broker of the other mode that was killed
            self._format(java, libs)
        self._start_kafka(java, libs)

    def _start_zookeeper(self, java: str, libs: Path) -> None:
        where = _address(_LOOPBACK, self.zookeeper_port)
        # it outlived a broker that was killed
        if self.zookeeper.listens == where and self.zookeeper.secure == self.secure:
            return
        self.zookeeper.stop(_GRACE_S)
        settings = self.folder / "zookeeper.properties"
        text = (HERE / "zookeeper.properties").read_text()
        text = re.sub("^clientPort=.*$", f"clientPort={self.zookeeper_port}", text, flags=re.MULTILINE)
        settings.write_text(self.vault.write_zookeeper_settings(text) if self.secure else text)
        main = ["org.apache.zookeeper.server.quorum.QuorumPeerMain", settings.name]
        self.zookeeper.keep_logs()
        self.zookeeper.spawn(java, [*_jvm_options(libs), *self._login_options()], main, where, secure=self.secure)
        self.zookeeper.wait_ready(lambda: speaks_zookeeper(where), _READY_S)
        if self.secure and not (self.folder / "data-zookeeper-secure" / "kafka" / "meta.properties").exists():
            self._make_users(java, libs, where)

    def _make_users(self, java: str, libs: Path, where: str) -> None:
        """Tell ZooKeeper the passwords, before the first start of a broker that needs one itself."""
        words = [*_tool_options(libs), *self._login_options(), TOOLS["configs"], "--zookeeper", where, "--alter"]
        for user in (ADMIN, CLIENT):
            change = self.vault.write_user_change(user)
            who = ["--entity-type", "users", "--entity-name", user, "--add-config-file", str(change)]
            try:
                done = _output_of([java, *words, *who], self.folder)
            finally:
                change.unlink()
            if done.returncode:
                raise BrokerError(f"user {user} could not be made: {(done.stdout + done.stderr).strip()}")

    def _login_options(self) -> list[str]:
        """How ZooKeeper and its clients learn the password between them."""
        needed = self.secure and self.mode == "zookeeper"
        return [f"-Djava.security.auth.login.config={self.vault.jaas_file}"] if needed else []

    def _start_kafka(self, java: str, libs: Path) -> None:
        deadline = time.monotonic() + _READY_S
        self.kafka.keep_logs()
        while True:
            options = [*_jvm_options(libs), *self._login_options()]
            self.kafka.spawn(java, options, self._kafka_words(), self.bootstrap, secure=self.secure)
            try:
                return self.kafka.wait_ready(self.is_ready, _READY_S)
            except BrokerError as error:
                # ZooKeeper believes in a killed broker until its session ends
                if "NodeExists" not in str(error) or time.monotonic() > deadline:
                    raise

    def _kafka_words(self) -> list[str]:
        name = "kraft.properties" if self.mode == "kraft" else "zookeeper-broker.properties"
        if self.secure:  # what is on a command line, everybody reads
            base = (HERE / name).read_text()
            return ["kafka.Kafka", str(self.vault.write_broker_settings(base, self.mode, self._overrides()))]
        words = ["kafka.Kafka", str(HERE / name)]
        for setting, value in self._overrides().items():
            words += ["--override", f"{setting}={value}"]
        return words

    def _overrides(self) -> dict[str, str]:
        """The settings that differ from the file's."""
        protocol = "SASL_SSL" if self.secure else "PLAINTEXT"
        listener = f"{protocol}://{_address(self.host, self.port)}"
        shown = {"advertised.listeners": f"{protocol}://{_address(advertised_host(self.host), self.port)}"}
        if self.mode == "zookeeper":
            return {"listeners": listener, **shown, "zookeeper.connect": _address(_LOOPBACK, self.zookeeper_port)}
        controller = _address(_LOOPBACK, ports.free_port())
        return {
            "listeners": f"{listener},CONTROLLER://{controller}",
            **shown,
            "controller.quorum.voters": f"1@{controller}",
        }

    def _format(self, java: str, libs: Path) -> None:
        """Write KRaft's empty log with a cluster id of its own, at the first start."""
        data = "data-kraft-secure" if self.secure else "data-kraft"
        if (self.folder / data / "kafka" / "meta.properties").exists():
            return
        settings = self._kafka_words()[1]
        words = ["format", "--ignore-formatted", f"--cluster-id={new_cluster_id()}", "--config", settings]
        passwords = self.vault.write_format_words(words) if self.secure else None
        try:
            given = [f"@{passwords}"] if passwords else words
            done = _output_of([java, *_tool_options(libs), "kafka.tools.StorageTool", *given], self.folder)
        finally:
            if passwords:
                passwords.unlink()
        if done.returncode:
            text = (done.stdout + done.stderr).strip()
            raise BrokerError(f"KRaft's storage in {self.folder} could not be formatted: {text}")


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the lock file for the block: two brokers on one folder would spoil its log."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"another start of the Kafka of {lock.parent} is under way") from None
        yield


def parse_listen(text: str) -> tuple[str, int]:
    """KAFKA_LISTEN, `HOST` or `HOST:PORT` (an IPv6 address in brackets), as (host, port).

    Examples
    --------
    >>> parse_listen("0.0.0.0"), parse_listen("[::1]:9192"), parse_listen("")
    (('0.0.0.0', 9092), ('::1', 9192), ('127.0.0.1', 9092))
    """
    if not text:
        return _LOOPBACK, KAFKA_PORT
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([^\s:\[\]/]+))(?::(\d{1,5}))?", text)
    port = int(found[3] or KAFKA_PORT) if found else 0
    if not found or not 0 < port < 65_536:
        raise UsageError(f"KAFKA_LISTEN is {text!r}; it must be HOST or HOST:PORT, such as 127.0.0.1:9092")
    return found[1] or found[2], port


def advertised_host(host: str) -> str:
    """The host that clients are told: KAFKA_ADVERTISE, or `host`, or for "all addresses" the one that leads outside."""
    if told := os.environ.get("KAFKA_ADVERTISE"):
        if not re.fullmatch(r"[0-9a-fA-F:]*|[A-Za-z0-9._-]+", told):
            raise UsageError(f"KAFKA_ADVERTISE is {told!r}; it must be a host name or an address, without a port")
        return told
    return _outward_address() if host in _WILDCARDS else host


def new_cluster_id() -> str:
    """A random id in Kafka's form: 16 bytes in 22 letters of base64, not opening with a dash."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return new_cluster_id() if text.startswith("-") else text


def speaks_kafka(bootstrap: str, timeout_s: float = 1.0, *, tls: bool = False) -> bool:
    """Whether what listens there answers an ApiVersions request (api key 18, version 0, correlation id 7).

    With `tls` through TLS, whoever signed the certificate: nothing secret is sent.
    """
    request = struct.pack(">hhih", 18, 0, 7, -1)
    answer = _exchange(bootstrap, struct.pack(">i", len(request)) + request, timeout_s, tls=tls)
    return len(answer) >= 10 and struct.unpack(">ih", answer[4:10]) == (7, 0)


def speaks_zookeeper(address: str, timeout_s: float = 1.0) -> bool:
    """Whether what listens there answers ZooKeeper's four-letter word `srvr`."""
    return _exchange(address, b"srvr", timeout_s).startswith(b"Zookeeper version")


def _exchange(address: str, request: bytes, timeout_s: float, *, tls: bool = False) -> bytes:
    host, port = address.rsplit(":", 1)
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s))
            if tls:
                connection = stack.enter_context(_unverified().wrap_socket(connection))
            connection.sendall(request)
            return connection.recv(4096)
    except OSError:
        return b""


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _outward_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address reserved for documentation; a UDP connect sends nothing
        except OSError:
            return _LOOPBACK
        return probe.getsockname()[0]


def _output_of(
    command: list[str], folder: Path, stdin: str = "", timeout_s: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    run = subprocess.run
    return run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _class_path(libs: Path) -> list[str]:
    return [f"-Dlog4j.configuration={(HERE / 'log4j.properties').as_uri()}", "-cp", f"{libs}/*"]


def _jvm_options(libs: Path) -> list[str]:
    heap = os.environ.get("KAFKA_HEAP_OPTS", "").split() or ["-Xmx256M", "-Xms64M"]
    return [*_LEAN, *heap, "-Djava.awt.headless=true", *_class_path(libs)]


def _tool_options(libs: Path) -> list[str]:
    return [*_LEAN, "-Xmx128M", "-Dlocal.kafka.role=tools", *_class_path(libs)]


# --- the command ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the top of the file."""
    catch_signals()
    words = list(sys.argv[1:] if argv is None else argv)
    ours = words.index("tool") + 2 if "tool" in words else len(words)  # what follows a tool's name is the tool's
    flags, rest = _parser().parse_args(words[:ours]), words[ours:]
    try:
        return _COMMANDS[flags.command](flags, rest)
    except SorError as error:
        _say(str(error))
        return error.exit_code
    except Interrupted as interrupted:
        return interrupted.exit_code


def _start(flags: argparse.Namespace, rest: list[str]) -> int:
    broker = _broker(flags)
    _say_stale(broker)
    try:
        broker.start()
    except AlreadyRunningError as error:
        _say(str(error))
        running = (broker.kafka.listens, broker.running_mode, broker.kafka.secure)
        return 0 if running == (broker.bootstrap, broker.mode, broker.secure) else error.exit_code
    _open_topic(broker, flags.topic)
    return _status(flags, rest)


def _open_topic(broker: LocalBroker, topic: str) -> None:
    """Make the topic, and let the clients of a secured broker use it."""
    if broker.secure:
        broker.create_topic(topic)
        broker.allow(topic, os.environ.get("KAFKA_GROUP") or GROUP)
        _say(f"clients need the lines of {broker.vault.client_file}: set -a; . {broker.vault.client_file}; set +a")
        return
    with contextlib.suppress(BrokerError):  # the producer makes it too
        broker.create_topic(topic)


def _stop(flags: argparse.Namespace, _rest: list[str]) -> int:
    for line in _broker(flags).stop() or ["nothing to stop"]:
        print(line)
    return 0


def _status(flags: argparse.Namespace, _rest: list[str]) -> int:
    broker = _broker(flags)
    running = [jvm for jvm in (broker.zookeeper, broker.kafka) if jvm.pid is not None]
    for jvm in running:
        is_kafka = jvm is broker.kafka
        answers = speaks_kafka(jvm.listens, tls=jvm.secure) if is_kafka else speaks_zookeeper(jvm.listens)
        secured = ", secured" if jvm.secure else ""
        print(
            f"{jvm.role}: pid {jvm.pid}, {jvm.listens}{secured}, {'ready' if answers else 'gives no answer'}, {jvm.load()}"
        )
    if broker.kafka in running:
        print(f"mode: {broker.running_mode}, topics: {', '.join(_topics(broker)) or 'none'}")
    else:
        print(f"kafka: not running (folder {broker.folder})")
    if (logs := broker.folder / "logs").exists():
        print(f"logs: {logs}, {_size(logs)}; runs and lag: backtest.py --doctor")
    return 0 if broker.kafka in running else 3


def _topics(broker: LocalBroker) -> list[str]:
    """Topics of the running broker with what they take on disk, from its folder: no JVM is started to ask."""
    data = f"data-{broker.running_mode}{'-secure' if broker.running_securely else ''}"
    folders = sorted((broker.folder / data / "kafka").glob("[!_]*-0"))
    return [f"{folder.name[:-2]} ({_size(folder)})" for folder in folders if "cluster_metadata" not in folder.name]


def _size(folder: Path) -> str:
    files = (path for path in folder.glob("*") if path.is_file())
    taken = sum(512 * path.stat().st_blocks for path in files)  # Kafka's indexes are sparse
    return f"{taken / 1e6:.1f} MB"


def _run(flags: argparse.Namespace, _rest: list[str]) -> int:
    with _broker(flags) as broker:
        _open_topic(broker, flags.topic)
        _say(f"Kafka listens on {broker.bootstrap}; Ctrl-C stops it")
        while broker.kafka.pid is not None:
            time.sleep(0.5)
        raise BrokerError(f"Kafka ended; the end of its log:\n{broker.kafka.log_tail()}")


def _jars(_flags: argparse.Namespace, _rest: list[str]) -> int:
    java, libs = jars.prepare(_say)
    _say(f"Kafka {jars.version(libs)} from {libs}, run by {java}")
    return 0


def _tool(flags: argparse.Namespace, rest: list[str]) -> int:
    if flags.tool not in TOOLS:
        raise UsageError(f"tool is {flags.tool!r}; it must be one of {', '.join(TOOLS)}")
    broker = _broker(flags)
    command = broker._tool_command(flags.tool, rest)
    return subprocess.run(command, cwd=broker.folder, check=False).returncode


_COMMANDS = {"start": _start, "stop": _stop, "status": _status, "run": _run, "jars": _jars, "tool": _tool}


def _broker(flags: argparse.Namespace) -> LocalBroker:
    where = {"port": flags.port, "zookeeper_port": flags.zookeeper_port}
    return LocalBroker(flags.dir, mode=flags.mode, secure=flags.secure, insecure=flags.insecure, say=_say, **where)


def _say_stale(broker: LocalBroker) -> None:
    if broker.kafka.pid is None:
        for line in filter(None, [broker.kafka.stop(0.0)]):
            _say(line)


def _say(line: str) -> None:
    print(f"broker: {line}", file=sys.stderr)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65_536:
        raise argparse.ArgumentTypeError(f"{text} must be 0 (a free one) to 65535")
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m broker.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=_COMMANDS)
    parser.add_argument("tool", nargs="?", help=f"with the command tool: {', '.join(TOOLS)}")
    parser.add_argument("--mode", choices=MODES, default="kraft")
    parser.add_argument("--port", type=_port, help="default KAFKA_LISTEN's, or 9092; 0 takes a free one")
    parser.add_argument("--zookeeper-port", type=_port, help="default 2181")
    parser.add_argument("--dir", type=Path, default=FOLDER, help="data, logs and pid files; default .kafka")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--secure", action="store_true", help="TLS, users with passwords, access control lists")
    form.add_argument("--insecure", action="store_true", help="listen beyond this machine without any of them")
    parser.add_argument("--topic", default=os.environ.get("KAFKA_TOPIC") or TOPIC, help="made at start")
    return parser


if __name__ == "__main__":
    sys.exit(main())
