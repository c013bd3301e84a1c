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
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import httpx
import psycopg
from flow import at, bytes_of, consume, expected_averages, kept_averages, length, messages, recomputed, store_many
from programs import Program
from test_dead_letters import replay, rows, statuses

from app import averages, events, relay
from app.database import Connection, connect
from app.kafka import Message, Publisher
from app.settings import Settings
from tests.serving import free_port

if TYPE_CHECKING:
    from local.kafka import LocalBroker
    from local.postgres import EmbeddedPostgres

RELAY, CONSUMER, WRITER = "scripts/outbox_relay.py", "scripts/kafka_consumer.py", "tests/writer.py"
EVENTS = int(os.environ.get("CRASH_EVENTS", 20_000))
KILLS = int(os.environ.get("CRASH_KILLS", 20))
SEED = int(os.environ.get("CRASH_SEED", 6))
OUTAGE_S = float(os.environ.get("KAFKA_OUTAGE_SECONDS", 10))
SETTLE_S = 60.0
WRITTEN = EVENTS * 3 // 4  # by the writer; the others by the API
SYMBOLS = ("AAPL", "MSFT", "BRK.B", "^GSPC")
TICK = datetime.timedelta(milliseconds=1)


class Api:
    """The API as a program, and a client for each symbol that asks it for a fresh price all the time. Use in a `with`.

    Provider replay has another price every millisecond (simulated), so each answer is a price to be kept and an event.

    Attributes
    ----------
    statuses
        Of the answers so far.
    answered
        The prices of those that were 200: symbol, timestamp, price.
    unanswered
        How many requests got no answer, since the API was killed.
    """

    def __init__(self, start: Callable[..., Program], folder: Path) -> None:
        self.statuses: Counter[int] = Counter()
        self.answered: list[tuple[str, str, Decimal]] = []
        self.unanswered = 0
        self._start, self._port, self._done = start, str(free_port()), threading.Event()
        self._recording = folder / "simulated.csv"
        rows = [f"{symbol},{at(0) + tick * TICK},{100 + tick % 97}" for symbol in SYMBOLS for tick in range(997)]
        self._recording.write_text("\n".join(["symbol,ts,price", *rows]))
        self._threads = [threading.Thread(target=self._ask, args=(symbol,)) for symbol in SYMBOLS]
        self.start()

    def start(self) -> None:
        """Start the program; it serves when this returns."""
        self.program = self._start("-m", "app.main", API_PORT=self._port, REPLAY_FILE=str(self._recording))
        self.program.wait_for("serving on")

    def _ask(self, symbol: str) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=SETTLE_S) as client:
            wanted = {"symbol": symbol, "provider": "replay", "max_age": 0}
            while not self._done.is_set():
                try:
                    answer = client.get("/prices/latest", params=wanted)
                except httpx.TransportError:
                    self.unanswered += 1
                    self._done.wait(0.1)
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code == httpx.codes.OK:
                    found = answer.json(parse_float=Decimal)
                    self.answered.append((symbol, found["timestamp"], Decimal(found["price"])))

    def __enter__(self) -> Api:
        for each in self._threads:
            each.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._done.set()
        for each in self._threads:
            each.join()


