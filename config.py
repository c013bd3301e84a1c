"""Every setting of `kafka_producer.py` and `backtest.py`: unit, default, check, environment name and flag, on one screen.

The names in capitals are the defaults, to be edited here. `settings(program, argv)` takes the environment over them and
the flags over the environment, checks each value once, and stops the program (exit code 2) naming the setting, the value
and what it must be.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

KAFKA_TOPIC = "mock_l1_stream"
KAFKA_BOOTSTRAP_SERVERS = "localhost:9092"
CSV_PATH = "l1_day.csv"
ORDER_SIZE = 5000  # shares
START_TIME = "09:30"  # of the order, on the exchange's clock; the order runs on the part of this window the data cover
END_TIME = "16:00"
PARAM_GRID = {  # USD per share
    "lambda_over": (0.01, 0.03, 0.05),
    "lambda_under": (0.02, 0.05, 0.10),
    "theta_queue": (0.0, 0.0005, 0.001),
}
SPEED = 400.0  # times real time: a 6.5-hour day in about a minute

BOTH = ("kafka_producer", "backtest")
PRODUCER, BACKTEST = BOTH[:1], BOTH[1:]
Check = tuple[Callable[[Any], bool], str]

WHOLE_ORDER: Check = (lambda value: 1 <= value <= 2_000_000_000, "a whole number from 1 to 2000000000")
NOT_EMPTY: Check = (lambda value: bool(value.strip()), "a text that is not empty")
ANY: Check = (lambda value: True, "a text")
ON_OFF: Check = (lambda value: True, "0 or 1")
SPEED_RANGE: Check = (lambda value: value == 0 or 0.001 <= value <= 1e9, "0 or a number from 0.001 to 1000000000")
SERVERS: Check = (
    lambda value: all(
        re.fullmatch(r"([^\s:,\[\]]+|\[[^\s\]]+\]):[0-9]{1,5}", server) and 0 < int(server.rpartition(":")[2]) < 65_536
        for server in value.split(",")
    ),
    "host:port, or several of them separated by commas",
)
TOPIC: Check = (
    lambda value: re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) is not None and value not in (".", ".."),
    "1 to 249 of the characters A-Z a-z 0-9 . _ -",
)
CLOCK: Check = (
    lambda value: re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?", value) is not None,
    "HH:MM, HH:MM:SS or HH:MM:SS.fraction, between 00:00 and 23:59:59",
)
PENALTIES: Check = (
    lambda values: 0 < len(values) <= 100 and all(0 <= value <= 1000 for value in values),
    "1 to 100 numbers of USD per share from 0 to 1000, separated by commas",
)
LATENCY: Check = (
    lambda value: (
        re.fullmatch(r"[0-9]+(\.[0-9]+)?(,[A-Za-z0-9._-]+=[0-9]+(\.[0-9]+)?)*", value) is not None
        and max(latencies_ms(value).values()) < 60_000
    ),
    "a number below 60000, then any VENUE=number separated by commas",
)
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
GROUP: Check = (lambda value: 0 < len(value) <= 200, "1 to 200 characters")
DASK: Check = (
    lambda value: re.fullmatch(r"|local|(tcp|tls)://([^\s:/\[\]]+|\[[^\s\]]+\]):[0-9]{1,5}", value) is not None,
    "local, or tcp://HOST:PORT of a Dask scheduler",
)
RUN_ID: Check = (lambda value: re.fullmatch(r"[A-Za-z0-9-]{0,64}", value) is not None, "up to 64 of A-Z a-z 0-9 -")


RESULT_SETTINGS = (  # what the results depend on: these, and nothing else, are repeated in output.json's `settings`
    "order_size", "start_time", "end_time", "time_zone", "policy", "lambda_over", "lambda_under", "theta_queue",
    "slice_s", "volume", "fill_rule", "deadline_penalty", "latency_ms", "scenarios", "scenario_step_s",
    "adverse_weight", "cancel_on_fill", "catch_up", "optimistic_cancels", "evaluate", "evaluation_window_s",
    "evaluation_stride_s", "evaluation_skip_s", "resamples", "seed", "max_quote_age_s", "max_disorder_s", "symbol",
)  # fmt: skip
MOST_SHOWN = 200  # characters of what a report holds, in a message
RESULT_FILES = ("output.json", "grid_results.json", "results.png", "results.pdf", "savings_plot.png")  # in out_path
SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def latencies_ms(text: str) -> dict[str, float]:
    """{venue: ms} of a `latency_ms`, every other venue under the empty name."""
    first, *others = text.split(",")
    return {"": float(first)} | {venue: float(ms) for venue, ms in (each.split("=") for each in others)}


def seconds(least: float, most: float) -> Check:
    """The value is from `least` to `most`."""
    return (lambda value: least <= value <= most, f"a number from {least:g} to {most:g}")


def one_of(*names: str) -> Check:
    """The value is one of `names`."""
    return (lambda value: value in names, f"one of {', '.join(names)}")


def setting(
    default: Any, unit: str, help: str, check: Check, programs: Sequence[str], *, flag: str = "", secret: bool = False
) -> Any:
    """One field of `Settings` with all that is known of it; a secret has no flag and is never shown."""
    metadata = {"unit": unit, "help": help, "check": check, "programs": programs, "flag": flag, "secret": secret}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def _penalties(name: str) -> Any:
    """The grid's values of one parameter, as they stand in PARAM_GRID; a list as a tuple."""
    values = PARAM_GRID.get(name, ())
    return tuple(values) if isinstance(values, list) else values


