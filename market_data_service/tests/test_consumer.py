"""The consumer: whatever is delivered twice, late, to another process or not at all, the averages and offsets agree."""

from __future__ import annotations

import gzip
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from flow import (
    NotUtf8,
    at,
    bytes_of,
    consume,
    expected_averages,
    foreign,
    kept_averages,
    publish,
    recomputed,
    send,
    store,
    take_codecs_away,
)
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import UnsupportedCodecError
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import OffsetAndMetadata
from programs import Program
from prometheus_client import REGISTRY

from app import averages, consumer, database, dead_letters
from app import kafka as client
from app.consumer import Consumer
from app.database import Connection
from app.kafka import Message
from app.service import Stop
from app.settings import Settings

if TYPE_CHECKING:
    from local.postgres import EmbeddedPostgres

SCRIPT = "scripts/kafka_consumer.py"
SYMBOLS = [f"S{number}" for number in range(12)]


def store_seconds(db: Connection, settings: Settings, seconds: range) -> int:
    """A price of each symbol for every second; how many."""
    for second in seconds:
        for number, symbol in enumerate(SYMBOLS):
            store(db, symbol, second, str(1 + (7 * second + number) % 50), topic=settings.kafka_topic)
    return len(seconds) * len(SYMBOLS)


def offsets(db: Connection) -> dict[int, int]:
    return {row["partition"]: row["next_offset"] for row in db.execute("SELECT * FROM consumer_offsets")}


def is_whole(db: Connection) -> bool:
    return kept_averages(db) == expected_averages(db)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels or None) or 0.0


@contextmanager
def working(settings: Settings, **given: bool) -> Iterator[Consumer]:
    """A consumer at work in a thread."""
    stop = Stop()
    one = Consumer(settings, stop, **given)
    with database.connect(settings, "consumer") as connection:
        thread = threading.Thread(target=one.run, args=[connection])
        thread.start()
        try:
            yield one
        finally:
            stop.set()
            thread.join(20)
            one.close()


def test_a_backlog_is_drained_and_every_average_is_right(db: Connection, settings: Settings):
    count = store_seconds(db, settings, range(30))
    publish(settings, db)
    before = counted("events_consumed_total"), counted("averages_upserted_total")
    assert consume(settings) == 0
    assert is_whole(db)
    assert bytes_of(db) == recomputed(db)
    assert sum(offsets(db).values()) == count
    assert counted("events_consumed_total") - before[0] == count
    assert counted("averages_upserted_total") - before[1] == len(kept_averages(db)) == 26 * len(SYMBOLS)
    assert consume(settings) == 0, "and again, with nothing to do"


def test_doubles_rows_on_redelivery(db: Connection, settings: Settings):
    """All is delivered a second time, and a third time by a relay that crashed: no row is added, none is even touched."""
    store_seconds(db, settings, range(10))
    publish(settings, db)
    consume(settings)
    rows = "SELECT symbol, ts, xmin::text, ctid::text FROM moving_averages ORDER BY symbol, ts"
    before = db.execute(rows).fetchall()
    assert len(before) == 6 * len(SYMBOLS)
    assert consume(settings, from_beginning=True) == 0
    db.execute("UPDATE outbox SET published_at = NULL")
    publish(settings, db)
    consume(settings)
    assert db.execute(rows).fetchall() == before
    assert sum(offsets(db).values()) == 2 * 10 * len(SYMBOLS)


def test_the_stored_offset_decides_not_the_one_that_kafka_was_told(db: Connection, settings: Settings):
    store_seconds(db, settings, range(8))
    publish(settings, db)
    told = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers, group_id=settings.kafka_group, enable_auto_commit=False
    )
    where = [TopicPartition(settings.kafka_topic, each) for each in told.partitions_for_topic(settings.kafka_topic)]
    told.commit({each: OffsetAndMetadata(end, "", -1) for each, end in told.end_offsets(where).items()})
    told.close()
    consume(settings)
    assert is_whole(db)


