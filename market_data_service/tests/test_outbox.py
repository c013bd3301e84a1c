"""The outbox and its relay: every stored price becomes an event on the topic, in order, whatever goes away in between."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest
from flow import at, expected_averages, kept_averages, messages, publish, store
from programs import Program
from prometheus_client import REGISTRY

from app import relay
from app.database import Connection, connect
from app.kafka import KafkaAwayError, Message, Publisher
from app.relay import Relay
from app.service import Stop
from app.settings import Settings

if TYPE_CHECKING:
    from local.kafka import LocalBroker
    from local.postgres import EmbeddedPostgres

RELAY, CONSUMER = "scripts/outbox_relay.py", "scripts/kafka_consumer.py"


def waiting(db: Connection) -> int:
    return relay.waiting(db)["pending"]


def seconds_by_key(settings: Settings) -> dict[str, list[str]]:
    """The timestamps on the topic, key by key, in the topic's order."""
    found = defaultdict(list)
    for each in messages(settings, settings.kafka_topic):
        found[(each.key or b"").decode()].append(json.loads(each.value or b"")["timestamp"])
    return found


def times(*seconds: int) -> list[str]:
    return [at(second).isoformat().replace("+00:00", "Z") for second in seconds]


class Failing(Publisher):
    """A publisher whose `publish` ends with `error`: after it has sent all (`is_late`), or without sending anything."""

    def __init__(self, settings: Settings, error: Exception, *, is_late: bool) -> None:
        super().__init__(settings)
        self.error, self.is_late = error, is_late

    def publish(self, messages: Sequence[Message], is_stopped: Callable[[], bool] = lambda: False) -> None:
        if self.is_late:
            super().publish(messages, is_stopped)
        raise self.error


def test_a_stored_price_becomes_one_message_with_key_headers_and_the_five_fields(db: Connection, settings: Settings):
    store(db, "AAPL", 0, "196.45", topic=settings.kafka_topic)
    assert publish(settings, db) == 1
    (found,) = messages(settings, settings.kafka_topic)
    raw_id = db.execute("SELECT id FROM raw_responses").fetchone()["id"]
    assert json.loads(found.value or b"") == {
        "symbol": "AAPL",
        "price": 196.45,
        "timestamp": "2025-06-15T13:30:00Z",
        "provider": "replay",
        "raw_response_id": str(raw_id),
    }
    assert found.key == b"replay:AAPL"
    headers = dict(found.headers)
    assert headers.pop("schema_version") == b"1"
    assert headers.pop("event_id") == str(db.execute("SELECT event_id FROM outbox").fetchone()["event_id"]).encode()
    assert headers == {}
    assert waiting(db) == 0
    assert publish(settings, db) == 0, "a published event is not published again"


def test_a_repeated_price_has_no_event_and_a_corrected_one_has_another(db: Connection, settings: Settings):
    told = [store(db, "A", 0, price, topic=settings.kafka_topic).did for price in ("1", "1", "2", "1")]
    assert told == ["new", "same", "corrected", "corrected"]
    publish(settings, db)
    found = messages(settings, settings.kafka_topic)
    assert [json.loads(each.value or b"")["price"] for each in found] == [1, 2, 1]


def test_events_of_one_symbol_keep_their_order_over_many_batches(db: Connection, settings: Settings, monkeypatch):
    monkeypatch.setattr(relay, "BATCH", 7)
    for second in range(20):
        for symbol in ("A", "B", "C"):
            store(db, symbol, second, "1", topic=settings.kafka_topic)
    assert publish(settings, db) == 60
    assert seconds_by_key(settings) == {f"replay:{symbol}": times(*range(20)) for symbol in "ABC"}


def test_a_crash_after_sending_and_before_marking_sends_again(db: Connection, settings: Settings):
    for second in range(3):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    with Failing(settings, RuntimeError("killed"), is_late=True) as killed, pytest.raises(RuntimeError):
        relay.publish_batch(db, killed)
    assert waiting(db) == 3
    assert publish(settings, db) == 3
    assert seconds_by_key(settings) == {"replay:A": times(0, 1, 2, 0, 1, 2)}
    found = messages(settings, settings.kafka_topic)
    assert len({dict(each.headers)["event_id"] for each in found}) == 3, "readers tell them by their ids"


