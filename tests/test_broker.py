"""The local Kafka, the set-up and `make run`, as far as they need no Java: pid files, ports, settings, programs."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from broker import jars, packages, ports
from broker.errors import AlreadyRunningError, BrokerError, NotInstalledError, PortTakenError
from broker.local import LocalBroker, advertised_host, new_cluster_id, parse_listen
from broker.processes import command_line
from sor.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_HOME",
    "KAFKA_LISTEN",
    "KAFKA_ADVERTISE",
    "JAVA_HOME",
    "SPEED",
    "SOR_CSV_PATH",
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def run_local(*words, **changes):
    """`python -m broker.local`, to its end."""
    command = [sys.executable, "-m", "broker.local", *map(str, words)]
    env = {**os.environ, **changes}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def sleeper():
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def listener():
    """A socket of this very process that listens on a free port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    """A PATH with nothing on it: no java, no mvn, no package manager."""
    folder = tmp_path / "empty-path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(jars, "_BREW_JAVA", ())
    return folder


# --- ports ---------------------------------------------------------------------------------------------------------


def test_a_free_port_is_free_and_not_of_the_range_of_outgoing_connections():
    port = ports.free_port()
    assert not ports.is_taken("127.0.0.1", port)
    assert 20_000 <= port < 32_000


def test_a_taken_port_names_its_holder(listener):
    assert ports.is_taken("127.0.0.1", listener)
    assert ports.holder(listener).startswith(f"pid {os.getpid()} (")


def test_a_listener_on_all_addresses_takes_the_port_of_127_0_0_1_too():
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert ports.is_taken("127.0.0.1", server.getsockname()[1])


def test_a_holder_that_cannot_be_found_is_another_program():
    assert ports.holder(ports.free_port()) == "another program"


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(BrokerError, match="must be an address of this machine"):
        ports.is_taken("192.0.2.1", 9092)


@pytest.mark.parametrize("mode", ["kraft", "zookeeper"])
def test_start_on_a_taken_port_says_by_what_and_exits_2(tmp_path, listener, mode):
    changes = {"KAFKA_HOME": str(make_kafka_home(tmp_path)), "JAVA_HOME": str(make_java_home(tmp_path))}
    done = run_local("start", "--dir", tmp_path / "kafka", "--port", listener, "--mode", mode, **changes)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"port {listener} is taken by pid {os.getpid()} (" in line
    assert f"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{listener}" in line
    assert done.stdout == ""


def test_zookeepers_taken_port_stops_the_start_too(tmp_path, listener, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(make_kafka_home(tmp_path)))
    monkeypatch.setenv("JAVA_HOME", str(make_java_home(tmp_path)))
    broker = LocalBroker(tmp_path / "kafka", mode="zookeeper", port=0, zookeeper_port=listener)
    with pytest.raises(PortTakenError, match=f"port {listener} is taken by pid {os.getpid()}"):
        broker.start()


# --- pid files -----------------------------------------------------------------------------------------------------


def test_stop_with_nothing_started_does_nothing(tmp_path):
    done = run_local("stop", "--dir", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to stop\n", "")


@pytest.mark.parametrize("text", ["999999999\n", "", "not a number"])
def test_stop_survives_a_stale_pid_file(tmp_path, text):
    (tmp_path / "kafka.pid").write_text(text)
    done = run_local("stop", "--dir", tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "kafka.pid").exists()


def test_stop_leaves_a_stranger_alone_whose_pid_is_in_the_pid_file(tmp_path, sleeper):
    (tmp_path / "kafka.pid").write_text(f"{sleeper.pid}\n")
    done = run_local("stop", "--dir", tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"kafka: stale pid file removed (pid {sleeper.pid} is not this kafka)\n"
    assert sleeper.poll() is None


def test_stop_leaves_the_broker_of_another_folder_alone(tmp_path):
    ours, other = LocalBroker(tmp_path / "a", port=0), LocalBroker(tmp_path / "ab", port=0)
    with pretended_jvm(other) as process:
        ours.folder.mkdir()
        ours.kafka.pid_file.write_text(f"{process.pid}\n")
        assert ours.kafka.pid is None
        ours.stop()
        assert process.poll() is None


def test_status_without_a_broker_says_so_and_exits_3(tmp_path):
    done = run_local("status", "--dir", tmp_path)
    assert done.returncode == 3
    assert done.stdout == f"kafka: not running (folder {tmp_path})\n"


def test_status_of_a_broker_that_does_not_answer(tmp_path):
    broker = LocalBroker(tmp_path, port=0)
    with pretended_jvm(broker) as process:
        done = run_local("status", "--dir", tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"kafka: pid {process.pid}, {broker.bootstrap}, gives no answer, up 0:00:0")


def test_a_second_start_in_one_folder_is_refused(tmp_path):
    broker = LocalBroker(tmp_path, port=0)
    with (
        pretended_jvm(broker) as process,
        pytest.raises(AlreadyRunningError, match=f"running already.*pid {process.pid}"),
    ):
        LocalBroker(tmp_path, port=0).start()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    broker = LocalBroker(tmp_path, port=0)
    with pretended_jvm(broker, ignores_sigterm=True) as process:
        (line,) = broker.stop(grace_s=0.3)
        assert line == f"kafka: killed (pid {process.pid}), for it did not stop within 0 s"
        assert process.wait(5) == -signal.SIGKILL


def test_a_zombie_has_no_command_line():
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 10
    while command_line(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert command_line(process.pid) == ""
    process.wait()


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 9092),
        ("0.0.0.0", "0.0.0.0", 9092),
        ("localhost:19092", "localhost", 19092),
        ("[::1]", "::1", 9092),
        ("[::1]:9192", "::1", 9192),
    ],
)
def test_kafka_listen(text, host, port):
    assert parse_listen(text) == (host, port)