def test_kafka_is_told_how_far_the_group_is_for_tools(db: Connection, settings: Settings, eventually):
    count = store_seconds(db, settings, range(6))
    publish(settings, db)
    with working(settings):
        eventually(lambda: is_whole(db))
        told = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap_servers, group_id=settings.kafka_group)
        where = [TopicPartition(settings.kafka_topic, each) for each in told.partitions_for_topic(settings.kafka_topic)]
        eventually(lambda: sum(told.committed(each) or 0 for each in where) == count)
        told.close()


def test_events_are_averaged_as_they_come_and_lag_is_told(db: Connection, settings: Settings, eventually):
    with working(settings):
        eventually(lambda: db.execute("SELECT FROM heartbeats WHERE name = 'consumer'").fetchone() is not None)
        store_seconds(db, settings, range(6))
        publish(settings, db)
        eventually(lambda: is_whole(db))
        told = "SELECT details FROM heartbeats WHERE name = 'consumer' AND details = %s"
        eventually(lambda: db.execute(told, ['{"lag": 0, "partitions": 6}']).fetchone() is not None)
        assert counted("consumer_lag") == 0
    assert db.execute("SELECT FROM heartbeats").fetchone() is None, (
        "a consumer that was asked to end takes its beat away"
    )


def test_demonstration_3_two_consumers_share_the_work_and_a_rebalance_loses_nothing(
    db: Connection, settings: Settings, start: Callable[..., Program], eventually
):
    """Half way a second consumer joins; then the first is killed. Every average is right, every message is counted once."""
    first = start(SCRIPT)
    count = store_seconds(db, settings, range(20))
    publish(settings, db)
    eventually(lambda: sum(offsets(db).values()) == count)
    second = start(SCRIPT)
    for seconds in (range(20, 30), range(30, 40), range(40, 50)):
        count += store_seconds(db, settings, seconds)
        publish(settings, db)
    shared = "SELECT FROM heartbeats WHERE details->>'partitions' = '3'"
    eventually(lambda: len(db.execute(shared).fetchall()) == 2)
    first.kill()
    count += store_seconds(db, settings, range(50, 60))
    publish(settings, db)
    eventually(lambda: sum(offsets(db).values()) == count, timeout_s=40)
    assert is_whole(db)
    assert bytes_of(db) == recomputed(db)
    assert second.stop() == 0
    print(
        f"\ndemonstration 3, consumers: {count} events, one joined, one killed: offsets sum to {count}, averages equal"
    )


def test_partitions_that_are_added_while_it_runs_are_worked_on(
    db: Connection, settings: Settings, eventually, monkeypatch
):
    """Each poll ends before the group has shared out the partitions anew: the join it began is not forgotten."""
    monkeypatch.setattr(client, "METADATA_MS", 300)
    monkeypatch.setattr(client, "JOIN_MS", 1)
    monkeypatch.setattr(consumer, "POLL_S", 0.001)
    with working(settings):
        count = store_seconds(db, settings, range(6))
        publish(settings, db)
        eventually(lambda: is_whole(db))
        for partitions in (7, 8, 9):
            admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
            admin.create_partitions({settings.kafka_topic: partitions})
            admin.close()
            eventually(lambda partitions=partitions: len(offsets(db)) == partitions)
        count += store_seconds(db, settings, range(6, 8))
        publish(settings, db)
        eventually(lambda: sum(offsets(db).values()) == count)
        assert is_whole(db)


def test_a_process_that_was_taken_for_dead_cannot_commit(db: Connection, settings: Settings, caplog, eventually):
    """The stored offsets are moved by another process while this one works: its batch is refused, and read again from there."""
    with working(settings) as one:
        store_seconds(db, settings, range(6))
        publish(settings, db)
        eventually(lambda: is_whole(db))
        before = offsets(db)
        db.execute("UPDATE consumer_offsets SET next_offset = 0")
        db.execute("DELETE FROM moving_averages")
        store_seconds(db, settings, range(6, 8))
        publish(settings, db)
        eventually(lambda: is_whole(db))
        assert sum(offsets(db).values()) == sum(before.values()) + 2 * len(SYMBOLS)
        assert "another process works on the same partitions" in caplog.text
        assert one is not None


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(db: Connection, settings: Settings, caplog):
    store_seconds(db, settings, range(6))
    publish(settings, db)
    db.execute(
        "INSERT INTO consumer_offsets SELECT %s, %s, n, 1000000 FROM generate_series(0, 5) AS n",
        [settings.kafka_group, settings.kafka_topic],
    )
    consume(settings)
    assert is_whole(db)
    assert "the topic was made anew" in caplog.text


