"""Real market data through the real broker: the same events, to the last field, as from the file.

`tests/test_check_values.py` holds the events of the file against independent figures; these tests carry that over to Kafka.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import backtest
import kafka_producer
from sor import contract, feed, stream
from sor.audit import RunAudit
from sor.events import EVENT_DTYPES, Checker, Events, Intake

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = ("real_dev.csv.gz", "databento_mbp10_arl.csv.gz")


def produced(path: Path, servers: str, topic: str) -> stream.Topic:
    words = ["--csv", str(path), "--speed", "0", "--kafka-bootstrap-servers", servers, "--kafka-topic", topic]
    assert kafka_producer.main(words) == 0
    return stream.Topic(servers, topic)


def events_of_the_stream(topic: stream.Topic) -> Events:
    intake = Intake(Checker(10**9))
    with stream.Reader(topic, "test") as reader:
        audit = RunAudit(reader.next_unreported(timeout_s=30))
        while not audit.ended:
            first_row = audit.received
            intake.add(contract.decode_rows(audit.accept(reader.poll()), first_row))
    assert audit.faults() == []
    return intake.buffer.events()


@pytest.mark.parametrize("name", FILES)
def test_events_from_the_broker_are_those_of_the_file(kafka, topic, name):
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    from_file = Intake(Checker(10**9))
    feed.load(SHARED / name, from_file)
    expected, found = from_file.buffer.events(), events_of_the_stream(produced(SHARED / name, kafka.bootstrap, topic))
    assert found.publisher_ids == expected.publisher_ids
    for field, _ in EVENT_DTYPES:
        assert np.array_equal(getattr(found, field), getattr(expected, field)), field


@pytest.mark.parametrize("name", FILES)
def test_the_report_of_the_broker_is_that_of_the_file(kafka, topic, name, tmp_path):
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    produced(SHARED / name, kafka.bootstrap, topic)
    servers = ["--kafka-bootstrap-servers", kafka.bootstrap, "--kafka-topic", topic]
    assert backtest.main([*servers, "--out", str(tmp_path / "kafka")]) == 0
    assert backtest.main(["--csv", str(SHARED / name), "--out", str(tmp_path / "csv")]) == 0
    by_kafka, by_csv = (json.loads((tmp_path / way / "output.json").read_text()) for way in ("kafka", "csv"))
    assert by_kafka.pop("run")["whole"]
    assert by_csv.pop("run")["transport"] == "csv"
    assert json.dumps(by_kafka) == json.dumps(by_csv)
    assert by_kafka["data"]["simulated"] is False
