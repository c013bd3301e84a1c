"""Rebuild the book of every venue from the stream, buy one order with every strategy, write output.json and results.png.

    python backtest.py                        the next run on the topic that is not reported yet; waits for one
    python backtest.py --replay               the newest complete run again
    python backtest.py --csv l1_day.csv       without Kafka: the same output.json but for its `run` section
    python backtest.py --days 'days/*.csv.gz' --dask local    many files, evaluated in parallel and pooled (sor/days.py)

stdout gets the four sections the trial asks for as JSON (of --days the table); progress, the table and errors go to stderr.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C while the modules load ends the program without a traceback
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import config
import utils
from sor import cli, contract, days, evaluation, experiment, explain, feed, plot, policies, stream
from sor import market as markets
from sor.audit import RunAudit
from sor.errors import FeedError, ReplayError, RunNotWholeError, UsageError
from sor.events import TRADE, Checker, Events, Intake, RowBlock
from sor.experiment import Experiment
from sor.feed import FileIdentity
from sor.market import Market
from sor.orders import RESET, SHADOW, Order, Window
from sor.synthetic import SYMBOL as SIMULATED_SYMBOL
from sor.venues import VenueTable, parse_venues

SHIPPED_VENUES = Path(__file__).parent / "sor" / "venues.toml"
MANY_REJECTS = 0.1  # of the rows: worth a warning
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
    return cli.run(lambda: backtest(settings))


def backtest(settings: config.Settings) -> int:
    """Read, replay, write; with Kafka the run counts as reported only after everything is written."""
    venues = _venue_table(settings)
    _make_folder(settings.out_path)
    if settings.days:
        return many_days(settings, venues)
    if settings.offline_csv:
        report(settings, venues, _from_csv(settings))
        return 0
    topic = stream.topic_of(settings)
    stream.ensure_topic(topic)
    with stream.Reader(topic, settings.kafka_group) as reader:
        start = _choose_run(settings, reader)
        try:
            report(settings, venues, _from_kafka(settings, venues, reader, RunAudit(start)))
        except RunNotWholeError as verdict:
            cli.say(f"error: {verdict}")
            reader.commit_reported(start.run_id)
            return verdict.exit_code
        reader.commit_reported(start.run_id)
        if waiting := reader.waiting_runs():
            cli.say(f"{waiting} more run(s) wait on the topic: start backtest.py again for the next")
    return 0


def _venue_table(settings: config.Settings) -> VenueTable:
    path = Path(settings.venues_path or SHIPPED_VENUES)
    try:
        table = parse_venues(path.read_text(encoding="utf-8"))
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


def _intake(settings: config.Settings, place: str) -> Intake:
    checker = Checker(round(settings.max_disorder_s * 1e9), settings.strict)
    checker.rejects.place = place
    return Intake(checker, settings.symbol or None)


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
    cli.say(f"waiting for a run on {settings.kafka_topic} (up to {settings.timeout_s:g} s)")
    if settings.run_id:
        return reader.run(settings.run_id, settings.timeout_s)
    return reader.next_unreported(settings.timeout_s)


def _from_kafka(settings: config.Settings, venues: VenueTable, reader: stream.Reader, audit: RunAudit) -> Source:
    """All rows of one run; RunNotWholeError if it is not whole and partial runs are not allowed."""
    start = audit.start
    cli.say(f"reading run {start.run_id}: {start.file}, {start.rows} rows, symbols {', '.join(start.symbols)}")
    if settings.rejects:
        cli.say(
            f"{settings.rejects} is not written: of a run, the producer set the rows aside (its --rejects keeps them)"
        )
    intake = _intake(settings, "row")
    with utils.progress(start.rows, "row", "reading") as bar, utils.rare_collections():
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
    with utils.progress(evaluation.steps(market, order, protocol), "replay", "evaluating") as bar:
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


def report(settings: config.Settings, venues: VenueTable, source: Source) -> None:
    """Replay the order, write every result file, print the trial's sections and the table."""
    timer = utils.Timer()
    events = source.intake.buffer.events()
    try:
        market = _market(settings, events, venues)
        result = experiment.run(market, _order(settings, market), settings.policy, settings.param_grid)
        evaluated = _evaluation(settings, market, result.order, utils.utc_text(result.order.window.start_ns)[:10])
    except ReplayError as error:
        raise ReplayError(f"{error}{source.intake.checker.rejects.hint()}") from None
    sections = experiment.seed_sections(result, market)
    output = {
        **sections,
        "evaluation": evaluated,
        "clairvoyant": experiment.floor_section(result),
        "order": _order_section(result),
        "grid": experiment.grid_section(result),
        "book": experiment.book_section(market),
        "data": {
            **_data_section(source, events, venues),
            "rows_after_the_day": markets.rows_after_the_day(market, result.order.window, settings.time_zone),
        },
        "settings": _result_settings(settings),
        "run": {**source.run, "replay_s": round(timer.seconds, 3), "versions": _versions()},
    }
    _write(settings, source, output, result, market)
    print(utils.json_text(sections), end="")
    cli.say(_table(output))
    for warning in _warnings(output):
        cli.say(f"warning: {warning}")