def test_messages_deleted_before_they_were_read_are_told(db: Connection, settings: Settings, caplog):
    store_seconds(db, settings, range(6))
    publish(settings, db)
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    admin.delete_records({TopicPartition(settings.kafka_topic, each): -1 for each in range(6)})
    admin.close()
    db.execute(
        "INSERT INTO consumer_offsets SELECT %s, %s, n, 0 FROM generate_series(0, 5) AS n",
        [settings.kafka_group, settings.kafka_topic],
    )
    store_seconds(db, settings, range(6, 7))
    publish(settings, db)
    consume(settings)
    assert "6 messages were deleted before they were read; run scripts/recompute_averages.py" in caplog.text
    averages.recompute(db, 5)
    assert is_whole(db)


def test_database_trouble_is_waited_out_and_nothing_is_skipped(
    db: Connection, settings: Settings, postgres: EmbeddedPostgres, start: Callable[..., Program], eventually
):
    """PostgreSQL is killed in the middle of a batch's transaction."""
    program = start(SCRIPT)
    count = store_seconds(db, settings, range(6))
    publish(settings, db)
    eventually(lambda: is_whole(db))
    with suppress(psycopg.OperationalError), database.connect(settings, "other") as other:
        other.execute("BEGIN; LOCK TABLE moving_averages")
        count += store_seconds(db, settings, range(6, 8))
        publish(settings, db)
        blocked = "SELECT FROM pg_stat_activity WHERE application_name = 'consumer' AND wait_event_type = 'Lock'"
        eventually(lambda: db.execute(blocked).fetchone() is not None)
        postgres.kill()
    program.wait_for("database went away")
    time.sleep(1)
    postgres.start()
    with database.connect(settings, "test") as again:
        eventually(lambda: sum(offsets(again).values()) == count)
        assert is_whole(again)
        assert again.execute("SELECT FROM dead_letters").fetchone() is None
    assert program.stop() == 0


def test_a_slow_database_is_asked_again(db: Connection, settings: Settings, caplog, eventually, monkeypatch):
    """A statement that runs into its time-out is no bad message."""
    monkeypatch.setattr(database, "OPTIONS", "-c timezone=UTC -c statement_timeout=300ms")
    store_seconds(db, settings, range(6))
    publish(settings, db)
    with database.connect(settings, "other") as other, working(settings):
        with other.transaction():
            other.execute("LOCK TABLE moving_averages")
            eventually(lambda: "trying again" in caplog.text)
        eventually(lambda: is_whole(db))
    assert db.execute("SELECT FROM dead_letters").fetchone() is None


def test_once_without_a_broker_is_an_error_of_one_line(database_settings: Settings, db: Connection, start):
    program = start(SCRIPT, "--once", settings=database_settings)
    assert program.finish() == 1
    assert program.err == "error: no Kafka broker answers at 127.0.0.1:1 as it must (KafkaTimeoutError)\n"


def test_wrong_flags_and_settings_are_told_in_one_line(start, database_settings: Settings):
    wrong = start(SCRIPT, "--twice", settings=database_settings)
    assert (wrong.finish(), wrong.err.count("\n")) == (2, 1)
    bad = start(SCRIPT, settings=database_settings, MA_WINDOW="0")
    assert bad.finish() == 2
    assert bad.err.startswith("error: MA_WINDOW is '0'")


def test_the_window_is_a_setting(db: Connection, settings: Settings):
    store_seconds(db, settings, range(4))
    publish(settings, db)
    consume(replace(settings, ma_window=3))
    assert kept_averages(db, 3) == expected_averages(db, 3)
    assert kept_averages(db, 5) == {}


