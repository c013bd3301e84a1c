"""Rebuild the book of every venue from the stream, buy one order with every strategy, write output.json and results.png.

    python backtest.py                        the next run on the topic that is not reported yet; waits for one
    python backtest.py --replay               the newest complete run again
    python backtest.py --csv l1_day.csv       without Kafka: the same output.json but for its `run` section
    python backtest.py --days 'days/*.csv.gz' --dask local    many files, evaluated in parallel and pooled (sor/days.py)
    python backtest.py --verify output.json   computes it again from the settings and the file it names: equal, or what differs
    python backtest.py --doctor               checks machine, broker and topic, and says what to do

stdout gets the four sections the trial asks for as JSON (of --days the table, of --verify and --doctor what was found);
progress, the table and errors go to stderr.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C while the modules load ends the program without a traceback
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys

if __name__ == "__main__" and (
    "--doctor" in sys.argv or os.environ.get("SOR_DOCTOR") in ("1", "true", "yes")
):  # before the packages are loaded: it tells which is missing
    if sys.version_info < (3, 10):  # noqa: UP036  an older one must be told
        sys.exit(f"fail  python     {sys.version.split()[0]}: use 3.10 to 3.13, as ./setup.sh chooses one for .venv")
    import config
    from sor import doctor

    sys.exit(doctor.main(config.settings("backtest", None, __doc__)))

import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import config
import utils
from sor import (
    cli,
    contract,
    days,
    doctor,
    evaluation,
    experiment,
    explain,
    feed,
    log,
    plot,
    policies,
    stream,
    summary,
    verify,
)  # fmt: skip
from sor import market as markets
from sor.audit import RunAudit
from sor.errors import FeedError, ReplayError, RunNotWholeError, SorError, UsageError, VerificationError
from sor.events import TRADE, Checker, Events, Intake, RowBlock
from sor.experiment import Experiment
from sor.feed import FileIdentity
from sor.market import Market
from sor.orders import RESET, SHADOW, Order, Window
from sor.synthetic import SYMBOL as SIMULATED_SYMBOL
from sor.venues import VenueTable, parse_venues

SHIPPED_VENUES = Path(__file__).parent / "sor" / "venues.toml"
DAY_NS = 86_400 * 10**9
LIVE_SHARE = 0.05  # of the time spent on the running totals while reading, at most


@dataclass
class Source:
    """Where the events came from."""

    file: FileIdentity
    intake: Intake
    rejects: dict[str, dict[str, int]]  # rows of the file set aside
    run: dict[str, object] = field(default_factory=dict)  # of output.json


def main(argv: Sequence[str] | None = None) -> int:
    """Report one run; the exit code."""
    settings = config.settings("backtest", argv, __doc__)
    if settings.doctor:
        return doctor.main(settings)
    command = verified if settings.verify else backtest
    with log.on_stderr("backtest", settings.log_level, settings.log_json, settings.kafka_sasl_password):
        return cli.run(lambda: command(settings))


def backtest(settings: config.Settings) -> int:
    """Read, replay, write; with Kafka the run counts as reported only after everything is written."""
    venues = _venue_table(settings)
    _make_folder(settings.out_path)
    _check_explain(settings.explain)
    if settings.days:
        return many_days(settings, venues)
    if settings.offline_csv:
        report(settings, venues, _from_csv(settings))
        return 0
    topic = stream.topic_of(settings)
    stream.ensure_topic(topic, "READ")
    with stream.Reader(topic, settings.kafka_group) as reader:
        return _next_report(settings, venues, reader)


def _next_report(settings: config.Settings, venues: VenueTable, reader: stream.Reader) -> int:
    """Choose a run, report it, commit; the last line but an error's says how much of it came."""
    audit = RunAudit(_choose_run(settings, reader))
    try:
        report(settings, venues, _from_kafka(settings, venues, reader, audit), reader.check_claim)
    except SorError as error:
        log.say(audit.verified())
        if not isinstance(error, RunNotWholeError):
            raise
        log.error(str(error))
        reader.commit_reported(audit.start.run_id)
        return error.exit_code
    cli.checkpoint()
    reader.commit_reported(audit.start.run_id)
    if waiting := reader.waiting_runs():
        log.say(f"{waiting} more run(s) wait on the topic: start backtest.py again for the next")
    log.say(audit.verified())
    return 0


