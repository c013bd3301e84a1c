"""The SQL of polling jobs: who wants which symbol how often, and which poller works on which of them.

slot       the time a job is due, its `next_run_at`; a poller that works on it holds its lease, at most LEASE_S unless renewed
complete   the next slot is the first in the future on the grid slot + k * interval: slots that were missed are one run
fail       tried again after 10 s, 20 s, 40 s ... 30 minutes, jitter included, and not before what the provider asked for
fence      complete and fail change a job only for its lease's owner and slot; else they raise LeaseLostError, which
           undoes the transaction: a poller that lost its lease stores nothing

All times are the database's. Functions return steps for `app.database.run` and `run_async`.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from app.database import Row, Steps
from app.errors import ServiceError

CHANNEL = "jobs"
LEASE_S = 60.0
FIRST_RETRY_S = 10.0
MEAN_RETRY_S = 1_500.0  # with the most jitter: 30 minutes
MOST_RETRY_AFTER_S = 86_400.0
JITTER = 0.2

Status = Literal["active", "paused"]


class LeaseLostError(ServiceError):
    """Another poller may work on the job by now, or it was removed."""


@dataclass(frozen=True)
class Job:
    """A row of polling_job_configs; `last_run_at` is when it last stored a price, `failures` counts those since."""

    id: int
    symbol: str
    provider: str
    interval_minutes: int
    status: Status
    backfill: bool
    next_run_at: datetime.datetime
    lease_until: datetime.datetime | None
    lease_owner: str | None
    last_run_at: datetime.datetime | None
    last_error: str | None
    failures: int
    created_at: datetime.datetime


_NAMES = tuple(each.name for each in fields(Job))
_JOB = ", ".join(_NAMES)
_ARRAYS = ", ".join(f"array_agg({name} ORDER BY place) AS {name}" for name in _NAMES)

_UPSERT = f"""
WITH wanted AS (
    SELECT symbol, place FROM unnest(%(symbols)s::text[]) WITH ORDINALITY AS each (symbol, place)
), written AS (
    INSERT INTO polling_job_configs AS job (symbol, provider, interval_minutes, backfill)
    SELECT symbol, %(provider)s, %(interval_minutes)s, %(backfill)s FROM wanted ORDER BY symbol
    ON CONFLICT (symbol, provider) DO UPDATE
    SET interval_minutes = excluded.interval_minutes, backfill = excluded.backfill, status = 'active',
        next_run_at = CASE WHEN job.failures > 0 THEN job.next_run_at
                      ELSE least(job.next_run_at, now() + make_interval(mins => excluded.interval_minutes)) END
    RETURNING *
)
SELECT {_ARRAYS}, pg_notify('{CHANNEL}', '') FROM written JOIN wanted USING (symbol)
"""

_LIST = f"""
WITH page AS (
    SELECT *, id AS place FROM polling_job_configs WHERE id > %(after_id)s ORDER BY id LIMIT %(limit)s
)
SELECT {_ARRAYS} FROM page
"""

_GET = f"SELECT {_JOB} FROM polling_job_configs WHERE id = %(id)s"

_REMOVE = "DELETE FROM polling_job_configs WHERE id = %(id)s RETURNING id"

_SET_STATUS = f"""
WITH changed AS (UPDATE polling_job_configs SET status = %(status)s WHERE id = %(id)s RETURNING *)
SELECT {_JOB}, pg_notify('{CHANNEL}', '') FROM changed
"""

_LEASE = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM polling_job_configs
    WHERE status = 'active' AND next_run_at <= now() AND (lease_until IS NULL OR lease_until < now())
      AND id <> ALL (%(except_ids)s::bigint[])
    ORDER BY next_run_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), leased AS (
    UPDATE polling_job_configs AS job
    SET lease_owner = %(owner)s, lease_until = now() + make_interval(secs => %(seconds)s)
    FROM due WHERE job.id = due.id
    RETURNING job.*, job.next_run_at AS place
)
SELECT {_ARRAYS} FROM leased
"""

_RENEW = """
UPDATE polling_job_configs SET lease_until = now() + make_interval(secs => %(seconds)s)
WHERE id = ANY (%(ids)s) AND lease_owner = %(owner)s
"""

_GIVE_BACK = """
UPDATE polling_job_configs SET lease_owner = NULL, lease_until = NULL
WHERE id = ANY (%(ids)s) AND lease_owner = %(owner)s
"""

_NEXT_DUE = """
SELECT extract(epoch FROM next_run_at - clock_timestamp())::float8 AS wait_s
FROM polling_job_configs WHERE status = 'active' AND next_run_at > now() ORDER BY next_run_at LIMIT 1
"""

_MISSED_SINCE = """
SELECT ts FROM market_prices
WHERE symbol = %(symbol)s AND provider = %(provider)s
  AND fetched_at <= coalesce(%(last_run_at)s::timestamptz, 'infinity')
  AND coalesce(now() - %(last_run_at)s::timestamptz > 1.5 * make_interval(mins => %(interval_minutes)s), true)
ORDER BY ts DESC LIMIT 1
"""

_FENCE = "WHERE id = %(id)s AND lease_owner = %(owner)s AND next_run_at = %(slot)s RETURNING next_run_at"

