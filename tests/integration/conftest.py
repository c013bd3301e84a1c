"""Brokers of the test session's own: free ports, temporary folders, started when first asked for.

    kafka          a running broker (mode: SOR_TEST_BROKER_MODE, default kraft); `kafka.bootstrap` for clients
    kafka_in_mode  the same in a given mode: kafka_in_mode("zookeeper"); one broker per mode and session
    either_kafka   a parameter: the test runs once in each mode
    topic          a fresh topic name
    day            a small CSV file
    terminals      starts the programs as processes on the broker and topic of the test

Under CI (so under `make test`) a broker that cannot be had is a failure; else a skip.
"""

import os
import uuid

import pytest

from broker.errors import NotInstalledError
from broker.local import MODES, LocalBroker
from tests.integration.terminals import Terminals, write_morning


@pytest.fixture(scope="session")
def kafka_in_mode(tmp_path_factory):
    """`kafka_in_mode(mode)` gives the session's running broker of that mode."""
    started: dict[str, LocalBroker] = {}

    def running(mode):
        if mode not in started:
            started[mode] = _start(tmp_path_factory.mktemp(f"broker-{mode}"), mode)
        return started[mode]

    yield running
    for broker in started.values():
        broker.stop()


@pytest.fixture(scope="session")
def kafka(kafka_in_mode):
    """The session's broker."""
    return kafka_in_mode(os.environ.get("SOR_TEST_BROKER_MODE") or "kraft")


@pytest.fixture(scope="session", params=MODES)
def either_kafka(request, kafka_in_mode):
    """The session's broker of each mode in turn."""
    return kafka_in_mode(request.param)


@pytest.fixture
def topic():
    """A name that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def day(tmp_path_factory):
    """The first rows of l1_day.csv, one of them bad."""
    return write_morning(tmp_path_factory.mktemp("data") / "morning.csv")


@pytest.fixture
def terminals(request, topic, tmp_path):
    """Terminals on the session's broker."""
    name = "either_kafka" if "either_kafka" in request.fixturenames else "kafka"
    opened = Terminals(request.getfixturevalue(name), topic, tmp_path)
    yield opened
    opened.end()


def _start(folder, mode):
    broker = LocalBroker(folder, mode=mode, port=0, host="127.0.0.1")
    try:
        broker.start()
    except NotInstalledError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return broker
