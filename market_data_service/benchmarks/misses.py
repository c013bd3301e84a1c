"""GET /prices/latest that has to fetch, while Kafka runs and after it was killed: API, relay and consumer are at work.

The provider is `replay` with two simulated prices that take turns every millisecond, so each request stores a new price,
its response and its event. Requests follow each other on one connection. At the end Kafka is there again, and every event
must be on the topic.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import time
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path

from app import relay as outbox
from app.database import Connection
from app.providers.replay import COLUMNS
from app.settings import Settings
from benchmarks import relay
from benchmarks.stage import END_S, Stage, Watched, alternate, check, median_ratio, open_database
from benchmarks.table import Row
from local.kafka import LocalBroker

SYMBOL, PROVIDER = "AAPL", "replay"
PATH = f"/prices/latest?symbol={SYMBOL}&provider={PROVIDER}&max_age=0"
PRICES = (Decimal("196.45"), Decimal("196.54"))
MOST = 1.5
WARM_UP = 30

Told = dict[datetime.datetime, Decimal]


def rows(stage: Stage) -> list[Row]:
    """The median time of a request, of both."""
    told: Told = {}
    with stage.database() as name:
        given = stage.settings(name)
        environment = {"REPLAY_FILE": str(recording(stage.folder, [SYMBOL]))}
        with (
            open_database(given) as db,
            stage.program("relay", "scripts/outbox_relay.py", settings=given) as watched,
            stage.program("consumer", "scripts/kafka_consumer.py", settings=given),
            stage.serving("api", "-m", "app.main", settings=given, **environment),
        ):
            ask(given.api_port, WARM_UP, told)
            found = alternate(
                stage.scale.rounds,
                up=lambda: _with_kafka(stage, watched, db, given, told),
                down=lambda: _without_kafka(stage, given, told),
            )
            _bring_back(stage.kafka, watched, db)
            compare(given, db, told)
    return _rows(found)


def _rows(found: dict[str, list[list[float]]]) -> list[Row]:
    p50 = {side: [statistics.median(each) for each in rounds] for side, rounds in found.items()}
    p99 = {side: [statistics.quantiles(each, n=100)[98] for each in rounds] for side, rounds in found.items()}
    text = {side: f"{statistics.median(p50[side]):.1f} ms (p99 {statistics.median(p99[side]):.0f})" for side in found}
    ratio = median_ratio(p50["down"], p50["up"])
    figures = {"p50_ms": p50, "p99_ms": p99}
    beside = f"Kafka up {text['up']}"
    return [Row("GET miss, Kafka killed", text["down"], beside, ratio, f"<= {MOST}x", ratio <= MOST, figures)]


def recording(folder: Path, symbols: list[str]) -> Path:
    """A file for the provider `replay` in which every millisecond has another price."""
    path = folder / f"replay-{len(symbols)}.csv"
    lines = [
        f"{symbol},2025-06-16T13:30:00.{milliseconds:03}+00:00,{price}"
        for symbol in symbols
        for milliseconds, price in enumerate(PRICES)
    ]
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return path


def ask(port: int, count: int, told: Told) -> list[float]:
    """So many requests over one connection; milliseconds of each. What is answered goes into `told`."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        client.connect()
        return [_ask(client, told) for _ in range(count)]


def _ask(client: HTTPConnection, told: Told) -> float:
    began = time.perf_counter()
    client.request("GET", PATH)
    response = client.getresponse()
    body = response.read()
    spent_ms = 1000 * (time.perf_counter() - began)
    check(response.status == 200, f"the API answers {response.status}: {body.decode()}")
    check(response.headers["X-Cache"] == "MISS", f"X-Cache is {response.headers['X-Cache']}")
    answer = json.loads(body, parse_float=Decimal)
    told[datetime.datetime.fromisoformat(answer["timestamp"])] = answer["price"]
    return spent_ms


def _with_kafka(stage: Stage, watched: Watched, db: Connection, given: Settings, told: Told) -> list[float]:
    _bring_back(stage.kafka, watched, db)
    return ask(given.api_port, stage.scale.misses, told)


def _without_kafka(stage: Stage, given: Settings, told: Told) -> list[float]:
    stage.kafka.kill()
    return ask(given.api_port, stage.scale.misses, told)


def _bring_back(kafka: LocalBroker, watched: Watched, db: Connection) -> None:
    """Start Kafka where it was killed, and wait until the relay has sent all that waited."""
    if kafka.kafka.pid is None:
        kafka.start()
    watched.wait(lambda: not outbox.waiting(db)["pending"], "the end of the outbox", END_S)


def compare(given: Settings, db: Connection, told: Told) -> None:
    """What was answered must be what is stored, and what is on the topic."""
    stored = {row["ts"]: row["price"] for row in db.execute("SELECT ts, price FROM market_prices")}
    check(stored == told, f"{len(told)} prices were answered, {len(stored)} are stored, or they differ")
    values = [json.loads(each.value or b"", parse_float=Decimal) for each in relay.read(given)]
    sent = {datetime.datetime.fromisoformat(each["timestamp"].replace("Z", "+00:00")): each["price"] for each in values}
    check(sent == told, f"{len(told)} prices were answered, {len(sent)} are on the topic, or they differ")