@pytest.mark.parametrize("text", [":9092", "host:0", "host:65536", "host:port", "::1", "PLAINTEXT://host:9092", "a b"])
def test_an_impossible_kafka_listen_is_named(text):
    with pytest.raises(UsageError, match=r"KAFKA_LISTEN is .* must be HOST or HOST:PORT"):
        parse_listen(text)


@given(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.integers(1, 65_535))
def test_every_host_and_port_survive_kafka_listen(host, port):
    assert parse_listen(f"{host}:{port}") == (host, port)


def test_listening_everywhere_advertises_an_address_one_can_connect_to(monkeypatch):
    assert advertised_host("0.0.0.0") not in ("0.0.0.0", "", "::")
    assert advertised_host("127.0.0.1") == "127.0.0.1"
    monkeypatch.setenv("KAFKA_ADVERTISE", "broker.example.com")
    assert advertised_host("0.0.0.0") == "broker.example.com"


def test_clients_of_this_machine_use_loopback_of_a_broker_that_listens_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_LISTEN", "0.0.0.0:19092")
    assert LocalBroker(tmp_path).bootstrap == "127.0.0.1:19092"


def test_defaults_are_the_trials_ports_on_loopback(tmp_path):
    broker = LocalBroker(tmp_path, mode="zookeeper")
    assert (broker.bootstrap, broker.zookeeper_port) == ("127.0.0.1:9092", 2181)


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(UsageError, match="mode is 'raft'; it must be kraft or zookeeper"):
        LocalBroker(tmp_path, mode="raft")


def test_cluster_ids_are_22_letters_and_never_look_like_a_flag():
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", text) for text in ids)


def test_both_modes_have_the_same_broker_settings():
    kraft, zookeeper = (
        (ROOT / "broker" / name).read_text() for name in ("kraft.properties", "zookeeper-broker.properties")
    )
    assert (
        kraft.split("--- the same lines")[1].splitlines()[1:]
        == zookeeper.split("--- the same lines")[1].splitlines()[1:]
    )
    assert "auto.create.topics.enable=false" in kraft


def test_nothing_listens_beyond_this_machine_by_default():
    for path in (ROOT / "broker").glob("*.properties"):
        for line in path.read_text().splitlines():
            if re.match(r"(advertised\.)?listeners=|clientPortAddress=", line):
                assert line.count("127.0.0.1") == line.count("://") + line.startswith("client")


# --- Java and jars -------------------------------------------------------------------------------------------------


def make_kafka_home(folder):
    """An unpacked Kafka, as far as names go."""
    libs = folder / "kafka-home" / "libs"
    libs.mkdir(parents=True)
    for name in ("kafka_2.13-3.9.1.jar", "zookeeper-3.8.4.jar"):
        (libs / name).touch()
    return libs.parent


def make_java_home(folder):
    """A Java that runs, and does nothing."""
    return write_program(folder / "jdk" / "bin", "java", "exit 0").parent.parent


def test_without_java_the_message_says_what_to_install(no_programs, tmp_path):
    with pytest.raises(NotInstalledError, match=r"Java and Maven not found.*install Java and Maven \(Java 17"):
        jars.prepare(lambda line: None, tmp_path / "libs")