def test_an_event_of_a_price_that_is_not_stored_is_set_aside_and_the_others_are_averaged(
    db: Connection, settings: Settings
):
    store_seconds(db, settings, range(6))
    publish(settings, db)
    db.execute("DELETE FROM latest_prices")
    db.execute("DELETE FROM market_prices WHERE symbol = 'S3' AND ts = %s", [at(2)])
    before = counted("dlq_messages_total", reason="unknown_price")
    consume(settings)
    assert is_whole(db)
    (kept,) = db.execute("SELECT reason, detail, status FROM dead_letters").fetchall()
    detail = "no price of S3 by replay is stored for 2025-06-15T13:30:02+00:00"
    assert kept == {"reason": "unknown_price", "detail": detail, "status": "waiting"}
    assert counted("dlq_messages_total", reason="unknown_price") == before + 1


def test_a_message_with_a_header_whose_name_is_not_utf8_is_set_aside_and_its_neighbours_are_not(
    db: Connection, settings: Settings
):
    for second in range(5):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    payloads = [row["payload"].encode() for row in db.execute("SELECT payload FROM outbox ORDER BY id")]
    good = [Message(settings.kafka_topic, b"replay:A", payload) for payload in payloads]
    bad = Message(settings.kafka_topic, b"replay:A", b"{}", [(NotUtf8("name"), b"1")])
    send(settings, *good[:2], bad, *good[2:])
    consume(settings)
    assert is_whole(db)
    (kept,) = db.execute('SELECT reason, key, payload, "offset" FROM dead_letters').fetchall()
    assert (kept["reason"], kept["key"], kept["offset"]) == ("not_utf8", b"replay:A", 2)
    assert b"{}" in bytes(kept["payload"])
    assert sum(offsets(db).values()) == 6


def test_messages_that_cannot_be_unpacked_are_set_aside_and_block_nothing(
    db: Connection, settings: Settings, monkeypatch
):
    """Packed in a way that is not installed here: what is in them is on its topic only, so there is nothing to send again."""
    store_seconds(db, settings, range(6))
    publish(settings, db)
    with foreign(settings, compression_type="gzip", linger_ms=1000) as packer:
        for number in range(3):
            packer.send(settings.kafka_topic, b"{}" * 100, key=b"replay:S3", partition=number % 2)
    store_seconds(db, settings, range(6, 8))
    publish(settings, db)
    take_codecs_away(monkeypatch)
    consume(settings)
    assert is_whole(db)
    kept = db.execute("SELECT reason, payload, detail, status FROM dead_letters").fetchall()
    detail = str(UnsupportedCodecError("gzip"))
    wanted = {"reason": "unreadable", "payload": b"", "detail": f"UnsupportedCodecError: {detail}", "status": "waiting"}
    assert kept == [wanted] * 3
    with database.connect(settings, "test") as connection:
        report = dead_letters.replay(settings, connection, dead_letters.Choice())
    assert [each.reason for each in report.quarantined] == ["unreadable"] * 3
    assert report.sent == 0


def test_a_damaged_message_among_others_of_its_batch_does_not_stop_the_consumer(
    db: Connection, settings: Settings, monkeypatch
):
    """What follows it in its batch cannot be read either; the next batch can."""
    whole = client._read_strictly

    def damaged(batch: DefaultRecordBatch) -> object:
        record = whole(batch)
        if record.value == b"damaged":
            raise ValueError("damaged")
        return record

    monkeypatch.setattr(client, "_read_strictly", damaged)
    send(settings, *[Message(settings.kafka_topic, b"k", value) for value in (b"1", b"damaged", b"2")])
    send(settings, Message(settings.kafka_topic, b"k", b"3"))
    consume(settings)
    kept = db.execute('SELECT reason FROM dead_letters ORDER BY "offset"').fetchall()
    assert [each["reason"] for each in kept] == ["schema", "unreadable", "unreadable", "schema"]
    assert sum(offsets(db).values()) == 4


