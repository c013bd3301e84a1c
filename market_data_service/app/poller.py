"""The polling process: leases jobs that are due, asks their providers in threads, stores the prices.

A job is leased only when a thread is free for it, so at most PROVIDER_MAX_CONCURRENCY calls of one poller run at once and no
lease waits in a queue. What a run leads to is one transaction: price, response, event and the job's next slot, fenced by
the lease (app/jobs.py). Times of jobs are the database's; this process's own clock only measures waits, and cannot jump.
The database away: results wait up to the length of a lease, then their slots are run again when it is back.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import queue
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import psycopg

from app import database, jobs, metrics, prices, service
from app.database import Connection, Steps
from app.errors import BadPriceError, ProviderError, RateLimitedError
from app.jobs import Job, LeaseLostError
from app.providers.base import Quote
from app.providers.process import SyncProviderProcess
from app.service import Bell, Heart, Stop
from app.settings import Settings

LOOK_S = 1.0
RETRY_S = 0.2
FINISH_S = 5.0
MOST_ERROR = 500

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Source(Protocol):
    """Where prices come from: app.providers.process.SyncProviderProcess, or a stand-in. Called from several threads."""

    def latest(self, provider: str, symbol: str) -> Quote:
        """The newest price; raises ProviderError."""

    def history(self, provider: str, symbol: str, start: datetime.datetime) -> list[Quote]:
        """The prices since `start`, oldest first; raises ProviderError."""

    def close(self) -> None:
        """End the calls that are under way."""


class Poller:
    """One poller, until `stop` is set.

    Parameters
    ----------
    settings
        The database, the topic of the events, PROVIDER_MAX_CONCURRENCY.
    stop
        Ends `run`.
    source
        Gives the prices; closed at the end.
    lease_s
        How long a job waits for its next poller when this one dies.
    """

    def __init__(self, settings: Settings, stop: Stop, source: Source, lease_s: float = jobs.LEASE_S) -> None:
        self.settings, self.stop, self.source, self.lease_s = settings, stop, source, lease_s
        self.most = settings.provider_max_concurrency
        self.heart = Heart("poller", settings)
        self._running: dict[int, Job] = {}
        self._handed: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle: list[Connection] = []
        self._bell = Bell()
        self._look_at = self._renew_at = 0.0
        self._is_over = False

    @property
    def owner(self) -> str:
        """Whom the leases belong to."""
        return self.heart.instance

    def run(self) -> None:
        """Work until `stop` is set; then finish what runs, or leave it to others."""
        for number in range(self.most):
            threading.Thread(target=self._serve, name=f"poll-{number}", daemon=True).start()
        log.info("%s: at most %d calls at once, leases of %g s", self.owner, self.most, self.lease_s)
        try:
            service.keep_connected(self.settings, self.stop, "poller", self._schedule)
        finally:
            self._close()

    # --- the scheduler: one thread, one connection ---------------------------------------------------------------

    def _schedule(self, connection: Connection) -> None:
        connection.execute(f"LISTEN {jobs.CHANNEL}")
        self._look_at = 0.0
        while not self.stop.is_set():
            self._renew(connection)
            metrics.POLLER_BEAT.set_to_current_time()
            self.heart.beat(connection, running=len(self._running))
            self._wait(connection, self._take_due(connection))
        self._leave(connection)

    def _renew(self, connection: Connection) -> None:
        """Renew all leases together, each at the latest when a third of it has passed."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + self.lease_s / 3
        if running := list(self._running):
            database.run(connection, jobs.renew(self.owner, running, self.lease_s))

    def _take_due(self, connection: Connection) -> float:
        """Lease what is due, as much as threads are free for; seconds until there is reason to look again."""
        free = self.most - len(self._running)
        if not free:
            return LOOK_S
        if (wait_s := self._look_at - time.monotonic()) > 0:
            return wait_s
        leased = database.run(connection, jobs.lease(self.owner, free, self.lease_s, list(self._running)))
        for job in leased:
            self._running[job.id] = job
            self._handed.put(job)
        if leased:
            metrics.POLLING_LAG.set(max(_lag_s(job, self.lease_s) for job in leased))
        if len(leased) == free:
            return LOOK_S
        due_s = database.run(connection, jobs.next_due())
        wait_s = LOOK_S if due_s is None else min(LOOK_S, max(0.0, due_s))
        self._look_at = time.monotonic() + wait_s
        return wait_s

    def _wait(self, connection: Connection, seconds: float) -> None:
        """Until a run has ended, jobs have changed, `stop` is set or the time is over."""
        if list(connection.notifies(timeout=0)):
            self._look_at = 0.0
            return
        poll = select.poll()
        for each in (self.stop, self._bell, connection):
            poll.register(each, select.POLLIN)
        poll.poll(1000 * seconds + 1)
        self._bell.silence()

    def _leave(self, connection: Connection) -> None:
        """Wait for what runs, within FINISH_S, and give the other leases back."""
        deadline = time.monotonic() + FINISH_S
        while self._running and time.monotonic() < deadline:
            time.sleep(0.01)
        if left := list(self._running):
            database.run(connection, jobs.give_back(self.owner, left))
            log.info("%d runs were given up, their jobs given back", len(left))
        self.heart.end(connection)

    def _close(self) -> None:
        self.source.close()
        for _ in range(self.most):
            self._handed.put(None)
        self._is_over = True
        while self._idle:
            self._idle.pop().close()

    # --- a run: `most` threads, a connection each ------------------------------------------------------------------

    def _serve(self) -> None:
        """A thread that works on one job after another, until it is handed None."""
        while job := self._handed.get():
            result = self._run(job)
            metrics.POLLING_RUNS.labels(result).inc()
            log.debug("job %d, %s %s: %s", job.id, job.provider, job.symbol, result)
            del self._running[job.id]
            self._bell.ring()

    def _run(self, job: Job) -> str:
        """One slot of a job; for polling_runs_total whether it was `stored`, `failed`, or its lease `lost` or `abandoned`."""
        try:
            return self._poll(job)
        except LeaseLostError as error:
            log.warning("%s; nothing was stored", error)
            return "lost"
        except Exception as error:
            is_known = isinstance(error, psycopg.Error)
            log.warning("job %d ends with its lease: %s", job.id, service.first_line(error), exc_info=not is_known)
            return "abandoned"

    def _poll(self, job: Job) -> str:
        try:
            quotes = self._ask(job)
            self._commit(lambda: _store(job, quotes, self.settings.kafka_topic))
        except Exception as error:
            if isinstance(error, LeaseLostError) or database.is_away(error):
                raise
            self._fail(job, error)
            return "failed"
        return "stored"

    def _ask(self, job: Job) -> list[Quote]:
        """The newest price, after those that were missed if the job wants them."""
        start = self._commit(lambda: jobs.missed_since(job)) if job.backfill else None
        missed = [] if start is None else self._history(job, start)
        with metrics.fetching(job.provider):
            latest = self.source.latest(job.provider, job.symbol)
        return [*(quote for quote in missed if quote.ts < latest.ts), latest]

    def _history(self, job: Job, start: datetime.datetime) -> list[Quote]:
        try:
            with metrics.fetching(job.provider):
                return self.source.history(job.provider, job.symbol, start)
        except BadPriceError as error:  # it would be there at every try
            log.warning("job %d: what was missed since %s cannot be had: %s", job.id, start.isoformat(), error)
            return []

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, (ProviderError, psycopg.Error)):
            log.error("job %d: this should not happen", job.id, exc_info=error)
        retry_after_s = error.retry_after_s if isinstance(error, RateLimitedError) else None
        told = service.first_line(error).replace("\0", "")[:MOST_ERROR]
        next_run_at = self._commit(lambda: jobs.fail(job, told, retry_after_s))
        when = next_run_at.isoformat(timespec="seconds")
        log.warning("job %d, %s, %s; tried again at %s", job.id, job.symbol, told, when)

    def _commit(self, steps: Callable[[], Steps[Result]]) -> Result:
        """Run the steps in a transaction; as long as a lease holds while the database is away, unless `stop` is set."""
        deadline = time.monotonic() + self.lease_s
        while True:
            try:
                with self._transaction() as connection:
                    return database.run(connection, steps())
            except database.AWAY as error:
                if not database.is_away(error) or self.stop.is_set() or time.monotonic() > deadline:
                    raise
            self.stop.wait(RETRY_S)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A transaction on a connection that no other thread uses."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = database.connect(self.settings, "poller-store")
        try:
            with connection.transaction():
                yield connection
        finally:
            if self._is_over:
                connection.close()
            elif not connection.closed:
                self._idle.append(connection)


def _store(job: Job, quotes: Sequence[Quote], topic: str) -> Steps[datetime.datetime]:
    """Keep the prices and end the run, in one transaction."""
    for quote in quotes:
        yield from prices.store(quote, topic=topic)
    return (yield from jobs.complete(job))


def _lag_s(job: Job, lease_s: float) -> float:
    """How long after its slot the job was leased."""
    assert job.lease_until is not None
    return max(0.0, (job.lease_until - job.next_run_at).total_seconds() - lease_s)


def work(settings: Settings, stop: Stop, flags: argparse.Namespace) -> None:
    """The program scripts/poller.py."""
    Poller(settings, stop, SyncProviderProcess(settings), flags.lease_seconds).run()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of scripts/poller.py."""
    text = f"how long a job waits for another poller when this one dies, 3 to {jobs.LEASE_S:.0f} (default: %(default)g)"
    parser.add_argument("--lease-seconds", type=_lease_s, default=jobs.LEASE_S, metavar="S", help=text)


def _lease_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 3 <= seconds <= jobs.LEASE_S:
        raise argparse.ArgumentTypeError(f"it is {text!r}; it must be a number from 3 to {jobs.LEASE_S:.0f}")
    return seconds
