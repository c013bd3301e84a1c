"""The relay: publishes what waits in the outbox, and marks it published once the broker has acknowledged it.

Rows go out in the order of their ids. A crash between the two sends rows again, which readers must bear. Any number of
relays may run; one at a time publishes, the others take over within IDLE_S of its end.
"""

from __future__ import annotations

import argparse
import logging
import select
import time
from collections.abc import Callable
from typing import Any

from app import events, kafka, prices, service
from app.database import Connection
from app.kafka import KafkaAwayError, Message, Publisher
from app.metrics import EVENTS_PUBLISHED, OUTBOX_OLDEST_AGE, OUTBOX_PENDING
from app.service import Heart, Stop
from app.settings import Settings

LOCK = 0x6D61_0002  # advisory: held by the relay that publishes, for the length of a transaction
BATCH = 500
IDLE_S = 1.0
GATHER_S = 0.01  # after a batch that was not full: under load, events go out together

log = logging.getLogger(__name__)

_SESSION = f"SET idle_in_transaction_session_timeout = '60s'; LISTEN {prices.OUTBOX_CHANNEL}"

_CLAIM = """
SELECT id, topic, key, payload, event_id, traceparent
FROM outbox
WHERE published_at IS NULL
ORDER BY id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED
"""

_MARK = "UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY(%(ids)s)"


def work(settings: Settings, stop: Stop, _flags: argparse.Namespace) -> None:
    """Publish until `stop` is set; PostgreSQL and Kafka may come and go."""
    relay = Relay(settings, stop)
    try:
        service.keep_connected(settings, stop, "relay", relay.run)
    finally:
        relay.close()


class Relay:
    """A relay that runs until `stop` is set."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self._settings, self._stop = settings, stop
        self._heart = Heart("relay", settings)
        self._publisher: Publisher | None = None
        self._failures = 0
        self._next_look = 0.0

    def run(self, connection: Connection) -> None:
        """Publish with this connection until it breaks or `stop` is set."""
        connection.execute(_SESSION)
        while not self._stop.is_set():
            self._look(connection)
            sent = self._publish(connection)
            if sent is None:
                self._stop.wait(IDLE_S)
            elif sent < BATCH:
                self._stop.wait(GATHER_S if sent else 0)
                self._await_event(connection)
        self._heart.end(connection)

    def close(self) -> None:
        """Give up what is on its way: it is sent again by the next relay."""
        if self._publisher:
            self._publisher.close()
            self._publisher = None

    def _publish(self, connection: Connection) -> int | None:
        """How many events of a batch went out; None where this relay has to wait, for Kafka or for another relay."""
        try:
            self._publisher = self._publisher or Publisher(self._settings)
            sent = publish_batch(connection, self._publisher, self._stop.is_set)
        except KafkaAwayError as error:
            self._wait_for_kafka(error)
            return None
        if self._failures:
            log.info("Kafka is back")
            self._failures = 0
        return sent

    def _wait_for_kafka(self, error: KafkaAwayError) -> None:
        self.close()
        if not self._failures:
            log.warning("%s; events wait in the outbox", error)
        self._stop.wait(kafka.wait_s(self._failures))
        self._failures += 1

    def _look(self, connection: Connection) -> None:
        """Every two seconds: how much waits, for metrics and for `GET /ready`."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + service.BEAT_S
        found = waiting(connection)
        OUTBOX_PENDING.set(found["pending"])
        OUTBOX_OLDEST_AGE.set(found["oldest_age_s"])
        self._heart.beat(connection, **found)

    def _await_event(self, connection: Connection) -> None:
        """Return when an event was written since the last call, `stop` is set or IDLE_S have passed."""
        if not any(True for _ in connection.notifies(timeout=0)):
            select.select([self._stop, connection], [], [], IDLE_S)
            for _ in connection.notifies(timeout=0):
                pass


def publish_batch(
    connection: Connection, publisher: Publisher, is_stopped: Callable[[], bool] = lambda: False
) -> int | None:
    """Publish the oldest BATCH events that wait, and mark them; how many, None if another relay is at it.

    Raises KafkaAwayError if one was not acknowledged; then none is marked.
    """
    with connection.transaction():
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS is_ours", [LOCK]).fetchone()
        if not (row and row["is_ours"]):
            return None
        rows = connection.execute(_CLAIM, {"limit": BATCH}).fetchall()
        if rows:
            publisher.publish([_message(each) for each in rows], is_stopped)
            connection.execute(_MARK, {"ids": [each["id"] for each in rows]})
    EVENTS_PUBLISHED.inc(len(rows))
    return len(rows)


def waiting(connection: Connection) -> dict[str, Any]:
    """How many events wait (`pending`, counted up to MOST_COUNTED), and for how long the oldest has (`oldest_age_s`)."""
    row = connection.execute(prices.OUTBOX_WAITING).fetchone()
    assert row is not None
    return dict(row)


def _message(row: dict[str, Any]) -> Message:
    headers = events.headers(row["event_id"], row["traceparent"])
    return Message(row["topic"], row["key"].encode(), row["payload"].encode(), headers)