def _venue_table(settings: config.Settings) -> VenueTable:
    path = Path(settings.venues_path or SHIPPED_VENUES)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or device may never end
            raise UsageError("is not a file; it must be a venue table")
        text = path.read_bytes()
        table = replace(parse_venues(text.decode("utf-8")), sha256=hashlib.sha256(text).hexdigest())
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; it must be a venue table like sor/venues.toml") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; it must be a venue table") from None
    known = {venue.name for venue in table.venues}
    unknown = [
        name for name in config.latencies_ms(settings.latency_ms) if name not in known and name[:3] not in ("", "PUB")
    ]
    if unknown:
        raise UsageError(
            f"latency_ms names {', '.join(unknown)}; a venue must be one of {path}: {', '.join(sorted(known))}"
        )
    return table


def _make_folder(out_path: str) -> None:
    """Make sure, before anything is read, that results can be written."""
    try:
        Path(out_path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out_path):
            pass
    except OSError as error:
        raise UsageError(
            f"out_path is {out_path!r}: {error.strerror}; it must be a folder that can be written"
        ) from None


def _check_explain(path: str) -> None:
    """Make sure of the same for the file of --explain."""
    if path and (not Path(path).parent.is_dir() or (Path(path).exists() and not Path(path).is_file())):
        raise UsageError(f"explain is {path!r}; it must be a file, new or old, in a folder that exists")


def _intake(settings: config.Settings, place: str) -> Intake:
    checker = Checker(round(settings.max_disorder_s * 1e9), settings.strict)
    checker.rejects.place = place
    return Intake(checker, settings.symbol or None)


@log.stage("read")
def _from_csv(settings: config.Settings) -> Source:
    """All of a CSV file."""
    path = settings.offline_csv
    intake = _intake(settings, "line")
    identity = feed.identify(path)
    feed.load(path, intake)
    if settings.rejects:
        feed.write_rejects(path, intake.checker.rejects, settings.rejects)
    if settings.show:
        again = _intake(settings, "line")
        for rows in feed.read_blocks(path):
            _show_batches(again.add(rows))
    return Source(identity, intake, intake.checker.rejects.summary(), {"transport": "csv"})


def _choose_run(settings: config.Settings, reader: stream.Reader) -> contract.StartRecord:
    """The run to report, as the flags say; waits for it."""
    if settings.replay:
        return reader.newest_whole()
    unfinished = None if settings.run_id else reader.claim()
    if unfinished:
        log.warn(
            f"a backtest.py of group {settings.kafka_group} ({unfinished}) has not finished: it was killed, or works where "
            "it cannot be seen from here; this one takes over"
        )
    log.say(f"waiting for a run on {settings.kafka_topic} (up to {settings.timeout_s:g} s)")
    if settings.run_id:
        return reader.run(settings.run_id, settings.timeout_s)
    return reader.next_unreported(settings.timeout_s)