def test_kafka_home_needs_no_maven(no_programs, tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(make_kafka_home(tmp_path)))
    monkeypatch.setenv("JAVA_HOME", str(make_java_home(tmp_path)))
    java, libs = jars.prepare(lambda line: None)
    assert java == f"{tmp_path}/jdk/bin/java"
    assert jars.version(libs) == "3.9.1"


def test_a_kafka_home_that_is_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"KAFKA_HOME is .* must be an unpacked Kafka"):
        jars.prepare(lambda line: None)


def test_kafka_4_has_no_zookeeper_mode(tmp_path):
    with pytest.raises(BrokerError, match="mode zookeeper needs Kafka 3"):
        jars.require_zookeeper(tmp_path)


def test_jars_of_another_pom_are_fetched_anew(tmp_path):
    (tmp_path / "pom.sha256").write_text("of an older pom.xml")
    assert not jars.is_fetched(tmp_path)
    (tmp_path / "pom.sha256").write_text(jars._pom_hash())
    assert jars.is_fetched(tmp_path)


def test_mavens_failure_is_one_line_and_leaves_nothing(no_programs, tmp_path):
    write_program(no_programs, "mvn", 'echo "[ERROR] Could not resolve"; echo "[ERROR] more"; exit 1')
    with pytest.raises(NotInstalledError, match=r"Maven could not fetch Kafka's jars .*Could not resolve$"):
        jars.fetch(tmp_path / "libs", lambda line: None)
    assert not (tmp_path / "libs").exists()


@pytest.mark.parametrize(
    ("tool", "package"), [("apt-get", "default-jre-headless"), ("dnf", "java-17-amazon-corretto-headless")]
)
def test_a_missing_java_is_installed_with_the_package_manager(no_programs, monkeypatch, tmp_path, tool, package):
    log = tmp_path / "calls"
    write_program(no_programs, tool, f'echo "$@" >> {log}')
    write_program(no_programs, "env", 'shift; exec "$@"')
    monkeypatch.setattr(packages, "privilege", lambda tool: [])
    said = []
    assert packages.install("java", said.append)
    assert said == [f"Java is missing: installing {package} with {tool}"]
    assert log.read_text().splitlines()[-1].split()[-1] == package


def test_the_next_package_is_tried_where_the_first_is_unknown(no_programs, monkeypatch):
    write_program(no_programs, "dnf", 'case "$*" in *corretto*) exit 1;; esac')
    monkeypatch.setattr(packages, "privilege", lambda tool: [])
    said = []
    assert packages.install("java", said.append)
    assert [line.split()[4] for line in said] == ["java-17-amazon-corretto-headless", "java-17-openjdk-headless"]


def test_without_the_right_to_install_the_user_is_told_the_command(no_programs, monkeypatch):
    write_program(no_programs, "dnf", "exit 0")
    monkeypatch.setattr(packages, "privilege", lambda tool: None)
    assert not packages.install("java", lambda line: None)
    assert packages.hint(["java", "mvn"]) == "install with: sudo dnf install java-17-amazon-corretto-headless maven"


def write_program(folder, name, script):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# --- make run ------------------------------------------------------------------------------------------------------

STAND_IN = """
    import os, pathlib, sys, time
    here = pathlib.Path(sys.argv[0])
    here.with_suffix(".said").write_text(" ".join([*sys.argv[1:], os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "-")]))
    try:
        time.sleep({seconds})
    except KeyboardInterrupt:
        here.with_suffix(".interrupted").touch()
        sys.exit(130)
    sys.exit({code})
"""
OUTPUTS = "output.json grid_results.json results.png results.pdf\n"


def start_pipeline(folder, backtest, producer, **changes):
    """`make run` over stand-ins for the two programs; each is (seconds that it takes, exit code)."""
    for name, (seconds, code) in (("backtest", backtest), ("kafka_producer", producer)):
        (folder / f"{name}.py").write_text(textwrap.dedent(STAND_IN.format(seconds=seconds, code=code)))
    call = "import sys; from pathlib import Path; from broker import jars, pipeline; jars._BREW_JAVA = (); "
    call += "here = Path(sys.argv[1]); sys.exit(pipeline.main([], here, here / 'kafka'))"
    command = [sys.executable, "-c", call, str(folder)]
    pipe = subprocess.PIPE
    env = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env)


def finish(process):
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def said(folder, name):
    return (folder / f"{name}.said").read_text().split()


def wait_for(*paths):
    deadline = time.monotonic() + 20
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.02)