def _write(settings: config.Settings, source: Source, output: dict, result: Experiment, market: Market) -> None:
    """Every result file, each whole or not at all, output.json last."""
    folder = Path(settings.out_path)
    picture = plot.Source(
        file=source.file.name,
        symbol=source.intake.symbol or "",
        simulated=output["data"]["simulated"],
        time_zone=settings.time_zone,
    )
    overview = plot.results_figure(result, market, picture, output["evaluation"])
    savings = plot.savings_figure(result, market, picture, output["evaluation"])
    for figure, name in ((overview, "results.png"), (overview, "results.pdf"), (savings, "savings_plot.png")):
        with utils.atomic(folder / name) as temporary, open(temporary, "wb") as file:
            plot.save(figure, file, name.rpartition(".")[2])
    if settings.explain:
        lives = explain.lines(result.taken[result.policy], market, result.order)
        utils.write_atomic(settings.explain, "".join(f"{json.dumps(life, allow_nan=False)}\n" for life in lives))
    utils.write_atomic(folder / "grid_results.json", utils.json_text(experiment.grid_rows(result)))
    utils.write_atomic(folder / "output.json", utils.json_text(output))


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


def _warnings(output: dict) -> list[str]:
    """What the reader of the numbers must know first."""
    warnings = []
    data = output["data"]
    rejected = sum(kind["count"] for kind in data["rejects"].values())
    if rejected:
        kinds = ", ".join(
            f"{name} {kind['count']} from line {kind['first_line']}" for name, kind in data["rejects"].items()
        )
        much = ": a large part of the data" if rejected > MANY_REJECTS * (rejected + data["rows"]) else ""
        warnings.append(f"{rejected} rows of the file were set aside ({kinds}){much}")
    if data["rows_after_the_day"]:
        warnings.append(f"{data['rows_after_the_day']} quotes of later days were not used: an order lives on one day")
    if not data["trades"] and output["optimized"]["slices_market_only"]:
        warnings.append("the feed holds no trades: limit orders are never filled, so only market orders were sent")
    priced = {name: taken["priced_beyond_book"] for name, taken in output["baselines"].items()}
    priced[output["optimized"]["policy"]] = output["optimized"]["priced_beyond_book"]
    if most := max(priced.values()):
        warnings.append(
            f"up to {most} shares were nowhere on the book and are priced by rule: the totals depend on that price"
        )
    return warnings


def _table(output: dict) -> str:
    """The result in a few lines for the terminal."""
    strategies = {output["optimized"]["policy"] + " (optimized)": output["optimized"], **output["baselines"]}
    lines = [f"{'strategy':<22}{'total cash, USD':>18}{'avg px':>12}{'shortfall, bps':>16}{'at deadline':>13}"]
    for name, taken in strategies.items():
        lines.append(
            f"{name:<22}{taken['total_cash']:>18,.2f}{taken['avg_fill_px']:>12.4f}{taken['shortfall_bps']:>16.2f}"
            f"{taken['completed_at_deadline']:>13}"
        )
    floor = output["clairvoyant"]
    lines.append(
        f"{'clairvoyant (floor)':<22}{floor['total_cash']:>18,.2f}{floor['avg_fill_px']:>12.4f}{floor['shortfall_bps']:>16.2f}"
    )
    savings = ", ".join(f"{name} {bps:+.2f}" for name, bps in output["savings_vs_baselines_bps"].items())
    simulated = "simulated data; " if output["data"]["simulated"] else ""
    lines.append(f"saved, bps: {savings} ({simulated}one order on one day: one draw)")
    lines.append(f"grid: {output['grid']['note']}")
    if output["evaluation"]:
        lines.append(_claim(output["evaluation"]))
    return "\n".join(lines)


def _claim(evaluated: dict) -> str:
    """The walk-forward savings in one line."""
    savings = evaluated["walk_forward"]["savings"]
    said = (
        f"{name} {_bps(saving['saved_bps'])}"
        + (" [{:+.2f}, {:+.2f}]".format(*saving["ci95"]) if saving["ci95"] else "")
        for name, saving in savings.items()
    )
    head = f"walk-forward, {evaluated['scored_windows']} orders of {evaluated['order_size']}"
    found = f"{head}: saved, bps [95 %]: {', '.join(said)}"
    return found if evaluated["note"] == evaluation.INTERVALS else f"{found}\n{head}: {evaluated['note']}"


def _bps(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


# --- many days ----------------------------------------------------------------------------------------------------------


def many_days(settings: config.Settings, venues: VenueTable) -> int:
    """Evaluate every file that --days finds, pool them, write output.json and print the table."""
    timer = utils.Timer()
    files = days.find(settings.days)
    plan = _plan(settings, venues)
    with utils.progress(len(files), "file", "evaluating") as bar:

        def finished(day: days.Day) -> None:
            bar.update()
            if day.why_not:
                bar.write(f"warning: set aside: {day.why_not}", file=sys.stderr)

        found = days.run(files, plan, settings.dask, finished)
    publisher_ids = sorted({each for day in found for each in day.publisher_ids})
    output = {
        "evaluation": days.section(found, plan),
        "data": {
            **days.data_section(found),
            "simulated": any(day.about["symbol"] == SIMULATED_SYMBOL for day in found if day.result),
            "venues": [_venue_section(venues, each) for each in publisher_ids],
        },
        "settings": _result_settings(settings),
        "run": {
            "transport": "files",
            "dask": settings.dask or None,
            "wall_s": round(timer.seconds, 3),
            "task_cpu_s": days.cpu_s(found),
            "versions": _versions(),
        },
    }
    utils.write_atomic(Path(settings.out_path) / "output.json", utils.json_text(output))
    print(days.table(output))
    for warning in days.warnings(found):
        cli.say(f"warning: {warning}")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
