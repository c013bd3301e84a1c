"""The local Kafka for real: both modes carry messages, a killed broker comes back whole, nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.local import LocalBroker, speaks_kafka, speaks_zookeeper

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(monkeypatch):
    """Run `python -m broker.local` on free ports of a folder, to its end."""
    monkeypatch.delenv("KAFKA_LISTEN", raising=False)

    def run(folder, name, *words):
        full = [sys.executable, "-m", "broker.local", "--dir", str(folder), name, *words]
        return subprocess.run(full, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)

    return run


def produce(broker, topic, *texts):
    done = broker.tool("console-producer", "--topic", topic, stdin="".join(f"{text}\n" for text in texts))
    assert done.returncode == 0, done.stderr


def consume(broker, topic, count):
    words = ["--topic", topic, "--from-beginning", "--timeout-ms", "20000", "--max-messages", str(count)]
    return broker.tool("console-consumer", *words).stdout.split()


def processes_of(folder):
    """Pids of the JVMs that were started for a folder."""
    marker = f"-Dlocal.kafka.dir={folder}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] if marker in path.read_bytes() else []
        except OSError:
            continue
    return found


def test_topics_are_not_made_by_asking_for_them(kafka, topic):
    done = kafka.tool("topics", "--describe", "--topic", topic)
    assert done.returncode != 0
    assert topic not in kafka.tool("topics", "--list").stdout.split()


def test_messages_go_through_and_outlive_a_broker_killed_with_9(either_kafka, topic):
    either_kafka.create_topic(topic)
    either_kafka.create_topic(topic)  # a second time does no harm
    produce(either_kafka, topic, "first", "second")
    assert consume(either_kafka, topic, 2) == ["first", "second"]
    bootstrap, pid = either_kafka.bootstrap, either_kafka.kafka.pid
    either_kafka.kill()
    assert not either_kafka.is_ready()
    either_kafka.start()
    assert either_kafka.bootstrap == bootstrap
    assert either_kafka.kafka.pid != pid
    assert consume(either_kafka, topic, 2) == ["first", "second"]


def test_start_status_start_stop_stop(tmp_path, command):
    folder = tmp_path / "kafka"
    port = LocalBroker(folder, port=0).port
    first = command(folder, "start", "--port", str(port), "--topic", "made-at-start")
    assert first.returncode == 0, first.stderr
    broker = LocalBroker(folder, port=port)
    running = f"kafka: pid {broker.kafka.pid}, 127.0.0.1:{port}, ready, up "
    assert first.stdout.startswith(running)
    status = command(folder, "status").stdout
    assert status.startswith(running)
    assert "\nmode: kraft, topics: made-at-start" in status

    second = command(folder, "start", "--port", str(port))
    assert second.returncode == 0
    assert second.stderr.count("\n") == 1
    assert f"is running already on 127.0.0.1:{port}, pid {broker.kafka.pid}" in second.stderr
    other_port = command(folder, "start", "--port", str(port + 1))
    assert (other_port.returncode, other_port.stderr.count("\n")) == (2, 1)

    assert "made-at-start" in command(folder, "--port", str(port), "tool", "topics", "--list").stdout.split()
    assert command(folder, "stop").stdout.startswith("kafka: stopped (pid ")
    assert command(folder, "stop").stdout == "nothing to stop\n"
    assert processes_of(folder) == []
    assert not speaks_kafka(f"127.0.0.1:{port}")


@pytest.mark.parametrize(("number", "wait_s"), [(signal.SIGINT, 0.5), (signal.SIGTERM, 1.2)])
def test_an_interrupted_start_leaves_no_jvm_behind(tmp_path, number, wait_s):
    folder = tmp_path / "kafka"
    words = ["start", "--mode", "zookeeper", "--dir", str(folder), "--port", "0", "--zookeeper-port", "0"]
    start = subprocess.Popen([sys.executable, "-m", "broker.local", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    time.sleep(wait_s)
    start.send_signal(number)
    assert start.wait(30) == 128 + number
    assert processes_of(folder) == []


def test_a_broker_that_cannot_start_shows_the_end_of_its_log(tmp_path, command, monkeypatch):
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1K")
    done = command(tmp_path / "kafka", "start", "--port", "0")
    assert done.returncode == 1
    assert "kafka ended while starting; the end of its log:" in done.stderr
    assert "heap" in done.stderr
    assert processes_of(tmp_path / "kafka") == []


def test_run_keeps_the_broker_in_the_foreground(tmp_path):
    folder = tmp_path / "kafka"
    port = LocalBroker(folder, port=0).port
    words = ["run", "--dir", str(folder), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.local", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "Kafka listens on" in line:
            break
    assert speaks_kafka(f"127.0.0.1:{port}")
    os.kill(process.pid, signal.SIGINT)
    process.stderr.close()
    assert process.wait(30) == 130
    assert processes_of(folder) == []


def test_zookeeper_listens_on_this_machine_only(kafka_in_mode):
    broker = kafka_in_mode("zookeeper")
    assert speaks_zookeeper(f"127.0.0.1:{broker.zookeeper_port}")
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table]
    wanted = f"{broker.zookeeper_port:04X}"
    local = {row[1].split(":")[0] for row in rows if row[1].endswith(f":{wanted}") and row[3] == "0A"}
    assert local <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert local