def test_a_given_broker_is_used_by_both_programs_under_one_run_id(tmp_path):
    code, out, _ = finish(start_pipeline(tmp_path, (0.1, 0), (0, 0), KAFKA_BOOTSTRAP_SERVERS="there:1", SPEED="60"))
    assert (code, out) == (0, OUTPUTS)
    backtest, producer = said(tmp_path, "backtest"), said(tmp_path, "kafka_producer")
    assert backtest == ["--run-id", backtest[1], "there:1"]
    assert producer == ["--speed", "60", "--run-id", backtest[1], "there:1"]
    assert not (tmp_path / "kafka").exists()


@pytest.mark.parametrize(("backtest", "producer", "code"), [((30, 0), (0, 7), 7), ((0, 3), (30, 0), 3)])
def test_a_program_that_fails_ends_the_other_and_gives_its_code(tmp_path, backtest, producer, code):
    started = time.monotonic()
    result = finish(start_pipeline(tmp_path, backtest, producer, KAFKA_BOOTSTRAP_SERVERS="there:1"))
    assert result[:2] == (code, "")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_reaches_both_programs_and_gives_its_code(tmp_path, number, code):
    process = start_pipeline(tmp_path, (30, 0), (30, 0), KAFKA_BOOTSTRAP_SERVERS="there:1")
    wait_for(tmp_path / "backtest.said", tmp_path / "kafka_producer.said")
    process.send_signal(number)
    result, out, _ = finish(process)
    assert (result, out) == (code, "")
    if number == signal.SIGINT:
        wait_for(tmp_path / "backtest.interrupted", tmp_path / "kafka_producer.interrupted")


def test_without_java_the_backtest_reads_the_csv_under_a_banner(tmp_path, no_programs):
    code, out, err = finish(start_pipeline(tmp_path, (0, 0), (0, 0)))
    assert (code, out) == (0, OUTPUTS)
    assert "WITHOUT KAFKA: Java" in err
    assert said(tmp_path, "backtest") == ["--csv", "l1_day.csv", "-"]
    assert not (tmp_path / "kafka_producer.said").exists()


def test_without_java_make_test_fails_with_the_line(no_programs):
    done = run_local("jars", PATH=str(no_programs))
    assert done.returncode == 1
    assert re.fullmatch(
        r"broker: Java( and Maven)? not found, and could not be installed; install Java.*\n", done.stderr
    )


# --- set-up --------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A copy of setup.sh beside an empty requirements.txt, without the fixed places it also looks into."""
    text = (ROOT / "setup.sh").read_text()
    (tmp_path / "setup.sh").write_text(re.sub(r" /(opt|usr)/\S*bin/python3[\d.]*", "", text))
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    return tmp_path