@log.stage("read")
def _from_kafka(settings: config.Settings, venues: VenueTable, reader: stream.Reader, audit: RunAudit) -> Source:
    """All rows of one run; RunNotWholeError if it is not whole and partial runs are not allowed."""
    start = audit.start
    log.say(f"reading run {start.run_id}: {start.file}, {start.rows} rows, symbols {', '.join(start.symbols)}")
    if settings.rejects:
        log.say(
            f"{settings.rejects} is not written: of a run, the producer set the rows aside (its --rejects keeps them)"
        )
    intake = _intake(settings, "row")
    with log.progress(start.rows, "row", "reading") as bar, utils.rare_collections():
        live = LiveTotals(settings, venues, bar.set_postfix_str)

        def take(payloads: list[bytes], first_row: int) -> None:
            rows = intake.add(contract.decode_rows(payloads, first_row))
            bar.update(len(payloads))
            live.update(intake)
            if settings.show:
                _show_batches(rows)

        _follow(reader, audit, take, settings.timeout_s)
        live.update(intake, now=True)
    faults = audit.faults()
    if faults and not settings.allow_partial:
        raise RunNotWholeError(
            f"run {start.run_id} is not whole: {'; '.join(faults)}. Send it again, or use --run-id {start.run_id} --allow-partial"
        )
    if not len(intake.buffer):
        raise FeedError(f"run {start.run_id} holds no usable row{intake.checker.rejects.hint()}")
    run = {
        "transport": "kafka",
        "run_id": start.run_id,
        "whole": not faults,
        "faults": faults,
        "counts": audit.counts(),
        "messages_set_aside": intake.checker.rejects.summary(),
        "crc32": f"{audit.crc32:08x}",
        "speed": start.speed,
    }
    return Source(FileIdentity(start.file, start.sha256), intake, audit.end.rejects if audit.end else {}, run)


def _follow(reader: stream.Reader, audit: RunAudit, take: Callable[[list[bytes], int], None], timeout_s: float) -> None:
    """Hand on the run's payloads until its end record, or until nothing of it has come for `timeout_s`."""
    silent = stream.Silence(timeout_s)
    while not audit.ended:
        records = reader.poll()
        first_row = audit.received
        payloads = audit.accept(records)
        if payloads:
            take(payloads, first_row)
            silent.heard(records)
        elif silent.too_long(reader.caught_up):
            return


class LiveTotals:
    """The running totals of the reported policy while the stream is read: the same replay, on what has come so far."""

    def __init__(self, settings: config.Settings, venues: VenueTable, show: Callable[[str], None]) -> None:
        self._settings, self._venues, self._show = settings, venues, show
        self._due_s = 0.0
        self._share = 1.0  # the first look loads the compiled kernels, which says nothing of the next

    def update(self, intake: Intake, *, now: bool = False) -> None:
        """Replay and show, unless that would take more than its share of the time."""
        started_s = time.perf_counter()
        if not len(intake.buffer) or (started_s < self._due_s and not now):
            return
        self._show(self._totals(intake.buffer.events()))
        spent_s = time.perf_counter() - started_s
        self._due_s = started_s + max(0.5, spent_s / self._share)
        self._share = LIVE_SHARE

    def _totals(self, events: Events) -> str:
        at = utils.utc_text(events.ts_ns[-1])[11:19]
        try:
            market = _market(self._settings, events, self._venues)
            order = _order(self._settings, market, still_coming=True)
        except ReplayError:
            return f"{at}, order not started"
        triples = self._settings.param_grid
        triple = triples[evaluation.default_triple(triples)]
        taken = policies.run(self._settings.policy, market, order, (triple,), sweep=False, record=False)
        return (
            f"{at}, {self._settings.policy} {taken.filled_sz[0]}/{order.size} shares, {taken.passive_sz[0]} passively, "
            f"{taken.total_e6[0] / 1e6:,.2f} USD"
        )


def _show_batches(rows: RowBlock) -> None:
    """Print the quotes of every timestamp, one line each."""
    quotes = rows.select(rows.action != ord("T"))
    starts = np.flatnonzero(np.diff(quotes.ts_ns, prepend=-1))
    for begin, end in zip(starts, [*starts[1:], len(quotes)], strict=True):
        shown = "  ".join(
            f"{quotes.publisher_id[i]:g}: {quotes.bid_px[i]:g} x {quotes.bid_sz[i]:g} / {quotes.ask_px[i]:g} x {quotes.ask_sz[i]:g}"
            for i in range(begin, end)
        )
        print(f"{utils.utc_text(quotes.ts_ns[begin])}  {shown}")


