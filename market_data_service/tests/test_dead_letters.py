"""Messages that are no events: set aside with their reason, never in the way of others, and sent again once mended."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from flow import (
    NotUtf8,
    at,
    consume,
    expected_averages,
    foreign,
    kept_averages,
    messages,
    publish,
    send,
    store,
    take_codecs_away,
)
from programs import Program

from app import dead_letters, events
from app.database import Connection, connect
from app.dead_letters import Choice, Failure
from app.errors import ServiceError
from app.kafka import MOST_VALUE, KafkaAwayError, Message, Publisher
from app.settings import Settings

SCRIPT = "scripts/replay_dlq.py"
NOW = datetime.datetime(2025, 6, 15, 20, 30, tzinfo=datetime.timezone.utc)


@dataclass
class AMessage:
    """A record, made by hand."""

    value: bytes | None = b"{"
    key: bytes | None = b"replay:A"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    partition: int = 2
    offset: int = 17
    timestamp: int = 0


def event(symbol: str, second: int, **changed: object) -> bytes:
    """The value of an event of a price, with some fields changed."""
    told = {
        "symbol": symbol,
        "price": 1,
        "timestamp": at(second).isoformat(),
        "provider": "replay",
        "raw_response_id": "1",
    }
    return json.dumps(told | changed).encode()


def poison(reason: str, number: int, settings: Settings) -> Message:
    """A message that is set aside for `reason`."""
    ahead = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).isoformat()
    values = {
        "empty": b"",
        "not_utf8": b"\xff\xfe%d" % number,
        "not_json": b"{%d" % number,
        "schema": event("A", number, price="1"),
        "unknown_version": event("A", number),
        "future_timestamp": event("A", number, timestamp=ahead),
        "unknown_price": event("NONE", number),
    }
    version = b"2" if reason == "unknown_version" else b"1"
    return Message(settings.kafka_topic, b"replay:A", values[reason], [("schema_version", version)])


def rows(db: Connection) -> list[dict]:
    return db.execute("SELECT * FROM dead_letters ORDER BY id").fetchall()


def statuses(db: Connection) -> Counter[str]:
    return Counter(row["status"] for row in rows(db))


def replay(settings: Settings, db: Connection, **given: object) -> dead_letters.Report:
    """Replay as the script does, in this process."""
    with connect(settings, "replay") as connection:
        return dead_letters.replay(settings, connection, Choice(**given))


def test_a_letter_says_where_the_message_was_why_it_failed_when_and_how_often():
    record = AMessage(headers=[("schema_version", b"1"), ("event_id", b"e"), ("other", b"x" * 10_000)])
    letter = dead_letters.letter(Failure(record, "not_json", "no\n\x00value"), "price-events", NOW)
    message = letter.message("price-events-dlq")
    assert (message.topic, message.key, message.value) == ("price-events-dlq", b"replay:A", b"{")
    assert dict(message.headers) == {
        "original_topic": b"price-events",
        "original_partition": b"2",
        "original_offset": b"17",
        "reason": b"not_json",
        "detail": b"no??value",
        "first_failed_at": b"2025-06-15T20:30:00+00:00",
        "attempts": b"1",
        "event_id": b"e",
        "schema_version": b"1",
    }
    again = letter.again()
    assert (again.topic, again.key, again.value) == ("price-events", b"replay:A", b"{")
    assert dict(again.headers) == {
        "first_failed_at": b"2025-06-15T20:30:00+00:00",
        "attempts": b"2",
        "event_id": b"e",
        "schema_version": b"1",
    }


def test_a_message_that_fails_again_keeps_its_first_time_and_counts_on():
    told = [("attempts", b"3"), ("first_failed_at", b"2025-06-01T00:00:00+00:00")]
    letter = dead_letters.letter(Failure(AMessage(headers=told), "schema", "?"), "price-events", NOW)
    assert (letter.attempts, letter.first_failed_at.day) == (3, 1)
    for lie in (
        [("attempts", b"-1"), ("first_failed_at", b"never")],
        [("attempts", None), ("first_failed_at", b"2025-06-01")],
    ):
        letter = dead_letters.letter(Failure(AMessage(headers=lie), "schema", "?"), "price-events", NOW)
        assert (letter.attempts, letter.first_failed_at) == (1, NOW)


def test_of_a_payload_too_large_for_the_topic_the_beginning_is_sent_and_the_table_keeps_all(
    db: Connection, settings: Settings
):
    huge = event("A" * 1_040_000, 0)
    store(db, "A", 0, "1", topic=settings.kafka_topic)
    send(settings, Message(settings.kafka_topic, b"k" * 5_000, huge), Message(settings.kafka_topic, None, b""))
    publish(settings, db)
    consume(settings)
    assert [row["reason"] for row in sorted(rows(db), key=lambda row: -len(row["payload"]))] == ["schema", "empty"]
    assert {bytes(row["payload"]) for row in rows(db)} == {huge, b""}
    sent = {len(each.value or b"") for each in messages(settings, settings.kafka_dlq_topic)}
    assert sent == {MOST_VALUE, 0}
    report = replay(settings, db)
    assert (report.sent, len(report.quarantined)) == (1, 1), "one that large can never be an event"


def test_every_reason_is_set_aside_and_none_is_in_the_way(db: Connection, settings: Settings):
    for second in range(8):
        store(db, "A", second, str(second + 1), topic=settings.kafka_topic)
        if second < len(events.REASONS):
            publish(settings, db)
            send(settings, poison(events.REASONS[second], second, settings))
    publish(settings, db)
    consume(settings)
    assert kept_averages(db) == expected_averages(db)
    assert [row["reason"] for row in rows(db)] == list(events.REASONS)
    found = messages(settings, settings.kafka_dlq_topic)
    assert [dict(each.headers)["reason"].decode() for each in found] == list(events.REASONS)
    for each, row in zip(found, rows(db), strict=True):
        told = {name: (value or b"").decode() for name, value in each.headers}
        assert told["original_topic"] == settings.kafka_topic
        assert (int(told["original_partition"]), int(told["original_offset"])) == (row["partition"], row["offset"])
        assert (told["attempts"], told["detail"]) == ("1", row["detail"])
        assert bytes(row["payload"]) == each.value


def test_a_dry_run_counts_by_reason_and_changes_nothing(
    db: Connection, settings: Settings, start: Callable[..., Program]
):
    send(
        settings,
        *[poison(reason, number, settings) for reason in ("schema", "not_json", "schema") for number in (1, 2)],
    )
    consume(settings)
    program = start(SCRIPT, "--dry-run")
    assert program.finish() == 0
    assert (
        program.out
        == f"{'schema':<18} {4:>7}\n{'not_json':<18} {2:>7}\n6 would be sent again, 0 would be quarantined, 0 left\n"
    )
    assert statuses(db) == {"waiting": 6}
    assert len(messages(settings, settings.kafka_topic)) == 6
    assert start(SCRIPT, "--dry-run").finish() == 0
    assert replay(settings, db, is_dry_run=True).sent == 6, "the group stands where it stood"


def test_letters_are_sent_again_when_the_missing_price_is_stored(db: Connection, settings: Settings, start):
    for second in range(6):
        store(db, "A", second, str(second + 1), topic=settings.kafka_topic)
    publish(settings, db)
    lost = db.execute("DELETE FROM latest_prices")
    lost = db.execute(
        "DELETE FROM market_prices WHERE ts = %s RETURNING symbol, provider, price, ts", [at(1)]
    ).fetchone()
    consume(settings)
    assert [row["reason"] for row in rows(db)] == ["unknown_price"]
    db.execute(
        "INSERT INTO market_prices (symbol, provider, price, ts) VALUES (%(symbol)s, %(provider)s, %(price)s, %(ts)s)",
        lost,
    )
    assert kept_averages(db) != expected_averages(db)
    program = start(SCRIPT)
    assert program.finish() == 0
    assert program.out.endswith("1 sent again, 0 quarantined, 0 left\n")
    consume(settings)
    assert kept_averages(db) == expected_averages(db)
    assert statuses(db) == {"replayed": 1}
    assert replay(settings, db).reasons == {}, "what was sent again is not sent a second time"


def test_a_payload_corrected_in_the_table_is_what_is_sent(db: Connection, settings: Settings):
    for second in range(5):
        store(db, "A", second, "1", topic=settings.kafka_topic)
    db.execute("UPDATE outbox SET payload = replace(payload, '\"symbol\"', '\"ticker\"')")
    publish(settings, db)
    consume(settings)
    assert [row["reason"] for row in rows(db)] == ["schema"] * 5
    db.execute(
        "UPDATE dead_letters SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'ticker', 'symbol'), 'UTF8')"
    )
    replay(settings, db)
    consume(settings)
    assert kept_averages(db) == expected_averages(db) != {}
    assert statuses(db) == {"replayed": 5}


def test_reason_time_and_number_choose_and_the_others_stay_for_later(db: Connection, settings: Settings):
    send(settings, *[poison(reason, n, settings) for n in range(3) for reason in ("not_json", "schema")])
    consume(settings)
    assert replay(settings, db, since=datetime.datetime.now(datetime.timezone.utc)).left == 6
    first = replay(settings, db, reason="schema", most=2)
    assert (first.sent, first.left, first.reasons) == (2, 4, {"not_json": 3, "schema": 3})
    assert statuses(db) == {"replayed": 2, "waiting": 4}
    assert {row["reason"] for row in rows(db) if row["status"] == "replayed"} == {"schema"}
    second = replay(settings, db, since=at(0))
    assert (second.sent, second.left) == (4, 0)
    assert statuses(db) == {"replayed": 6}


def test_a_message_that_keeps_failing_is_quarantined_and_listed(db: Connection, settings: Settings, start):
    send(settings, poison("not_json", 1, settings))
    consume(settings)
    for attempts in range(2, 6):
        assert replay(settings, db).sent == 1
        consume(settings)
        assert [row["attempts"] for row in rows(db)] == list(range(1, attempts + 1))
    assert len({row["first_failed_at"] for row in rows(db)}) == 1
    program = start(SCRIPT)
    assert program.finish() == 0
    assert "quarantined after 5 attempts: " + settings.kafka_topic in program.out
    assert program.out.endswith("0 sent again, 1 quarantined, 0 left\n")
    assert statuses(db) == {"replayed": 4, "quarantined": 1}
    assert len(replay(settings, db).quarantined) == 1, "it stays, and is listed each time"
    assert replay(settings, db, max_attempts=6).sent == 1


def test_a_crash_before_the_letters_are_marked_sends_them_again_and_nothing_breaks(
    db: Connection, settings: Settings, monkeypatch
):
    store(db, "A", 0, "1", topic=settings.kafka_topic)
    send(settings, poison("unknown_price", 1, settings))
    consume(settings)
    real = Publisher.publish
    monkeypatch.setattr(Publisher, "publish", lambda *given: (real(*given), _die())[0])
    with pytest.raises(KafkaAwayError):
        replay(settings, db)
    monkeypatch.undo()
    assert statuses(db) == {"waiting": 1}
    assert replay(settings, db).sent == 1
    assert len(messages(settings, settings.kafka_topic)) == 3


def _die() -> None:
    raise KafkaAwayError("killed")


def test_one_replay_at_a_time(db: Connection, settings: Settings):
    db.execute("SELECT pg_advisory_lock(%s)", [dead_letters.LOCK])
    with pytest.raises(ServiceError, match="another replay is at work"):
        replay(settings, db)


def test_what_is_no_letter_of_ours_is_passed_over(db: Connection, settings: Settings):
    send(settings, poison("schema", 1, settings))
    consume(settings)
    told = [("original_topic", b"other"), ("original_partition", b"0"), ("original_offset", b"0")]
    send(
        settings,
        Message(settings.kafka_dlq_topic, None, b"no headers"),
        Message(settings.kafka_dlq_topic, None, b"of another topic", told),
        Message(settings.kafka_dlq_topic, None, b"no number", [*told[:2], ("original_offset", b"x")]),
    )
    report = replay(settings, db)
    assert (report.sent, report.left, report.reasons) == (1, 0, {"schema": 1})


def test_what_a_foreign_client_put_on_the_topic_of_letters_stops_no_replay(
    db: Connection, settings: Settings, monkeypatch
):
    send(settings, poison("schema", 1, settings))
    consume(settings)
    topic, partition, offset = ((f"original_{name}", b"0") for name in ("topic", "partition", "offset"))
    place = [("original_topic", settings.kafka_topic.encode()), partition]
    with foreign(settings) as producer:
        producer.send(settings.kafka_dlq_topic, b"{}", headers=[(NotUtf8("name"), b"1")])
        producer.send(settings.kafka_dlq_topic, b"{1", headers=[*place, offset], timestamp_ms=2**60)
        producer.send(settings.kafka_dlq_topic, b"{}", headers=[*place, (offset[0], b"9" * 30)])
        producer.send(settings.kafka_dlq_topic, b"{}", headers=[topic, partition, offset])
    with foreign(settings, compression_type="gzip", linger_ms=100) as packer:
        packer.send(settings.kafka_dlq_topic, b"{}" * 100)
    take_codecs_away(monkeypatch)
    report = replay(settings, db)
    assert (report.sent, report.left, report.reasons) == (2, 0, {"schema": 1, "": 1})


def test_a_letter_that_the_table_does_not_know_is_sent_as_it_is_on_the_topic(db: Connection, settings: Settings):
    send(settings, poison("not_json", 7, settings))
    consume(settings)
    db.execute("DELETE FROM dead_letters")
    assert replay(settings, db).sent == 1
    assert [each.value for each in messages(settings, settings.kafka_topic)] == [b"{7", b"{7"]


@pytest.mark.parametrize(
    "words", [["--reason", "because"], ["--since", "yesterday"], ["--max", "0"], ["--max-attempts", "x"], ["--what"]]
)
def test_wrong_flags_are_told_in_one_line(start, database_settings: Settings, words: list[str]):
    program = start(SCRIPT, *words, settings=replace(database_settings, log_level="ERROR"))
    assert program.finish() == 2
    assert program.err.startswith("error: ")
    assert program.err.count("\n") == 1


def test_without_a_broker_or_a_database_it_says_so(start, database_settings: Settings):
    program = start(SCRIPT, settings=database_settings)
    assert program.finish() == 1
    assert program.err == "error: no Kafka broker answers at 127.0.0.1:1 as it must (KafkaTimeoutError)\n"
    program = start(SCRIPT, settings=replace(database_settings, given_database_url="postgresql://a@127.0.0.1:1/b"))
    assert program.finish() == 1
    assert program.err.startswith("error: database: ")