_COMPLETE = f"""
UPDATE polling_job_configs
SET last_run_at = now(), last_error = NULL, failures = 0, lease_owner = NULL, lease_until = NULL,
    next_run_at = next_run_at + make_interval(mins => interval_minutes) * greatest(
        1, floor(extract(epoch FROM now() - next_run_at) / (60 * interval_minutes))::float8 + 1)
{_FENCE}
"""

_FAIL = f"""
UPDATE polling_job_configs
SET last_error = %(error)s, failures = failures + 1, lease_owner = NULL, lease_until = NULL,
    next_run_at = now() + make_interval(secs => greatest(%(retry_after_s)s,
        %(jitter)s * least(%(most_s)s, %(first_s)s * 2.0 ^ least(failures, 20))))
{_FENCE}
"""


def upsert(symbols: Sequence[str], provider: str, interval_minutes: int, backfill: bool) -> Steps[list[Job]]:
    """A job for each symbol, once, in the order given; new ones are due now, pollers are told.

    One that is there keeps its id, gets the interval, is resumed if it was paused, and runs next at the latest one
    interval from now; one that failed keeps its wait.
    """
    distinct = list(dict.fromkeys(symbols))
    row = yield (
        _UPSERT,
        {"symbols": distinct, "provider": provider, "interval_minutes": interval_minutes, "backfill": backfill},
    )
    return _jobs(row)


def listing(limit: int, after_id: int = 0) -> Steps[list[Job]]:
    """At most `limit` jobs with an id above `after_id`, in order of their ids."""
    return _jobs((yield _LIST, {"limit": limit, "after_id": after_id}))


def get(job_id: int) -> Steps[Job | None]:
    """The job, None if there is none."""
    return _job((yield _GET, {"id": job_id}))


def remove(job_id: int) -> Steps[bool]:
    """Remove the job; whether it was there. A run of it that is under way stores nothing any more."""
    return (yield _REMOVE, {"id": job_id}) is not None


def set_status(job_id: int, status: Status) -> Steps[Job | None]:
    """Pause or resume the job, None if there is none. A run of it that is under way ends as usual."""
    return _job((yield _SET_STATUS, {"id": job_id, "status": status}))


def lease(owner: str, limit: int, seconds: float = LEASE_S, except_ids: Sequence[int] = ()) -> Steps[list[Job]]:
    """At most `limit` jobs that are due and nobody works on, the longest due first; `owner` holds their leases for `seconds`."""
    row = yield _LEASE, {"owner": owner, "limit": limit, "seconds": seconds, "except_ids": list(except_ids)}
    return _jobs(row)


def renew(owner: str, ids: Sequence[int], seconds: float = LEASE_S) -> Steps[None]:
    """Hold the leases of these jobs, where `owner` still has them, for `seconds` from now."""
    yield _RENEW, {"owner": owner, "ids": list(ids), "seconds": seconds}


def give_back(owner: str, ids: Sequence[int]) -> Steps[None]:
    """Leave these jobs, unfinished, to other pollers."""
    yield _GIVE_BACK, {"owner": owner, "ids": list(ids)}


def next_due() -> Steps[float | None]:
    """Seconds until the next job is due that is not due yet, None if there is none."""
    row = yield _NEXT_DUE, {}
    return None if row is None else row["wait_s"]


def missed_since(job: Job) -> Steps[datetime.datetime | None]:
    """The provider's time of the last price that is stored, if slots were missed since: half an interval is not one.

    What others stored since the job's last run does not count. None: nothing was missed, or there is no price to go on from.
    """
    names = ("symbol", "provider", "last_run_at", "interval_minutes")
    row = yield _MISSED_SINCE, {name: getattr(job, name) for name in names}
    return None if row is None else row["ts"]


def complete(job: Job) -> Steps[datetime.datetime]:
    """End a leased job's run well, in the transaction that stores its price; its next slot. Raises LeaseLostError."""
    return _fenced(job, (yield _COMPLETE, _lease_of(job)))


def fail(job: Job, error: str, retry_after_s: float | None = None) -> Steps[datetime.datetime]:
    """End a leased job's run without a price; when it is tried again. Raises LeaseLostError.

    Parameters
    ----------
    job
        As `lease` returned it.
    error
        What happened, in one line.
    retry_after_s
        The wait that the provider asked for; more than a day is a day.
    """
    values = {
        "error": error,
        "retry_after_s": min(retry_after_s or 0.0, MOST_RETRY_AFTER_S),
        "jitter": random.uniform(1 - JITTER, 1 + JITTER),
        "first_s": FIRST_RETRY_S,
        "most_s": MEAN_RETRY_S,
    }
    return _fenced(job, (yield _FAIL, _lease_of(job) | values))


def _lease_of(job: Job) -> dict[str, object]:
    return {"id": job.id, "owner": job.lease_owner, "slot": job.next_run_at}


def _fenced(job: Job, row: Row | None) -> datetime.datetime:
    if row is None:
        raise LeaseLostError(f"job {job.id}: its lease was lost, or it was removed")
    return row["next_run_at"]


def _job(row: Row | None) -> Job | None:
    return None if row is None else Job(**{name: row[name] for name in _NAMES})


def _jobs(row: Row | None) -> list[Job]:
    """The jobs of a row that holds one array for each column."""
    assert row is not None
    return [Job(*values) for values in zip(*(row[name] or () for name in _NAMES), strict=True)]