def _market(settings: config.Settings, events: Events, venues: VenueTable) -> Market:
    market = markets.build(events, venues, round(settings.max_quote_age_s * 1e9))
    return days.delayed(market, config.latencies_ms(settings.latency_ms))


def _order(settings: config.Settings, market: Market, *, still_coming: bool = False) -> Order:
    window = markets.order_window(
        market, settings.start_time, settings.end_time, settings.time_zone, still_coming=still_coming
    )
    order = _order_in(settings, window)
    return replace(order, slice_ns=min(order.slice_ns, window.end_ns - window.start_ns))


def _order_in(settings: config.Settings, window: Window) -> Order:
    return Order(
        size=settings.order_size,
        window=window,
        slice_ns=round(settings.slice_s * 1e9),
        volume=settings.volume,
        penalty_px=None if settings.deadline_penalty == "spread" else float(settings.deadline_penalty),
        rule=RESET if settings.fill_rule == "reset" else SHADOW,
        optimistic_cancels=settings.optimistic_cancels,
        cancel_on_fill=settings.cancel_on_fill == "on",
        catch_up=settings.catch_up,
        scenarios=settings.scenarios,
        scenario_step_ns=round(settings.scenario_step_s * 1e9),
        adverse_weight=settings.adverse_weight,
    )


def _evaluation(settings: config.Settings, market: Market, order: Order, day: str) -> dict[str, object] | None:
    """The walk-forward evaluation of the day, unless it is switched off."""
    if settings.evaluate == "off":
        return None
    protocol = _protocol(settings)
    with log.progress(evaluation.steps(market, order, protocol), "replay", "evaluating") as bar:
        result = evaluation.replay_day(
            market, order, settings.policy, settings.param_grid, protocol, day=day, tick=bar.update
        )
    return evaluation.section([result], settings.policy, settings.param_grid, protocol)


def _protocol(settings: config.Settings) -> evaluation.Protocol:
    return evaluation.Protocol(
        window_s=settings.evaluation_window_s,
        stride_s=settings.evaluation_stride_s,
        skip_s=settings.evaluation_skip_s,
        resamples=settings.resamples,
        seed=settings.seed,
    )


def report(
    settings: config.Settings, venues: VenueTable, source: Source, may_write: Callable[[], None] = lambda: None
) -> None:
    """Replay the order, write every result file unless `may_write` raises, print the trial's sections and the table."""
    timer = utils.Timer()
    output, result, market = results(settings, venues, source)
    output["run"] = {**source.run, "replay_s": round(timer.seconds, 3), "versions": _versions()}
    _write(settings, source, output, result, market, may_write)
    print(utils.json_text({name: output[name] for name in experiment.SEED_SECTIONS}), end="")
    log.say(summary.table(output))
    for warning in summary.warnings(output):
        log.warn(warning)


def results(settings: config.Settings, venues: VenueTable, source: Source) -> tuple[dict, Experiment, Market]:
    """output.json but for `run`, and what the pictures are drawn of."""
    events = source.intake.take_events()
    data = _data_section(source, events, venues)
    try:
        with log.stage("market"):
            market = _market(settings, events, venues)
        del events  # the market is made of them: from here on they would only take memory
        with log.stage("replay"):
            result = experiment.run(market, _order(settings, market), settings.policy, settings.param_grid)
        with log.stage("evaluation"):
            evaluated = _evaluation(settings, market, result.order, utils.utc_text(result.order.window.start_ns)[:10])
    except ReplayError as error:
        raise ReplayError(f"{error}{source.intake.checker.rejects.hint()}") from None
    output = {
        **experiment.seed_sections(result, market),
        "evaluation": evaluated,
        "clairvoyant": experiment.floor_section(result),
        "order": _order_section(result),
        "grid": experiment.grid_section(result),
        "book": experiment.book_section(market),
        "data": {
            **data,
            "rows_after_the_day": markets.rows_after_the_day(market, result.order.window, settings.time_zone),
        },
        "settings": _result_settings(settings),
    }
    return output, result, market