@dataclass(frozen=True)
class Settings:
    """Settings of a run; each field's unit, help, check and programs are in its metadata."""

    kafka_topic: str = setting(KAFKA_TOPIC, "", "topic the rows travel on", TOPIC, BOTH)
    kafka_bootstrap_servers: str = setting(
        KAFKA_BOOTSTRAP_SERVERS, "host:port", "Kafka broker, or several separated by commas", SERVERS, BOTH
    )
    kafka_security_protocol: str = setting("PLAINTEXT", "", "how the broker is spoken to", one_of(*PROTOCOLS), BOTH)
    kafka_sasl_mechanism: str = setting(
        "SCRAM-SHA-512", "", "how a SASL protocol proves who we are", one_of(*MECHANISMS), BOTH
    )
    kafka_sasl_username: str = setting("", "", "user of a SASL protocol", ANY, BOTH)
    kafka_sasl_password: str = setting("", "", "password of a SASL protocol", ANY, BOTH, secret=True)
    kafka_ssl_cafile: str = setting(
        "", "", "PEM file of the authority that signed the broker's certificate; empty: those of the system", ANY, BOTH
    )
    csv_path: str = setting(
        CSV_PATH, "", "market data to send, CSV, .csv.gz or .parquet", NOT_EMPTY, PRODUCER, flag="--csv"
    )
    speed: float = setting(SPEED, "times real time", "pace of sending; 0: as fast as possible", SPEED_RANGE, PRODUCER)
    max_gap_s: float = setting(
        1.0, "s", "longest wait between two rows", seconds(0, 86_400), PRODUCER, flag="--max-gap"
    )
    offline_csv: str = setting(
        "", "", "market data to read without Kafka, CSV, .csv.gz or .parquet", ANY, BACKTEST, flag="--csv"
    )
    order_size: int = setting(ORDER_SIZE, "shares", "size of the order to buy", WHOLE_ORDER, BACKTEST)
    start_time: str = setting(START_TIME, "clock", "when the order starts", CLOCK, BACKTEST)
    end_time: str = setting(END_TIME, "clock", "when it must be complete (deadline sweep)", CLOCK, BACKTEST)
    time_zone: str = setting("America/New_York", "", "the exchange's clock", NOT_EMPTY, BACKTEST)
    policy: str = setting(
        "router", "", "strategy that is reported as `optimized`",
        one_of("router", "equal", "limit_only", "allocate", "best_ask", "twap", "vwap"), BACKTEST,
    )  # fmt: skip
    lambda_over: tuple[float, ...] = setting(
        _penalties("lambda_over"), "USD/share", "grid: penalty for shares bought too many", PENALTIES, BACKTEST
    )
    lambda_under: tuple[float, ...] = setting(
        _penalties("lambda_under"), "USD/share", "grid: penalty for shares not bought", PENALTIES, BACKTEST
    )
    theta_queue: tuple[float, ...] = setting(
        _penalties("theta_queue"), "USD/share", "grid: penalty for queue risk", PENALTIES, BACKTEST
    )
    slice_s: float = setting(60.0, "s", "length of a slice of the order", seconds(1, 86_400), BACKTEST)
    volume: str = setting(
        "past", "", "VWAP profile: past (known at the time) or day (look-ahead)", one_of("past", "day"), BACKTEST
    )
    fill_rule: str = setting(
        "shadow",
        "",
        "shadow: displayed size is taken once; reset: fresh at every update",
        one_of("shadow", "reset"),
        BACKTEST,
    )
    deadline_penalty: str = setting(
        "spread", "USD/share", "added to the dearest ask for shares still missing at the end; spread: the spread then",
        (lambda value: value == "spread" or 0 <= _number(value) <= 1000, "spread, or a number from 0 to 1000"), BACKTEST,
    )  # fmt: skip
    latency_ms: str = setting(
        "0",
        "ms",
        "time an order takes to reach a venue: one number, then any VENUE=number: 1,XNYS=0.4",
        LATENCY,
        BACKTEST,
    )
    scenarios: int = setting(
        500, "intervals", "most recent past that the router bases a placement on",
        (lambda value: 50 <= value <= 20_000, "50 to 20000"), BACKTEST,
    )  # fmt: skip
    scenario_step_s: float = setting(5.0, "s", "a past interval begins every so often", seconds(0.1, 3600), BACKTEST)
    adverse_weight: float = setting(
        0.25, "part", "how far the mid's move during fills enters a venue's rebate", seconds(0, 10), BACKTEST
    )
    cancel_on_fill: str = setting(
        "on", "", "a slice that is complete cancels its other limit orders", one_of("on", "off"), BACKTEST
    )
    catch_up: str = setting(
        "slice", "", "what a slice missed: swept when it ends (slice), or placed with the next (carry)",
        one_of("slice", "carry"), BACKTEST,
    )  # fmt: skip
    optimistic_cancels: bool = setting(
        False, "", "cancelled shares come off the queue ahead of a limit order in proportion", ON_OFF, BACKTEST
    )
    evaluate: str = setting(
        "on", "", "many orders over the day, walk-forward, beside the one", one_of("on", "off"), BACKTEST
    )
    evaluation_window_s: float = setting(
        600.0, "s", "length of an order of the evaluation", seconds(1, 86_400), BACKTEST
    )
    evaluation_stride_s: float = setting(
        600.0, "s", "such an order begins every so often", seconds(1, 86_400), BACKTEST
    )
    evaluation_skip_s: float = setting(300.0, "s", "left out at both ends of the day", seconds(0, 86_400), BACKTEST)
    resamples: int = setting(
        2000, "draws", "of the block bootstrap", (lambda value: 100 <= value <= 100_000, "100 to 100000"), BACKTEST
    )
    seed: int = setting(
        1, "number", "seed of the block bootstrap", (lambda value: 0 <= value < 2**32, "0 to 4294967295"), BACKTEST
    )
    max_quote_age_s: float = setting(
        0.0, "s", "a venue's quote expires after this; 0: never", seconds(0, 1e6), BACKTEST
    )
    max_disorder_s: float = setting(
        1.0, "s", "how far back ts_event may go", seconds(0, 1e6), BOTH, flag="--max-disorder"
    )
    symbol: str = setting("", "", "symbol to trade, where the data hold several", ANY, BACKTEST)
    venues_path: str = setting(
        "", "", "venue table; empty: the one shipped, sor/venues.toml", ANY, BACKTEST, flag="--venues"
    )
    kafka_group: str = setting("backtest", "", "consumer group that remembers which runs it reported", GROUP, BACKTEST)
    timeout_s: float = setting(
        120.0, "s", "longest wait for a run, or for its next message", seconds(0.1, 1e6), BACKTEST, flag="--timeout"
    )
    run_id: str = setting(
        "", "", "id of the run to send (never used before), or to report; empty: a new one, the next one", RUN_ID, BOTH
    )
    replay: bool = setting(False, "", "take the newest complete run again", ON_OFF, BACKTEST)
    allow_partial: bool = setting(False, "", "report a run that is not whole, too", ON_OFF, BACKTEST)
    out_path: str = setting(".", "", "folder the results are written to", NOT_EMPTY, BACKTEST, flag="--out")
    strict: bool = setting(False, "", "stop at the first bad row", ON_OFF, BOTH)
    rejects: str = setting("", "", "CSV file that keeps the rows set aside", ANY, BOTH)
    explain: str = setting("", "", "file that gets the life of every child order of `optimized`", ANY, BACKTEST)
    show: bool = setting(False, "", "print what is sent or read: first rows, or each batch of quotes", ON_OFF, BOTH)
    days: str = setting(
        "", "", "evaluate every file this pattern (in quotes) finds, and pool them: 'days/*.csv.gz'", ANY, BACKTEST
    )
    dask: str = setting(
        "", "", "where --days runs: local (a process per core) or a scheduler's tcp://HOST:PORT; empty: here", DASK,
        BACKTEST,
    )  # fmt: skip
    verify: str = setting("", "", "compute this output.json again and say what differs", ANY, BACKTEST)
    doctor: bool = setting(False, "", "check this machine, the broker and the topic; say what to do", ON_OFF, BACKTEST)
    log_level: str = setting(
        "info", "", "least serious line shown on stderr", one_of("debug", "info", "warning", "error"), BOTH
    )
    log_json: bool = setting(False, "", "lines on stderr as JSON objects", ON_OFF, BOTH)

    @property
    def param_grid(self) -> tuple[tuple[float, float, float], ...]:
        """Every (lambda_over, lambda_under, theta_queue), the last varying fastest."""
        return tuple((o, u, q) for o in self.lambda_over for u in self.lambda_under for q in self.theta_queue)