class Service:
    """The API, a writer, a relay and a consumer at work, with PostgreSQL and Kafka; any can be killed and started again."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        start: Callable[..., Program],
        postgres: EmbeddedPostgres,
        kafka: LocalBroker,
    ) -> None:
        self._api, self._start, self._postgres, self._kafka = api, start, postgres, kafka
        self._words = {"writer": (WRITER, str(WRITTEN)), "relay": (RELAY,), "consumer": (CONSUMER,)}
        self.programs = {name: start(*words) for name, words in self._words.items()}

    def kill(self, name: str) -> None:
        """SIGKILL, and a new start."""
        server = {"postgres": self._postgres, "kafka": self._kafka}.get(name)
        if server:
            server.kill()
            server.start()
        elif name == "api":
            self._api.program.kill()
            self._api.start()
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
    settings: Settings,
    kafka: LocalBroker,
    postgres: EmbeddedPostgres,
    start: Callable[..., Program],
    eventually: Callable[..., object],
    tmp_path: Path,
):
    chance = random.Random(SEED)
    victims = ["relay"] * 5 + ["api"] * 4 + ["consumer"] * 4 + ["postgres"] * 3 + ["kafka"] * 2 + ["writer"] * 2
    victims = [victims[number % len(victims)] for number in range(KILLS)]
    chance.shuffle(victims)
    moments = sorted(chance.randint(EVENTS // 50, EVENTS - EVENTS // 50) for _ in victims)
    with Api(start, tmp_path) as api:
        service = Service(api, settings, start, postgres, kafka)
        for moment, victim in zip(moments, victims, strict=True):
            eventually(lambda moment=moment: stored(settings) >= moment, SETTLE_S)
            time.sleep(chance.random() / 10)
            service.kill(victim)
        eventually(lambda: stored(settings) >= EVENTS, SETTLE_S)
    assert service.programs["writer"].finish(SETTLE_S) == 0
    eventually(lambda: has_settled(settings), SETTLE_S)
    service.stop()
    assert set(api.statuses) <= {httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE}, api.statuses
    with connect(settings, "test") as again:
        assert is_kept(again, api.answered)
        assert len(api.answered) > (EVENTS - WRITTEN) / 2
        count, repeated = check(again, settings)
    told = ", ".join(f"{name} {count}" for name, count in Counter(victims).items())
    print(
        f"\ndemonstration 2: {len(victims)} kills ({told}), {count:,} events, {len(api.answered):,} of them asked of the API "
        f"({api.statuses[503]} requests got a 503, {api.unanswered} no answer), 0 lost, {repeated} sent again by the relay, "
        "0 rows doubled, averages equal the definition and the recomputation"
    )


def stored(settings: Settings) -> int:
    """How many prices the API and the writer have stored."""
    return asked(settings, "SELECT count(*) AS n FROM raw_responses")


def is_kept(db: Connection, answered: Sequence[tuple[str, str, Decimal]]) -> bool:
    """Every price that the API told to a client is stored."""
    prices = db.execute("SELECT symbol, ts, price FROM market_prices").fetchall()
    kept = {(row["symbol"], row["ts"], row["price"]) for row in prices}
    return {
        (symbol, datetime.datetime.fromisoformat(ts.replace("Z", "+00:00")), price) for symbol, ts, price in answered
    } <= kept


def check(db: Connection, settings: Settings) -> tuple[int, int]:
    """Every price is stored, published and averaged as it must be; how many events, and how many messages beside them."""
    events_stored = db.execute("SELECT event_id, key FROM outbox ORDER BY id").fetchall()
    assert len(events_stored) == stored(settings) >= EVENTS
    wanted, found = defaultdict(list), defaultdict(dict)
    for row in events_stored:
        wanted[row["key"]].append(str(row["event_id"]))
    sent = messages(settings, settings.kafka_topic)
    for each in sent:
        found[(each.key or b"").decode()][dict(each.headers)["event_id"].decode()] = None
    assert {key: list(ids) for key, ids in found.items()} == wanted, "an event is missing, or out of its order"
    assert rows(db) == []
    assert kept_averages(db) == expected_averages(db) != {}
    assert bytes_of(db) == recomputed(db)
    return len(events_stored), len(sent) - len(events_stored)


def test_demonstration_4_kafka_stops_under_load_and_no_request_fails(
    db: Connection,
    settings: Settings,
    kafka: LocalBroker,
    start: Callable[..., Program],
    eventually: Callable[..., object],
    tmp_path: Path,
):
    relaying, consuming = start(RELAY), start(CONSUMER)
    with Api(start, tmp_path) as api:
        eventually(lambda: len(kept_averages(db)) > 20)
        kafka.stop()
        before = api.statuses.total()
        began = time.monotonic()
        time.sleep(OUTAGE_S)
        during = api.statuses.total() - before
        waited = asked(settings, "SELECT count(*) AS n FROM outbox WHERE published_at IS NULL")
        kafka.start()
        away_s = time.monotonic() - began
        time.sleep(1)
    eventually(lambda: has_settled(settings), SETTLE_S)
    assert (relaying.stop(), consuming.stop()) == (0, 0)
    assert (set(api.statuses), api.unanswered) == ({httpx.codes.OK}, 0)
    assert waited > 0.9 * during > 20
    assert is_kept(db, api.answered)
    now = datetime.datetime.now(datetime.timezone.utc)
    order = defaultdict(dict)
    for each in messages(settings, settings.kafka_topic):
        order[each.key][events.decode(each.value, each.headers, now).timestamp] = None
    assert all(list(times) == sorted(times) for times in order.values())
    assert sum(map(len, order.values())) == asked(settings, "SELECT count(*) AS n FROM market_prices")
    assert kept_averages(db) == expected_averages(db)
    print(
        f"\ndemonstration 4: Kafka away for {away_s:.0f} s under load: {api.statuses.total()} requests, {during} of them "
        f"meanwhile, 0 failed; {waited} events waited, all {sum(map(len, order.values()))} on the topic in order for each key"
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