def run_setup(project, *words, **changes):
    env = {name: text for name, text in os.environ.items() if name != "PYTHON"} | changes
    command = ["/bin/sh", str(project / "setup.sh"), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def bare_path(folder, *pythons):
    """A PATH of the plain tools that setup.sh needs, and the given (name, script) programs."""
    folder.mkdir()
    for name in ("cksum", "dirname", "id", "cat", "env", "true"):
        (folder / name).symlink_to(shutil.which(name))
    for name, script in pythons:
        write_program(folder, name, script)
    return str(folder)


def test_set_up_makes_a_venv_once(project):
    first = run_setup(project, PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert (project / ".venv" / "bin" / "python").exists()
    started = time.monotonic()
    second = run_setup(project, PYTHON=sys.executable)
    assert (second.returncode, second.stderr) == (0, "")
    assert time.monotonic() - started < 1.0


def test_set_up_of_another_folder_takes_the_file_that_is_named(project, tmp_path):
    service = tmp_path / "service"
    service.mkdir()
    (service / "requirements.txt").write_text("# nothing\n")
    (service / "requirements-dev.txt").write_text("-r requirements.txt\n")
    words, quick = (str(service), "requirements-dev.txt"), {"PYTHON": sys.executable}
    assert "installing requirements-dev.txt into .venv" in run_setup(project, *words, **quick).stderr
    assert (service / ".venv" / "bin" / "python").exists()
    assert not (project / ".venv").exists()
    assert run_setup(project, *words, **quick).stderr == ""
    (service / "requirements.txt").write_text("# something else\n")
    assert "installing requirements-dev.txt into .venv" in run_setup(project, *words, **quick).stderr


def test_set_up_refuses_a_python_that_does_not_fit(project, tmp_path):
    old = write_program(tmp_path / "old", "python3.9", 'case "$*" in *print*) echo 3.9.18;; *) exit 1;; esac')
    done = run_setup(project, PYTHON=str(old))
    assert done.returncode == 2
    assert done.stderr == f"setup: PYTHON is {old} (version: 3.9.18); it must be a Python 3.10 to 3.13\n"


def test_set_up_says_what_to_install_where_there_is_no_python(project, tmp_path):
    done = run_setup(project, PATH=bare_path(tmp_path / "bin", ("python3.13", "exit 127")))
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no Python 3.10 to 3.13 found; install Python 3.10 to 3.13")


def fitting_python(folder):
    """A program that acts as this Python, but for making a venv in no time."""
    mkdir, cp = shutil.which("mkdir"), shutil.which("cp")
    venv = f'case "$*" in *"-m venv"*) {mkdir} -p .venv/bin; exec {cp} "$0" .venv/bin/python;; esac'
    return write_program(folder, "fitting-python", f'{venv}\nexec {sys.executable} "$@"')


@pytest.mark.parametrize(("tool", "package"), [("dnf", "python3.11"), ("apt-get", "python3 python3-venv")])
def test_set_up_installs_a_python_through_the_package_manager(project, tmp_path, tool, package):
    bin_folder, log, python = tmp_path / "bin", tmp_path / "calls", fitting_python(tmp_path)
    install = f'echo "$@" >> {log}; {shutil.which("cp")} {python} {bin_folder}/python3.11'
    path = bare_path(bin_folder, ("sudo", 'shift; exec "$@"'), (tool, install))
    done = run_setup(project, PATH=path)
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines()[-1].endswith(f" {package}")
    assert f"installing {package} with {tool}" in done.stderr


def test_set_up_installs_the_venv_package_of_a_debian_python_without_it(project, tmp_path):
    bin_folder, has_venv, python = tmp_path / "bin", tmp_path / "has-venv", fitting_python(tmp_path)
    path = bare_path(
        bin_folder,
        ("python3", f'case "$*" in *ensurepip*) [ -e {has_venv} ] || exit 1;; esac; exec {python} "$@"'),
        ("sudo", 'shift; exec "$@"'),
        ("apt-get", f'case "$*" in *-venv) : > {has_venv};; esac'),
    )
    done = run_setup(project, PATH=path)
    assert done.returncode == 0, done.stderr
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"{bin_folder}/python3 cannot make a venv: installing python{minor}-venv with apt-get" in done.stderr


# --- docker-compose.yml, Makefile ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_compose_offers_kraft_by_default_and_the_pair_under_a_profile(services):
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "kafka": None,
        "zookeeper": ["zookeeper"],
        "kafka-zookeeper": ["zookeeper"],
    }
    assert services["kafka"]["image"] == "apache/kafka:3.9.1"
    assert services["kafka-zookeeper"]["environment"]["KAFKA_ZOOKEEPER_CONNECT"] == "zookeeper:2181"


def test_compose_opens_loopback_ports_only_and_checks_health(services):
    for name, service in services.items():
        assert all(str(port).startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["environment"]["KAFKA_HEAP_OPTS"] == "-Xmx256M -Xms128M", name


def test_compose_brokers_have_the_settings_of_the_local_broker(services):
    text = (ROOT / "broker" / "kraft.properties").read_text()
    local = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[a-z].*=", line))
    for name in ("kafka", "kafka-zookeeper"):
        env = {key.lower()[6:].replace("_", "."): str(text) for key, text in services[name]["environment"].items()}
        shared = {key for key in env if key in local} - {"listeners", "advertised.listeners", "log.dirs"}
        shared -= {"controller.quorum.voters"}
        assert len(shared) >= 8
        assert {key: env[key] for key in shared} == {key: local[key] for key in shared}


def test_every_make_target_explains_itself():
    text = (ROOT / "Makefile").read_text()
    wanted = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    assert wanted >= {"help", "run", "test", "check", "bench", "broker-start", "broker-stop", "broker-status", "clean"}
    assert set(re.findall(r"^([a-z-]+):.* ## \S", text, re.MULTILINE)) == wanted


class pretended_jvm:  # noqa: N801 - reads as a function
    """A sleeping process with the command line of a broker's JVM, and its pid file."""

    def __init__(self, broker, ignores_sigterm=False):
        ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if ignores_sigterm else ""
        self.broker = broker
        script = f"import signal, time; {ignore}print('up', flush=True); time.sleep(60)"
        listens = f"-Dlocal.kafka.listens={broker.bootstrap}"
        self.command = [sys.executable, "-c", script, *broker.kafka.marker, listens]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        self.broker.folder.mkdir(parents=True, exist_ok=True)
        self.broker.kafka.pid_file.write_text(f"{self.process.pid}\n")
        return self.process

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