def settings(
    program: str, argv: Sequence[str] | None, description: str, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Settings of `program` from defaults, environment and flags.

    Raises
    ------
    SystemExit
        Code 2 after one line that names the setting, the value and what it must be; code 0 after `--help`.
    """
    fields = [field for field in dataclasses.fields(Settings) if program in field.metadata["programs"]]
    parser = _Parser(
        prog=f"{program}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for field in fields:
        _add_flag(parser, field)
    given = vars(parser.parse_args(argv))
    values = {field.name: _value(parser, field, given.get(field.name), environ) for field in fields}
    if values.get("verify"):
        _only_of_the_report(parser, {name for name in given if given[name] is not None})
    return _consistent(parser, Settings(**values))


def recorded(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` with RESULT_SETTINGS as output.json has them; ValueError naming the first that cannot be."""
    lacking, unknown = sorted(set(RESULT_SETTINGS) - set(values)), sorted(set(values) - set(RESULT_SETTINGS))
    if lacking or unknown:
        wrong = " and ".join(
            f"{what} {names}"[:MOST_SHOWN] for what, names in (("lacks", lacking), ("has", unknown)) if names
        )
        raise ValueError(f"settings {wrong}; it must hold those of this version's config.RESULT_SETTINGS")
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    found = {name: _checked(fields[name], values[name], "settings", MOST_SHOWN) for name in RESULT_SETTINGS}
    return _consistent(_Refusal(), dataclasses.replace(settings, **found))


class _Refusal:
    """Stands in for the parser where no program is to be ended."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _only_of_the_report(parser: argparse.ArgumentParser, given: set[str]) -> None:
    contradicts = (
        *RESULT_SETTINGS,
        "replay",
        "run_id",
        "allow_partial",
        "strict",
        "rejects",
        "explain",
        "show",
        "doctor",
    )
    flags = [flag_name(field) for field in dataclasses.fields(Settings) if field.name in given & set(contradicts)]
    if flags:
        parser.error(f"{', '.join(flags)} must not be given with --verify, which takes every setting from the report")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in message)
        self.exit(2, f"{self.prog}: error: {line} (see --help)\n")


def env_name(field: dataclasses.Field) -> str:
    """Name of the environment variable of a setting: SOR_ and its name, Kafka's own without the SOR_."""
    name = field.name.upper()
    return name if name.startswith("KAFKA_") else f"SOR_{name}"


def flag_name(field: dataclasses.Field) -> str:
    """The setting's flag: its name with dashes, unit suffixes left on."""
    return field.metadata["flag"] or "--" + field.name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    is_switch = isinstance(field.default, bool)
    unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
    default = "" if is_switch or field.default == "" else f" (default {_shown(field.default)})"
    help_text = f"{field.metadata['help']}{unit}{default}; env {env_name(field)}".replace("%", "%%")
    if field.metadata["secret"]:  # a command line can be read by every user of the machine
        parser.epilog = f"without a flag: {help_text}"
        return
    options: dict[str, Any] = {"action": "store_const", "const": "1"} if is_switch else {"metavar": "VALUE"}
    parser.add_argument(flag_name(field), dest=field.name, default=None, help=help_text, **options)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(
    parser: argparse.ArgumentParser, field: dataclasses.Field, flag: str | None, environ: Mapping[str, str]
) -> Any:
    """The setting's value from its flag, the environment or its default, in that order; checked."""
    given, source = (
        (flag, flag_name(field)) if flag is not None else (environ.get(env_name(field)) or None, env_name(field))
    )
    given, source = (field.default, "config.py") if given is None else (given, source)
    try:
        return _checked(field, given, source)
    except ValueError as error:
        parser.error(str(error))


def _checked(field: dataclasses.Field, given: Any, source: str, most: int | None = None) -> Any:
    """`given` as a value of the setting; ValueError, with at most so many characters of it, if it cannot be one."""
    accepts, must_be = field.metadata["check"]
    try:
        value = _CONVERSIONS[field.type](given)
        fits = accepts(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        fits = False
    if not fits:
        shown = "not shown here" if field.metadata["secret"] else repr(given)[:most]
        raise ValueError(f"{field.name} ({source}) is {shown}; it must be {must_be}")
    return value


def _text(given: Any) -> str:
    if not isinstance(given, str) or "\0" in given:
        raise TypeError(given)
    return given


def _number(given: Any) -> float:
    if isinstance(given, bool) or (isinstance(given, str) and not given.isascii()):  # float takes other digits, too
        raise TypeError(given)
    return float(given)


def _whole_number(given: Any) -> int:
    value = int(given) if isinstance(given, str) and given.isascii() else _number(given)
    if value != int(value):
        raise ValueError(given)
    return int(value)


def _switch(given: Any) -> bool:
    return SWITCH[given.lower()] if isinstance(given, str) else {True: True, False: False}[given]


def _numbers(given: Any) -> tuple[float, ...]:
    return tuple(map(_number, given.split(",") if isinstance(given, str) else given))


_CONVERSIONS = {  # a field's type, as it is written there: how a text or an edited default becomes a value of it
    "str": _text,
    "int": _whole_number,
    "float": _number,
    "bool": _switch,
    "tuple[float, ...]": _numbers,
}


def _consistent(parser: argparse.ArgumentParser, settings: Settings) -> Settings:
    if _clock_s(settings.start_time) >= _clock_s(settings.end_time):
        parser.error(
            f"start_time is {settings.start_time!r}, end_time {settings.end_time!r}; the start must be before the end"
        )
    if settings.replay and settings.run_id:
        parser.error("--replay and --run-id choose different runs; give one of them")
    if settings.offline_csv and (settings.replay or settings.run_id or settings.allow_partial):
        parser.error("--replay, --run-id and --allow-partial choose among runs on the topic; with --csv there is none")
    if max(latencies_ms(settings.latency_ms).values()) >= 1e3 * settings.slice_s:
        parser.error(
            f"latency_ms is {settings.latency_ms!r}, slice_s {settings.slice_s:g}; a slice must be longer than the latency"
        )
    if settings.evaluate == "on" and settings.slice_s > settings.evaluation_window_s:
        parser.error(
            f"slice_s is {settings.slice_s:g}, evaluation_window_s {settings.evaluation_window_s:g}; an order of the evaluation "
            "must be as long as a slice (or --evaluate off)"
        )
    results = [os.path.join(settings.out_path, name) for name in RESULT_FILES]
    inputs = [settings.csv_path, settings.offline_csv, settings.venues_path, settings.kafka_ssl_cafile]
    for name, other in (("rejects", "explain"), ("explain", "rejects")):
        path = getattr(settings, name)
        if path and any(map(_same_file(path), (*inputs, *results, getattr(settings, other)))):
            parser.error(f"{name} is {path!r}; it must be a file of its own, neither read nor written otherwise")
    _consistent_days(parser, settings)
    _consistent_security(parser, settings)
    return settings


def _consistent_security(parser: argparse.ArgumentParser, settings: Settings) -> None:
    protocol = settings.kafka_security_protocol
    for name in ("kafka_sasl_username", "kafka_sasl_password"):
        given, wanted = bool(getattr(settings, name)), protocol.startswith("SASL_")
        if given != wanted:
            has, must = ("set", "empty, or the protocol a SASL_ one") if given else ("empty", "set")
            parser.error(f"kafka_security_protocol is {protocol}, {name} ({name.upper()}) {has}; it must be {must}")
    if settings.kafka_ssl_cafile and not protocol.endswith("SSL"):
        parser.error(f"kafka_security_protocol is {protocol}; with kafka_ssl_cafile it must be SSL or SASL_SSL")


def _consistent_days(parser: argparse.ArgumentParser, settings: Settings) -> None:
    if settings.dask and not settings.days:
        parser.error(f"dask is {settings.dask!r}; it says where --days runs, which is not given")
    one_run = ("offline_csv", "replay", "run_id", "allow_partial", "rejects", "explain", "show")
    given = [field for field in dataclasses.fields(settings) if field.name in one_run and getattr(settings, field.name)]
    if settings.days and given:
        parser.error(
            f"{', '.join(map(flag_name, given))} must not be given with --days, which takes many files as they are"
        )
    if settings.days and settings.evaluate == "off":
        parser.error("evaluate is 'off'; with --days it must be on: the evaluation is all there is")


def _same_file(path: str) -> Callable[[str], bool]:
    return lambda other: bool(other) and os.path.realpath(other) == os.path.realpath(path)


def _clock_s(clock: str) -> float:
    return sum(float(part) * unit_s for part, unit_s in zip(clock.split(":"), (3600, 60, 1), strict=False))
