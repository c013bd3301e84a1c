"""Many days at once: one task per file, here or on Dask distributed, pooled into one evaluation that does not depend on where.

    python backtest.py --days 'days/*.csv.gz'                                one file after another
    python backtest.py --days 'days/*.csv.gz' --dask local                   a worker process for every core of this machine
    python backtest.py --days 'days/*.csv.gz' --dask tcp://10.0.0.5:8786     the workers of a scheduler that runs already

A task reads a file, builds its market and replays every window (`evaluation.replay_day`); what comes back is about 40 KB. A file
that cannot be evaluated is set aside and named, and the others count. A task whose worker dies is done again by another.
The only module that imports dask, and only when a cluster is asked for. docs/scale.md says how to run it on many machines.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import logging
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sor import cli, evaluation, feed, log
from sor import market as markets
from sor.errors import ReplayError, SorError, UsageError
from sor.evaluation import DayResult, Protocol
from sor.events import TRADE, Checker, Events, Intake
from sor.market import Market
from sor.orders import Order
from sor.venues import VenueTable

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

LOCAL = "local"
TRIES = 3  # of a file whose worker dies, before it is tried once more alone
CONNECT_S = 30  # longest wait for the scheduler, and for its first worker
LOCAL_DASK = {  # of a cluster that we start
    "distributed.scheduler.allowed-failures": TRIES - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # no file waits at a worker: one that dies takes one file with it
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,  # it looks at the running task every 10 ms
    "distributed.worker.memory.target": False,  # results are small: there is nothing to write to disk,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # and nothing to wait for; only one that takes too much is ended
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",  # 20 ms would wake every process 50 times a second, beside the task
    # Without Dask's MALLOC_TRIM_THRESHOLD_, which hands every freed array back to the system: three times the page faults.
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
}


class File(NamedTuple):
    """A file to evaluate."""

    name: str  # its path below the folder that all of them share
    path: str  # absolute


@dataclass(frozen=True)
class Plan:
    """What is done with every file; sent to the workers."""

    venues: VenueTable
    max_disorder_ns: int
    max_quote_age_ns: int
    strict: bool
    symbol: str  # to trade; empty: the only one
    latency_ms: Mapping[str, float]  # of each venue, of all others under the empty name
    start_time: str  # of the session, on the clock of time_zone
    end_time: str
    time_zone: str
    order: Order  # its window is taken from the file
    policy: str
    triples: tuple[tuple[float, float, float], ...]
    protocol: Protocol
    code: str = field(default_factory=lambda: code_digest())


@dataclass(frozen=True)
class Day:
    """What became of a file: a result, or why there is none."""

    name: str
    why_not: str = ""
    result: DayResult | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # the file's entry in output.json
    publisher_ids: tuple[int, ...] = ()
    cpu_s: Mapping[str, float] = field(default_factory=dict)  # spent reading, building the market, evaluating


Task = Callable[[File], Day]


def find(pattern: str) -> list[File]:
    """The files that a pattern finds (`**` takes in folders below), in order of their names.

    Raises
    ------
    UsageError
        There is none.
    """
    paths = sorted({os.path.abspath(path) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)})
    if not paths:
        raise UsageError(
            f"days is {pattern!r}, which finds no file; it must be a pattern like 'days/*.csv.gz', in quotes"
        )
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return sorted(File(Path(path).relative_to(shared).as_posix(), path) for path in paths)


# --- one file -----------------------------------------------------------------------------------------------------------


def evaluate_file(file: File, plan: Plan) -> Day:
    """Replay one file as `plan` says; whatever is wrong with it is in `why_not`.

    Raises
    ------
    UsageError
        A setting is wrong, and so it would be for every file.
    SorError
        This process runs another version of the code than the one that made the plan.
    """
    if code_digest() != plan.code:
        raise SorError(f"{platform.node()} runs other code than this; every worker must have the same files in sor/")
    try:
        return _evaluated(file, plan)
    except UsageError:
        raise
    except SorError as error:
        why = str(error).replace(file.path, file.name)
    except Exception as error:  # the other days must not be lost, whatever it is
        why = f"{type(error).__name__}: {error}"
    return Day(file.name, why if why.startswith(file.name) else f"{file.name}: {why}")


@cache
def code_digest() -> str:
    """SHA-256 of all that a result depends on: the source files of sor and the allocator, numpy and numba."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.rglob("*.py"), folder.parent / "allocator.py"]):
        digest.update(path.read_bytes())
    for package in ("numpy", "numba"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _evaluated(file: File, plan: Plan) -> Day:
    laps = [time.process_time()]
    intake = Intake(Checker(plan.max_disorder_ns, plan.strict), plan.symbol or None)
    identity = feed.identify(file.path)
    feed.load(file.path, intake)
    events = intake.buffer.events()
    laps.append(time.process_time())
    try:
        market = delayed(markets.build(events, plan.venues, plan.max_quote_age_ns), plan.latency_ms)
        order = _order(market, plan)
        laps.append(time.process_time())
        result = evaluation.replay_day(
            market, order, plan.policy, plan.triples, plan.protocol, day=Path(file.name).name
        )
    except ReplayError as error:
        raise ReplayError(f"{error}{intake.checker.rejects.hint()}") from None
    laps.append(time.process_time())
    return Day(
        name=file.name,
        result=result,
        about={
            "file": file.name,
            "sha256": identity.sha256,
            **_about(intake, events),
            "rows_after_the_day": markets.rows_after_the_day(market, order.window, plan.time_zone),
            "session": [_utc(order.window.start_ns), _utc(order.window.end_ns)],
            "windows": len(result.starts_ns),
        },
        publisher_ids=events.publisher_ids,
        cpu_s=dict(zip(("read", "market", "evaluate"), np.diff(laps).tolist(), strict=True)),
    )


def delayed(market: Market, latency_ms: Mapping[str, float]) -> Market:
    """The same market with the time an order takes to each venue, of those not named that under the empty name."""
    latency_ns = [round(latency_ms.get(name, latency_ms[""]) * 1e6) for name in market.venue_names]
    return replace(market, latency_ns=np.array(latency_ns, np.int64))


def _order(market: Market, plan: Plan) -> Order:
    """The file's order; ReplayError if no window of it could be traded."""
    window = markets.order_window(market, plan.start_time, plan.end_time, plan.time_zone)
    order = replace(plan.order, window=window)
    if not evaluation.orders_of(market, order, plan.protocol):
        raise ReplayError(
            f"no window of {plan.protocol.window_s:g} s between {_utc(window.start_ns)} and {_utc(window.end_ns)}, "
            f"{plan.protocol.skip_s:g} s left out at both ends, that begins on a usable book"
        )
    return order


def _about(intake: Intake, events: Events) -> dict[str, Any]:
    return {
        "symbol": intake.symbol,
        "rows": len(events),
        "trades": int((events.action == TRADE).sum()),
        "rows_of_other_symbols": intake.other_symbol_rows,
        "rows_out_of_order": intake.checker.disordered,
        "rejects": intake.checker.rejects.summary(),
    }


def _utc(ns: int) -> str:
    return f"{np.datetime64(int(ns), 'ns')}Z"


# --- all files ----------------------------------------------------------------------------------------------------------


def run(
    files: Sequence[File], task: Plan | Task, dask: str = "", finished: Callable[[Day], object] = lambda day: None
) -> list[Day]:
    """What became of every file, in the order given, whichever is done first.

    Parameters
    ----------
    files : sequence of File
    task : Plan or callable
        What to do with a file; a callable must be importable by the workers.
    dask : str
        Empty: in this process; "local": on worker processes of this machine, which end with the call; else the address of a
        scheduler.
    finished : callable
        Called with each day as it is done.

    Raises
    ------
    SorError
        The scheduler cannot be reached or is lost, or a worker cannot run the task.
    """
    task = partial(evaluate_file, plan=task) if isinstance(task, Plan) else task
    days: dict[File, Day] = {}
    for file, day in _on_dask(files, task, dask) if dask else ((file, task(file)) for file in files):
        days[file] = day
        finished(day)
    return _without_doubles([days[file] for file in files])


def _without_doubles(found: Sequence[Day]) -> list[Day]:
    """The same days; of several files of one symbol and date the first counts, the others are set aside."""
    first_of: dict[tuple[str, str], str] = {}
    kept = []
    for day in found:
        if day.result:
            key = day.about["symbol"], day.about["session"][0][:10]
            first = first_of.setdefault(key, day.name)
            if first != day.name:
                day = Day(day.name, f"{day.name}: {key[0]} on {key[1]} is in {first} already")
        kept.append(day)
    return kept


def _on_dask(files: Sequence[File], task: Task, address: str) -> Iterator[tuple[File, Day]]:
    """Files with what became of them, as they are done. One that kept losing its worker is tried once more, alone:
    it may have stood beside the one that is to blame."""
    with _client(address, len(files)) as client, _deaths_told(client):
        suspects = []
        for file, day in _submitted(client, files, task):
            if day:
                yield file, day
            else:
                suspects.append(file)
        for file in suspects:
            for _, day in _submitted(client, [file], task):
                yield file, day or Day(file.name, f"{file.name}: a worker that evaluates it dies each time, alone too")


def _submitted(client: Client, files: Iterable[File], task: Task) -> Iterator[tuple[File, Day | None]]:
    """Files with their days as they are done, None where Dask gave up because the worker died each time."""
    from distributed import as_completed

    files_of = dict(zip(client.map(task, files, pure=False), files, strict=True))
    for future in as_completed(list(files_of)):
        yield files_of.pop(future), _outcome(future)


def _outcome(future: Future) -> Day | None:
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return None
    except SorError:
        raise
    except CancelledError:
        raise SorError("the Dask scheduler is lost; it must run until the last file is done") from None
    except Exception as error:  # our own code returns errors: this is Dask's, or an import that failed
        found = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise SorError(
            f"Dask cannot run the task: {found} This project must be importable by the scheduler and by every worker "
            "(docs/scale.md)"
        ) from None


@contextmanager
def _deaths_told(client: Client) -> Iterator[None]:
    """One line whenever a worker is lost with a file in its hands."""

    def heard(event: tuple[float, Mapping[str, Any]]) -> None:
        what = event[1]
        if what.get("action") == "remove-worker" and what["processing-tasks"] and not what["expected"]:
            log.warn(f"the worker {what['worker']} is lost: what it was doing is done again")

    client.subscribe_topic("all", heard)
    try:
        yield
    finally:
        client.unsubscribe_topic("all")


@contextmanager
def _client(address: str, most_workers: int) -> Iterator[Client]:
    """A client of our own cluster, which ends with the block, or of the scheduler at `address`."""
    import dask
    from distributed import Client

    if address != LOCAL:
        with _connected(address) as client:
            yield client
        return
    with (
        dask.config.set(LOCAL_DASK),
        _local_cluster(min(dask.system.CPU_COUNT, most_workers)) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _local_cluster(workers: int) -> Iterator[LocalCluster]:
    """Worker processes that listen on the loopback interface alone. They never see a Ctrl-C: this process ends them."""
    from distributed import LocalCluster

    cluster = None
    resource_tracker.ensure_running()  # multiprocessing would start it between, and unblock what is blocked
    try:
        with cli.deferred_signals(), _blocked(signal.SIGINT):  # what a thread blocks, its processes block
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
        yield cluster
    finally:
        if cluster:
            with cli.deferred_signals():
                cluster.close()


@contextmanager
def _blocked(*signals: int) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    import distributed

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is our error line
    try:
        client = distributed.Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise SorError(f"dask is {address!r}: {error}; it must be the address of a Dask scheduler that runs") from None
    with client:
        try:
            client.wait_for_workers(1, CONNECT_S)
        except distributed.TimeoutError:
            raise SorError(f"dask is {address!r}: no worker in {CONNECT_S} s; at least one must be connected") from None
        yield client


# --- what is reported ---------------------------------------------------------------------------------------------------


def section(days: Sequence[Day], plan: Plan) -> dict[str, Any]:
    """`evaluation` of output.json over all files that have a result; SorError if none has."""
    results = [day.result for day in days if day.result]
    if not results:
        raise SorError(f"none of {len(days)} files can be evaluated; the first: {days[0].why_not}")
    return evaluation.section(results, plan.policy, plan.triples, plan.protocol)


def data_section(days: Sequence[Day]) -> dict[str, Any]:
    """`data` of output.json: every file that was evaluated, and why the others were not."""
    good = [day.about for day in days if day.result]
    return {
        "symbols": sorted({about["symbol"] for about in good}),
        "rows": sum(about["rows"] for about in good),
        "files": good,
        "set_aside": [{"file": day.name, "why": day.why_not} for day in days if not day.result],
    }


def warnings(days: Sequence[Day]) -> list[str]:
    """What the reader of the pooled numbers must know first."""
    texts = [f"set aside: {day.why_not}" for day in days if day.why_not.endswith(" already")]
    dates = {day.about["session"][0][:10] for day in days if day.result}
    if len(dates) < (evaluated := sum(1 for day in days if day.result)):
        texts.append(
            f"{evaluated} files are of {len(dates)} dates, but each is resampled as a day of its own: what moves several "
            "symbols on one date makes the intervals too narrow"
        )
    return texts


def cpu_s(days: Sequence[Day]) -> dict[str, float]:
    """Processor time of all tasks: reading, building markets, evaluating."""
    parts = [day.cpu_s for day in days if day.result]
    return {name: round(sum(part[name] for part in parts), 3) for name in ("read", "market", "evaluate")}


def table(output: Mapping[str, Any]) -> str:
    """The pooled result in a few lines for the terminal."""
    found, data = output["evaluation"], output["data"]
    walk_forward = found["walk_forward"]
    rows = {f"{found['policy']} (walk-forward)": walk_forward, **found["strategies"]}
    lines = [f"{'strategy':<24}{'shortfall, bps':>15}{'95 %':>18}{'saved, bps':>12}{'95 %':>18}{'p (Holm)':>10}"]
    for name, row in rows.items():
        saving = walk_forward["savings"].get(name, {})
        lines.append(
            f"{name:<24}{_number(row['shortfall_bps'])}{_interval(row['ci95'])}{_number(saving.get('saved_bps'), 12)}"
            f"{_interval(saving.get('ci95'))}{_number(saving.get('p_holm'), 10, '.3f')}"
        )
    lines.append(
        f"{len(data['files'])} files, {data['rows']} rows, {len(data['set_aside'])} files set aside; {found['scored_windows']} "
        f"of {found['windows']} orders of {found['order_size']} shares are scored"
    )
    if data["simulated"]:
        lines.append("simulated data")
    return "\n".join([*lines, found["note"]])


def _number(value: float | None, width: int = 15, form: str = "+.2f") -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{'[{:+.2f}, {:+.2f}]'.format(*ends) if ends else '-':>18}"