@log.stage("write")
def _write(
    settings: config.Settings,
    source: Source,
    output: dict,
    result: Experiment,
    market: Market,
    may_write: Callable[[], None],
) -> None:
    """Every result file: all are written beside the old ones, then, if `may_write` does not raise, moved; output.json last."""
    folder = Path(settings.out_path)
    picture = plot.Source(
        file=source.file.name,
        symbol=source.intake.symbol or "",
        simulated=output["data"]["simulated"],
        time_zone=settings.time_zone,
    )
    overview = plot.results_figure(result, market, picture, output["evaluation"])
    savings = plot.savings_figure(result, market, picture, output["evaluation"])
    texts = {folder / "output.json": utils.json_text(output)}
    texts[folder / "grid_results.json"] = utils.json_text(experiment.grid_rows(result))
    if settings.explain:
        lives = explain.lines(result.taken[result.policy], market, result.order)
        texts[Path(settings.explain)] = "".join(f"{json.dumps(life, allow_nan=False)}\n" for life in lives)
    with ExitStack() as files:  # which are moved in the opposite order
        for path, text in texts.items():
            files.enter_context(utils.atomic(path)).write_text(text, encoding="utf-8")
        for figure, name in ((overview, "results.png"), (overview, "results.pdf"), (savings, "savings_plot.png")):
            with open(files.enter_context(utils.atomic(folder / name)), "wb") as file:
                plot.save(figure, file, name.rpartition(".")[2])
        may_write()
        cli.checkpoint()


def _order_section(result: Experiment) -> dict[str, object]:
    return {
        "size": result.order.size,
        "start": utils.utc_text(result.order.window.start_ns),
        "end": utils.utc_text(result.order.window.end_ns),
        "arrival_mid_px": result.arrival_mid_px,
    }


def _data_section(source: Source, events: Events, venues: VenueTable) -> dict[str, object]:
    intake = source.intake
    return {
        "file": source.file.name,
        "sha256": source.file.sha256,
        "symbol": intake.symbol,
        "simulated": intake.symbol == SIMULATED_SYMBOL,
        "rows": len(events),
        "trades": int((events.action == TRADE).sum()),
        "rows_of_other_symbols": intake.other_symbol_rows,
        "rows_out_of_order": intake.checker.disordered,
        "rejects": source.rejects,
        "span": [utils.utc_text(events.ts_ns.min()), utils.utc_text(events.ts_ns.max())],
        "venues": [_venue_section(venues, publisher_id) for publisher_id in events.publisher_ids],
        "venue_table_sha256": venues.sha256,
    }


def _venue_section(venues: VenueTable, publisher_id: int) -> dict[str, object]:
    venue = venues.row(publisher_id)
    return {
        "publisher_id": publisher_id,
        "name": venue.name,
        "routable": venue.routable,
        "taker_fee": venue.taker_fee_e6 / 1e6,
        "maker_rebate": venue.maker_rebate_e6 / 1e6,
        "fees_confirmed": venue.confirmed,
    }


def _result_settings(settings: config.Settings) -> dict[str, object]:
    """The settings that the results depend on; those of transport and presentation are left out."""
    return {name: getattr(settings, name) for name in config.RESULT_SETTINGS}


def _versions() -> dict[str, str]:
    packages = ("numpy", "numba", "pandas", "matplotlib", "kafka-python")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


# --- many days ----------------------------------------------------------------------------------------------------------