def test_packed_data_that_are_damaged_do_not_stop_the_consumer(db: Connection, settings: Settings, monkeypatch):
    """Kafka takes a gzip stream with other bytes behind it; Python does not."""
    store_seconds(db, settings, range(6))
    publish(settings, db)
    whole = default_records.gzip_encode
    monkeypatch.setattr(default_records, "gzip_encode", lambda data: whole(data) + b"garbage!")
    with foreign(settings, compression_type="gzip", linger_ms=1000) as packer:
        for _ in range(3):
            packer.send(settings.kafka_topic, b"{}" * 100, partition=0)
    store_seconds(db, settings, range(6, 8))
    publish(settings, db)
    consume(settings)
    assert is_whole(db)
    kept = db.execute("SELECT reason, detail FROM dead_letters").fetchall()
    detail = "CorruptRecordError: error: Error -3 while decompressing data: incorrect header check"
    assert [(each["reason"], each["detail"][-len(detail) :]) for each in kept] == [("unreadable", detail)] * 3


@pytest.mark.parametrize(
    ("packed", "told"),
    [
        (gzip.compress(bytes(client.MOST_UNPACKED + 1)), "more than 67108864 bytes when unpacked"),
        (gzip.compress(b"1")[:-1], "the packed data end too early"),
    ],
    ids=["too much", "too little"],
)
def test_packed_data_are_not_unpacked_without_end(packed: bytes, told: str):
    with pytest.raises(ValueError, match=told):
        default_records.gzip_decode(packed)


def test_all_members_of_packed_data_are_unpacked():
    assert default_records.gzip_decode(gzip.compress(b"one ") + gzip.compress(b"two")) == b"one two"


def test_the_marks_of_transactions_are_no_messages(db: Connection, settings: Settings, monkeypatch):
    """They have offsets, too: at the end of a partition, and before what cannot be read."""
    with foreign(settings, transactional_id=settings.kafka_topic) as producer:
        producer.init_transactions()
        for partition, end in ((0, producer.commit_transaction), (1, producer.abort_transaction)):
            producer.begin_transaction()
            producer.send(settings.kafka_topic, b"{", partition=partition).get(5)
            end()
    consume(settings)
    assert offsets(db) == {**dict.fromkeys(range(6), 0), 0: 1, 1: 1}
    with foreign(settings, compression_type="gzip") as packer:
        packer.send(settings.kafka_topic, b"{}" * 100, partition=0)
    take_codecs_away(monkeypatch)
    consume(settings)
    kept = db.execute('SELECT reason, partition, "offset" FROM dead_letters ORDER BY id').fetchall()
    assert sorted(tuple(each.values()) for each in kept) == [
        ("not_json", 0, 0),
        ("not_json", 1, 0),
        ("unreadable", 0, 2),
    ]


def test_a_batch_is_kept_whole_or_not_at_all(db: Connection, settings: Settings, monkeypatch):
    """The dead-letter topic does not answer: no average, no offset, no letter of the batch is kept."""
    store_seconds(db, settings, range(6))
    publish(settings, db)
    send(settings, Message(settings.kafka_topic, b"replay:S1", b"{"))
    monkeypatch.setattr(consumer.Publisher, "publish", _away)
    with pytest.raises(consumer.KafkaAwayError):
        consume(settings)
    kept = len(kept_averages(db))
    assert kept < 2 * len(SYMBOLS)
    assert db.execute("SELECT FROM dead_letters").fetchone() is None
    monkeypatch.undo()
    consume(settings)
    assert is_whole(db)
    assert len(db.execute("SELECT FROM dead_letters").fetchall()) == 1


def _away(*_: object) -> None:
    raise consumer.KafkaAwayError("away")


def test_logging_is_quiet_about_what_the_client_of_kafka_meets(db: Connection, settings: Settings):
    store_seconds(db, settings, range(1))
    publish(settings, db)
    consume(settings)
    assert not logging.getLogger("kafka").isEnabledFor(logging.ERROR)