def test_what_was_not_acknowledged_is_not_marked(db: Connection, settings: Settings):
    store(db, "A", 0, "1", topic=settings.kafka_topic)
    with Failing(settings, KafkaAwayError("away"), is_late=False) as away, pytest.raises(KafkaAwayError):
        relay.publish_batch(db, away)
    assert waiting(db) == 1


def test_one_relay_at_a_time_publishes(db: Connection, settings: Settings):
    store(db, "A", 0, "1", topic=settings.kafka_topic)
    with connect(settings, "other") as other, Publisher(settings) as publisher:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(%s)", [relay.LOCK])
            assert relay.publish_batch(db, publisher) is None
        assert relay.publish_batch(db, publisher) == 1


def test_two_relays_publish_every_event_once_and_in_order(db: Connection, settings: Settings, start, eventually):
    programs = [start(RELAY), start(RELAY)]
    eventually(lambda: db.execute("SELECT count(*) AS n FROM heartbeats").fetchone()["n"] == 2)
    for second in range(100):
        store(db, "A", second, "1", topic=settings.kafka_topic)
        if second == 50:
            programs[0].kill()
    eventually(lambda: waiting(db) == 0)
    found = seconds_by_key(settings)["replay:A"]
    assert list(dict.fromkeys(found)) == times(*range(100))


def test_loses_events_when_kafka_is_down(
    db: Connection, settings: Settings, kafka: LocalBroker, start: Callable[..., Program], eventually
):
    """Prices are stored all the same; their events are there, in order, and averaged, once Kafka is back."""
    relaying, consuming = start(RELAY), start(CONSUMER)
    for second in range(5):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    eventually(lambda: kept_averages(db))
    kafka.kill()
    for second in range(5, 30):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    relaying.wait_for("events wait in the outbox", timeout_s=40)
    consuming.wait_for("waiting for it", timeout_s=40)
    assert waiting(db) == 25
    kafka.start()
    eventually(lambda: waiting(db) == 0, timeout_s=40)
    eventually(lambda: kept_averages(db) == expected_averages(db), timeout_s=40)
    for program in (relaying, consuming):
        program.wait_for("Kafka is back")
        assert program.stop() == 0
    assert seconds_by_key(settings)["replay:A"][-25:] == times(*range(5, 30))


def test_a_relay_that_starts_before_kafka_waits_for_it(db: Connection, database_settings: Settings, start):
    program = start(RELAY, settings=database_settings)
    program.wait_for("no Kafka broker answers at 127.0.0.1:1")
    assert program.is_running
    began = time.monotonic()
    assert program.stop() == 0
    assert time.monotonic() - began < 10


def test_the_relay_outlives_a_restart_of_postgresql(
    db: Connection, settings: Settings, postgres: EmbeddedPostgres, start, eventually
):
    program = start(RELAY)
    eventually(lambda: db.execute("SELECT count(*) AS n FROM heartbeats").fetchone()["n"] == 1)
    postgres.kill()
    postgres.start()
    with connect(settings, "test") as again:
        store(again, "A", 0, "1", topic=settings.kafka_topic)
        eventually(lambda: waiting(again) == 0)
    assert seconds_by_key(settings) == {"replay:A": times(0)}
    assert "database went away" in program.err


def test_an_event_is_published_at_once_not_at_the_next_look(db: Connection, settings: Settings, start, eventually):
    start(RELAY)
    store(db, "A", 0, "1", topic=settings.kafka_topic)
    eventually(lambda: waiting(db) == 0)
    for second in range(1, 11):
        store(db, "A", second, "1", topic=settings.kafka_topic)
        eventually(lambda: waiting(db) == 0)
    took = db.execute(
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY published_at - created_at) AS s FROM outbox"
    ).fetchone()
    assert took["s"].total_seconds() < relay.IDLE_S / 2


def test_the_relay_tells_how_much_waits_and_for_how_long(db: Connection, settings: Settings):
    stop = Stop()
    for second in range(3):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    db.execute("UPDATE outbox SET created_at = now() - interval '90 s' WHERE id = (SELECT min(id) FROM outbox)")
    with connect(settings, "other") as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(%s)", [relay.LOCK])
        threading.Timer(0.3, stop.set).start()
        standing_by = Relay(settings, stop)
        standing_by.run(db)
        standing_by.close()
    assert REGISTRY.get_sample_value("outbox_pending") == 3
    assert REGISTRY.get_sample_value("outbox_oldest_age_seconds") == pytest.approx(90, abs=5)
    assert db.execute("SELECT * FROM heartbeats").fetchall() == [], "a relay that was asked to end takes its beat away"