def many_days(settings: config.Settings, venues: VenueTable) -> int:
    """Evaluate every file that --days finds, pool them, write output.json and print the table."""
    timer = utils.Timer()
    output, found = pooled_results(settings, venues)
    output["run"] = {
        "transport": "files",
        "dask": settings.dask or None,
        "wall_s": round(timer.seconds, 3),
        "task_cpu_s": days.cpu_s(found),
        "versions": _versions(),
    }
    utils.write_atomic(Path(settings.out_path) / "output.json", utils.json_text(output))
    print(days.table(output))
    for warning in days.warnings(found):
        log.warn(warning)
    return 0


def pooled_results(settings: config.Settings, venues: VenueTable) -> tuple[dict, list[days.Day]]:
    """output.json of --days but for `run`, and what became of every file."""
    files = days.find(settings.days)
    plan = _plan(settings, venues)
    with log.progress(len(files), "file", "evaluating") as bar:

        def finished(day: days.Day) -> None:
            bar.update()
            if day.why_not:
                log.warn(f"set aside: {day.why_not}")

        found = days.run(files, plan, settings.dask, finished)
    publisher_ids = sorted({each for day in found for each in day.publisher_ids})
    output = {
        "evaluation": days.section(found, plan),
        "data": {
            **days.data_section(found),
            "simulated": any(day.about["symbol"] == SIMULATED_SYMBOL for day in found if day.result),
            "venues": [_venue_section(venues, each) for each in publisher_ids],
            "venue_table_sha256": venues.sha256,
        },
        "settings": _result_settings(settings),
    }
    return output, found


def _plan(settings: config.Settings, venues: VenueTable) -> days.Plan:
    return days.Plan(
        venues=venues,
        max_disorder_ns=round(settings.max_disorder_s * 1e9),
        max_quote_age_ns=round(settings.max_quote_age_s * 1e9),
        strict=settings.strict,
        symbol=settings.symbol,
        latency_ms=config.latencies_ms(settings.latency_ms),
        start_time=settings.start_time,
        end_time=settings.end_time,
        time_zone=settings.time_zone,
        order=_order_in(settings, Window(0, DAY_NS)),  # each file's session takes its place
        policy=settings.policy,
        triples=settings.param_grid,
        protocol=_protocol(settings),
    )


# --- computing a report again --------------------------------------------------------------------------------------------


def verified(settings: config.Settings) -> int:
    """Compute a report again from what it records, and print what differs; 1 if anything does. Writes no file."""
    path = settings.verify
    recorded = verify.read(path)
    try:
        again = config.recorded(
            replace(settings, strict=False, rejects="", explain="", show=False), recorded["settings"]
        )
    except ValueError as error:
        raise VerificationError(f"{path}: {error}") from None
    venues = _venue_table(again)
    verify.check_venues(recorded, settings.venues_path or str(SHIPPED_VENUES), venues.sha256)
    computed, of = (_days_again if "files" in recorded["data"] else _day_again)(again, venues, recorded)
    if others := verify.other_versions(recorded, _versions()):
        log.say(f"made with other versions: {', '.join(others)}")
    computed = json.loads(utils.json_text(computed))
    found = verify.differences(recorded, computed)
    print(verify.verdict(found) if found else f"equal: {path} is what {of} gives, {verify.count(computed)} values")
    return 1 if found else 0


def _day_again(settings: config.Settings, venues: VenueTable, recorded: dict) -> tuple[dict, str]:
    path = verify.market_data(recorded, settings.verify, settings.offline_csv)
    source = _from_csv(replace(settings, offline_csv=path))
    # the bytes are the same, whatever it is called now
    source.file = replace(source.file, name=recorded["data"]["file"])
    return results(settings, venues, source)[0], path


def _days_again(settings: config.Settings, venues: VenueTable, recorded: dict) -> tuple[dict, str]:
    if not settings.days:
        raise VerificationError(f"{settings.verify}: is of many files; give the pattern that finds them with --days")
    verify.check_files(recorded, settings.verify, days.find(settings.days))
    return pooled_results(settings, venues)[0], settings.days


if __name__ == "__main__":
    sys.exit(main())
