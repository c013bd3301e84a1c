"""What stands behind the API, as the database and the broker's port tell it: for `GET /ready` and `GET /metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app import metrics
from app.connections import Session
from app.database import Row
from app.prices import OUTBOX_WAITING

WORKERS = ("relay", "consumer", "poller")
SILENT_S = 10.0  # they beat every 2 s
LATE_S = 60.0
BROKER_S = 1.0

_BEATS = """
SELECT name, extract(epoch FROM max(beat_at))::float8 AS beat_at,
       extract(epoch FROM clock_timestamp() - max(beat_at))::float8 AS age_s,
       sum((details ->> 'lag')::int8) FILTER (WHERE beat_at > now() - make_interval(secs => %(silent_s)s))::int8 AS lag
FROM heartbeats GROUP BY name
"""


@dataclass(frozen=True)
class Check:
    """One thing that the service needs: whether it is as it should be, why, and figures."""

    ok: bool
    detail: str
    figures: Mapping[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """As it is told."""
        return {"ok": self.ok, "detail": self.detail, **self.figures}


@dataclass(frozen=True)
class Survey:
    """The outbox, and the heartbeats by name."""

    pending: int
    oldest_age_s: float
    beats: Mapping[str, Row]

    def checks(self) -> dict[str, Check]:
        """The outbox and each worker."""
        return {"outbox": self._outbox(), **{name: self._worker(name) for name in WORKERS}}

    def measure(self) -> None:
        """Set the metrics that tell of other processes: they are right even where such a process is dead."""
        consumer, poller = self.beats.get("consumer"), self.beats.get("poller")
        metrics.OUTBOX_PENDING.set(self.pending)
        metrics.OUTBOX_OLDEST_AGE.set(self.oldest_age_s)
        metrics.CONSUMER_LAG.set(math.nan if consumer is None or consumer["lag"] is None else consumer["lag"])
        metrics.POLLER_BEAT.set(0 if poller is None else poller["beat_at"])

    def _outbox(self) -> Check:
        ok = self.oldest_age_s <= LATE_S
        detail = f"{self.pending} events wait, the oldest for {self.oldest_age_s:.0f} s"
        return Check(ok, detail, {"pending": self.pending, "oldest_age_seconds": round(self.oldest_age_s, 3)})

    def _worker(self, name: str) -> Check:
        beat = self.beats.get(name)
        if beat is None:
            return Check(False, "never heard of", {})
        figures = {"beat_age_seconds": round(beat["age_s"], 3)} | ({"lag": beat["lag"]} if name == "consumer" else {})
        return Check(beat["age_s"] <= SILENT_S, f"heard of {beat['age_s']:.0f} s ago", figures)


async def survey(session: Session) -> Survey:
    """What the database tells."""
    outbox = (await session.rows(OUTBOX_WAITING, {}))[0]
    beats = await session.rows(_BEATS, {"silent_s": SILENT_S})
    return Survey(outbox["pending"], outbox["oldest_age_s"], {row["name"]: row for row in beats})


def forget() -> None:
    """Without the database nothing is known of other processes."""
    for each in (metrics.OUTBOX_PENDING, metrics.OUTBOX_OLDEST_AGE, metrics.CONSUMER_LAG, metrics.POLLER_BEAT):
        each.set(math.nan)


async def broker(servers: str) -> Check:
    """Whether one of the brokers takes connections; nothing is said to it."""
    if any(await asyncio.gather(*(_listens(each) for each in servers.split(",")))):
        return Check(True, "takes connections", {})
    return Check(False, "does not take connections; events wait in the outbox", {})


async def _listens(server: str) -> bool:
    host, port = server.rsplit(":", 1)
    try:
        opening = asyncio.open_connection(host.strip("[]"), int(port))
        _, writer = await asyncio.wait_for(opening, BROKER_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
