"""Polling jobs that become due one after the other within a minute, and two pollers: who leases what, and what that costs.

The provider is `replay`. Every lease is noted by a trigger of the benchmark's database. The scheduler is the main thread of
scripts/poller.py; the other threads of the process ask the provider and store what it says.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app import database, jobs
from app.database import Connection
from benchmarks import misses
from benchmarks.stage import END_S, Stage, Watched, check, open_database
from benchmarks.table import Row

POLLERS = 2
MOST_SHARE = 0.25
AHEAD_S = 2.0
INTERVAL_MINUTES = 60

_NOTE_LEASES = """
CREATE TABLE bench_leases (job_id bigint, slot timestamptz, owner text, leased_at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench_leases (job_id, slot, owner) VALUES (NEW.id, NEW.next_run_at, NEW.lease_owner);
    RETURN NULL;
END $$;
CREATE TRIGGER bench_leases AFTER UPDATE OF lease_owner ON polling_job_configs
    FOR EACH ROW WHEN (NEW.lease_owner IS NOT NULL) EXECUTE FUNCTION bench_note();
"""

_SPREAD = """
UPDATE polling_job_configs SET next_run_at = clock_timestamp() + make_interval(secs => %(ahead_s)s + (id - %(first)s) * %(step_s)s)
"""

_LEASES = """
SELECT count(*) AS leases, count(DISTINCT (job_id, slot)) AS slots, count(DISTINCT owner) AS owners,
       extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY leased_at - slot))::float8 AS late_s
FROM bench_leases
"""

_RUNS = """
SELECT (SELECT count(*) FROM polling_job_configs WHERE last_run_at IS NOT NULL AND failures = 0 AND lease_owner IS NULL) AS done,
       (SELECT count(*) FROM polling_job_configs JOIN bench_leases ON job_id = id
        WHERE next_run_at = slot + make_interval(mins => interval_minutes)) AS moved,
       (SELECT count(*) FROM market_prices) AS prices, (SELECT count(DISTINCT symbol) FROM market_prices) AS symbols,
       (SELECT count(*) FROM raw_responses) AS responses, (SELECT count(*) FROM outbox) AS events
"""


@dataclass(frozen=True)
class Minute:
    """One round: shares of a core, all pollers together, and by when 99 of 100 jobs were leased after they became due."""

    scheduler: float
    processes: float
    children: float
    late_s: float


def rows(stage: Stage) -> list[Row]:
    """The one claim."""
    found = [run(stage) for _ in range(stage.scale.rounds)]
    share = {name: [getattr(each, name) for each in found] for name in ("scheduler", "processes", "children", "late_s")}
    middle = {name: statistics.median(each) for name, each in share.items()}
    text = f"{100 * middle['scheduler']:.0f} % of a core, p99 {1000 * middle['late_s']:.0f} ms late"
    beside = (
        f"fetching and storing {100 * (middle['processes'] - middle['scheduler']):.0f} %; "
        f"the providers' processes {100 * middle['children']:.0f} %"
    )
    name = f"scheduler of {POLLERS} pollers, {stage.scale.jobs:,} jobs in {stage.scale.jobs_s:g} s, none leased twice"
    bar, is_met = f"<= {100 * MOST_SHARE:.0f} % of a core", middle["scheduler"] <= MOST_SHARE
    return [Row(name, text, beside, None, bar, is_met, {**share})]


def run(stage: Stage) -> Minute:
    """One round."""
    count = stage.scale.jobs
    symbols = [f"J{number:05}" for number in range(count)]
    environment = {"REPLAY_FILE": str(misses.recording(stage.folder, symbols))}
    with stage.database() as name:
        given = stage.settings(name, with_kafka=False)
        with open_database(given) as db, contextlib.ExitStack() as running:
            first = make(db, symbols)
            stage.flush()
            pollers = [
                running.enter_context(stage.program("poller", "scripts/poller.py", settings=given, **environment))
                for _ in range(POLLERS)
            ]
            pollers[0].wait(lambda: _heartbeats(db) == POLLERS, "the pollers' heartbeats")
            shares = _watch(stage, db, pollers, first)
            late_s = compare(db, count)
    return Minute(*shares, late_s)


def make(db: Connection, symbols: Sequence[str]) -> int:
    """A job for each symbol, due in an hour; the first one's id."""
    with db.transaction():
        made = database.run(db, jobs.upsert(symbols, misses.PROVIDER, INTERVAL_MINUTES, False))
        db.execute("UPDATE polling_job_configs SET next_run_at = now() + interval '1 hour'")
    db.execute("VACUUM ANALYZE polling_job_configs")
    db.execute(_NOTE_LEASES)
    return made[0].id


def _watch(stage: Stage, db: Connection, pollers: Sequence[Watched], first: int) -> tuple[float, float, float]:
    """Let the jobs become due, and wait until all ran; the shares of a core, of scheduler, processes and children."""
    scale = stage.scale
    before, began = _spent(pollers), time.monotonic()
    db.execute(_SPREAD, {"ahead_s": AHEAD_S, "first": first, "step_s": scale.jobs_s / scale.jobs})
    db.execute(f"NOTIFY {jobs.CHANNEL}")
    time.sleep(AHEAD_S + scale.jobs_s)
    pollers[0].wait(lambda: _done(db) >= scale.jobs, "the end of the jobs", END_S)
    lasted_s = time.monotonic() - began
    scheduler, processes, children = (after - then for after, then in zip(_spent(pollers), before, strict=True))
    return scheduler / lasted_s, processes / lasted_s, children / lasted_s


def _spent(pollers: Sequence[Watched]) -> tuple[float, float, float]:
    """Processor seconds so far: of the main threads, the processes, and their children."""
    children = [child.cpu_times() for each in pollers for child in each.children()]
    return (
        sum(each.main_thread_s for each in pollers),
        sum(each.cpu_s for each in pollers),
        sum(each.user + each.system for each in children),
    )


def compare(db: Connection, count: int) -> float:
    """Every job must have been leased once, by any poller, and have run once; how late 99 of 100 were leased, at most."""
    leases, runs = db.execute(_LEASES).fetchone(), db.execute(_RUNS).fetchone()
    assert leases is not None
    assert runs is not None
    late_s = leases.pop("late_s")
    check(leases == {"leases": count, "slots": count, "owners": POLLERS}, f"of {count} jobs: {leases}")
    check(set(runs.values()) == {count}, f"of {count} jobs: {runs}")
    return late_s


def _heartbeats(db: Connection) -> int:
    return db.execute("SELECT FROM heartbeats WHERE name = 'poller'").rowcount


def _done(db: Connection) -> int:
    return db.execute("SELECT FROM polling_job_configs WHERE last_run_at IS NOT NULL").rowcount
