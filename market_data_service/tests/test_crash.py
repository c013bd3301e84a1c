"""Everything is killed, stopped and poisoned while prices flow: nothing is lost, nothing is doubled, every average is right.

    python -m pytest tests/test_crash.py -s                         with the line that each demonstration ends with
    KAFKA_OUTAGE_SECONDS=60 python -m pytest tests/test_crash.py -s -k demonstration_4

CRASH_EVENTS, CRASH_KILLS and CRASH_SEED change demonstration 2.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import psycopg
from flow import at, bytes_of, consume, expected_averages, kept_averages, length, messages, recomputed, store_many
from programs import Program
from test_dead_letters import replay, rows, statuses

from app import averages, events, relay
from app.database import Connection, connect
from app.kafka import Message, Publisher
from app.providers.base import Quote
from app.settings import Settings
from tests.serving import StubProviders, serving

if TYPE_CHECKING:
    from local.kafka import LocalBroker
    from local.postgres import EmbeddedPostgres

RELAY, CONSUMER, WRITER = "scripts/outbox_relay.py", "scripts/kafka_consumer.py", "tests/writer.py"
EVENTS = int(os.environ.get("CRASH_EVENTS", 20_000))
KILLS = int(os.environ.get("CRASH_KILLS", 20))
SEED = int(os.environ.get("CRASH_SEED", 6))
OUTAGE_S = float(os.environ.get("KAFKA_OUTAGE_SECONDS", 10))
SETTLE_S = 60.0


class Service:
    """A writer, a relay and a consumer at work, with PostgreSQL and Kafka; any of them can be killed and started again."""

    def __init__(
        self, settings: Settings, start: Callable[..., Program], postgres: EmbeddedPostgres, kafka: LocalBroker
    ):
        self.settings, self._start, self._postgres, self._kafka = settings, start, postgres, kafka
        self._words = {"writer": (WRITER, str(EVENTS)), "relay": (RELAY,), "consumer": (CONSUMER,)}
        self.programs = {name: start(*words) for name, words in self._words.items()}

    def kill(self, name: str) -> None:
        """SIGKILL, and a new start."""
        server = {"postgres": self._postgres, "kafka": self._kafka}.get(name)
        if server:
            server.kill()
            server.start()
        else:
            self.programs[name].kill()
            self.programs[name] = self._start(*self._words[name])

    def stop(self) -> None:
        """End what still runs; each program ends cleanly."""
        for name in ("consumer", "relay"):
            assert self.programs[name].stop() == 0, self.programs[name].err


def asked(settings: Settings, sql: str) -> int:
    """A number of the database; -1 where it does not answer."""
    with suppress(psycopg.Error), connect(settings, "test") as connection:
        return connection.execute(sql).fetchone()["n"]
    return -1


def has_settled(settings: Settings) -> bool:
    """Everything stored is published, and everything published is worked on."""
    if asked(settings, "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL") != 0:
        return False
    return asked(settings, "SELECT sum(next_offset) AS n FROM consumer_offsets") == length(settings)


def test_demonstration_2_kill_9_at_random_moments_loses_nothing_and_doubles_nothing(
    settings: Settings, kafka: LocalBroker, postgres: EmbeddedPostgres, start: Callable[..., Program], eventually
):
    chance = random.Random(SEED)
    victims = ["relay"] * 6 + ["consumer"] * 5 + ["writer"] * 4 + ["postgres"] * 3 + ["kafka"] * 2
    victims = [victims[number % len(victims)] for number in range(KILLS)]
    chance.shuffle(victims)
    moments = sorted(chance.randint(EVENTS // 50, EVENTS - EVENTS // 50) for _ in victims)
    service = Service(settings, start, postgres, kafka)
    for moment, victim in zip(moments, victims, strict=True):
        eventually(lambda moment=moment: asked(settings, "SELECT count(*) AS n FROM raw_responses") >= moment, SETTLE_S)
        time.sleep(chance.random() / 10)
        service.kill(victim)
    assert service.programs["writer"].finish(SETTLE_S) == 0
    eventually(lambda: has_settled(settings), SETTLE_S)
    service.stop()
    with connect(settings, "test") as again:
        repeated = check(again, settings)
    told = ", ".join(f"{name} {count}" for name, count in Counter(victims).items())
    print(
        f"\ndemonstration 2: {len(victims)} kills ({told}; the writer stands for the API), {EVENTS:,} events, 0 lost, "
        f"{repeated} sent again by the relay, 0 rows doubled, averages equal the definition and the recomputation"
    )


def check(db: Connection, settings: Settings) -> int:
    """Every price is stored, published and averaged as it must be; how many messages are on the topic more than once."""
    assert asked(settings, "SELECT count(*) AS n FROM raw_responses") == EVENTS
    stored = db.execute("SELECT event_id, key FROM outbox ORDER BY id").fetchall()
    assert len(stored) == EVENTS
    wanted, found = defaultdict(list), defaultdict(dict)
    for row in stored:
        wanted[row["key"]].append(str(row["event_id"]))
    sent = messages(settings, settings.kafka_topic)
    for each in sent:
        found[(each.key or b"").decode()][dict(each.headers)["event_id"].decode()] = None
    assert {key: list(ids) for key, ids in found.items()} == wanted, "an event is missing, or out of its order"
    assert rows(db) == []
    assert kept_averages(db) == expected_averages(db) != {}
    assert bytes_of(db) == recomputed(db)
    return len(sent) - EVENTS


class Ticking(StubProviders):
    """Every answer is a second later than the last one, and another price: simulated."""

    async def latest(self, provider: str, symbol: str) -> Quote:
        self.calls[symbol] += 1
        tick = self.calls[symbol]
        return Quote(symbol, provider, Decimal(100 + tick % 40), at(tick), {"simulated": True}, 200)


@contextmanager
def requests_under_way(settings: Settings, seen: Counter[int]) -> Iterator[None]:
    """Four clients ask the API for fresh prices for the length of the block; `seen` counts the statuses."""
    done = threading.Event()
    with serving(settings, Ticking()) as api, ThreadPoolExecutor(4) as pool:

        def ask(symbol: str) -> None:
            while not done.is_set():
                seen[api.get("/prices/latest", params={"symbol": symbol, "max_age": 0}).status_code] += 1

        asking = [pool.submit(ask, symbol) for symbol in ("AAPL", "MSFT", "BRK.B", "^GSPC")]
        try:
            yield
        finally:
            done.set()
            for each in asking:
                each.result()


def test_demonstration_4_kafka_stops_under_load_and_no_request_fails(
    db: Connection, settings: Settings, kafka: LocalBroker, start, eventually
):
    seen: Counter[int] = Counter()
    relaying, consuming = start(RELAY), start(CONSUMER)
    with requests_under_way(settings, seen):
        eventually(lambda: len(kept_averages(db)) > 20)
        kafka.stop()
        before = seen.total()
        began = time.monotonic()
        time.sleep(OUTAGE_S)
        during = seen.total() - before
        waited = asked(settings, "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL")
        kafka.start()
        away_s = time.monotonic() - began
        time.sleep(1)
    eventually(lambda: has_settled(settings), SETTLE_S)
    assert (relaying.stop(), consuming.stop()) == (0, 0)
    assert set(seen) == {200}
    assert waited > 0.9 * during > 20
    order = defaultdict(dict)
    for each in messages(settings, settings.kafka_topic):
        order[each.key][json.loads(each.value or b"")["timestamp"]] = None
    assert all(list(times) == sorted(times) for times in order.values())
    assert sum(map(len, order.values())) == asked(settings, "SELECT count(*) AS n FROM market_prices")
    assert kept_averages(db) == expected_averages(db)
    print(
        f"\ndemonstration 4: Kafka away for {away_s:.0f} s under load: {seen.total()} requests, {during} of them meanwhile, "
        f"0 failed; {waited} events waited, all {sum(map(len, order.values()))} on the topic in order for each key"
    )


def damaged(reason: str, row: dict[str, str], settings: Settings) -> Message:
    """The message of an event as it must not be."""
    good = row["payload"].encode()
    ahead = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).isoformat()
    values = {
        "empty": b"",
        "not_utf8": good.replace(b"replay", b"r\xe9play"),
        "not_json": good[:-1],
        "schema": good.replace(b"price", b"prize"),
        "future_timestamp": json.dumps(json.loads(good) | {"timestamp": ahead}).encode(),
    }
    headers = [("schema_version", b"2" if reason == "unknown_version" else b"1")]
    return Message(settings.kafka_topic, row["key"].encode(), values.get(reason, good), headers)


def test_demonstration_5_poison_among_good_messages(db: Connection, settings: Settings):
    """Of 10,000 messages 100 are bad: 10 of a price that is not stored, 15 of each other kind, those of one symbol each."""
    damages = [reason for reason in events.REASONS if reason != "unknown_price"]
    store_many(db, settings, [(f"P{kind}", second, Decimal(second + 1)) for kind in range(6) for second in range(15)])
    taken = db.execute("SELECT key, payload FROM outbox ORDER BY id").fetchall()
    db.execute("DELETE FROM outbox")
    poison = iter([damaged(damages[int(row["key"][-1])], row, settings) for row in taken])
    store_many(db, settings, [(f"S{n % 10}", n // 10, Decimal(n + 1) / 8) for n in range(9_910)])
    missing = db.execute("DELETE FROM market_prices WHERE symbol ~ 'S' AND ts = %s RETURNING *", [at(500)]).fetchall()
    with Publisher(settings) as publisher:
        while relay.publish_batch(db, publisher):
            publisher.publish(list(itertools.islice(poison, 5)))
    assert len(messages(settings, settings.kafka_topic)) == 10_000

    consume(settings)
    assert Counter(row["reason"] for row in rows(db)) == {**dict.fromkeys(damages, 15), "unknown_price": 10}
    letters = messages(settings, settings.kafka_dlq_topic)
    assert sorted(dict(each.headers)["reason"].decode() for each in letters) == sorted(
        row["reason"] for row in rows(db)
    )
    good = {key: price for key, price in expected_averages(db).items() if key[0].startswith("S")}
    assert kept_averages(db) == good, "none was in the way of the others"

    db.cursor().executemany(_RESTORE, missing)
    mend(db, taken)
    assert replay(settings, db).sent == 100
    consume(settings)
    assert {row["reason"] for row in rows(db) if row["attempts"] == 2} == {"unknown_version"}, "all others are mended"
    left = replay(settings, db, max_attempts=2)
    assert (left.sent, len(left.quarantined)) == (0, 15)
    assert statuses(db) == {"replayed": 100, "quarantined": 15}
    assert averages.recompute(db, 5).differences == 11, "those of the version that nobody here reads"
    assert kept_averages(db) == expected_averages(db)
    print(
        "\ndemonstration 5: 10,000 messages, 100 bad of 7 kinds: all set aside with their reasons, 9,900 averaged at once; "
        "85 mended and sent again, 15 of an unknown version quarantined, averages equal"
    )


_RESTORE = (
    "INSERT INTO market_prices (symbol, provider, price, ts) VALUES (%(symbol)s, %(provider)s, %(price)s, %(ts)s)"
)


def mend(db: Connection, taken: Sequence[dict[str, str]]) -> None:
    """Correct the payloads of letters: those of one key are in the order of their events."""
    for key in {row["key"] for row in taken}:
        letters = db.execute('SELECT id FROM dead_letters WHERE key = %s ORDER BY "offset"', [key.encode()]).fetchall()
        payloads = [row["payload"] for row in taken if row["key"] == key]
        for letter, payload in zip(letters, payloads, strict=True):
            db.execute("UPDATE dead_letters SET payload = %s WHERE id = %s", [payload.encode(), letter["id"]])
