"""Bad input at scale: what is put in must be set aside, all of it and nothing else, and what is left must be as without it.

python -m benchmarks.fuzz [--rows 1000000] [--messages 10000] [--seed 1]

Rows: l1_day.csv, repeated on later days, and after each of its rows one that is damaged, in turn in every way that a file's
rows are checked for. Messages: l1_day.csv as a run on a real broker, with hostile messages between its rows: foreign ones,
and rows of the run that hold nonsense; `backtest.py` reports it, and the file, to the same output.json but for `run`.
Prints one line for each kind; 1 if a count or a result differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kafka import KafkaAdminClient, KafkaProducer

from benchmarks.bench_feed import _own_peak_mb as own_peak_mb
from benchmarks.table import Row, show
from broker.local import LocalBroker
from broker.processes import Interrupted, catch_signals
from sor import contract, feed, stream
from sor.audit import RunAudit
from sor.contract import END, SCHEMA_VERSION, START, EndRecord, StartRecord
from sor.events import EVENT_DTYPES, LOOK_AHEAD, Checker, Events, Intake

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "l1_day.csv"
SYMBOL = "SIM"
SECOND_NS = 10**9
MB = 1 << 20
LARGEST_MESSAGE = 8 * MB
HUGE_MESSAGES = 20  # of 2 MB each, however many messages there are


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if one of its rows is not ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="damaged rows (default 1000000)")
    parser.add_argument("--messages", type=int, default=10_000, help="hostile messages (default 10000)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if min(given.rows, given.messages) < 0:
        parser.error("rows and messages must not be below 0")
    catch_signals()
    try:
        return show(rows(given.rows, given.messages, given.seed))
    except Interrupted as interrupted:
        return interrupted.exit_code


def rows(damaged: int, hostile: int, seed: int, run_rows: int | None = None) -> list[Row]:
    """One row for each kind of damage, and for what is left; `run_rows` shortens the run that the messages are put into."""
    with tempfile.TemporaryDirectory() as folder:
        table = file_rows(Path(folder), damaged, random.Random(seed))
    with tempfile.TemporaryDirectory() as folder, LocalBroker(Path(folder) / "broker", port=0) as broker:
        return table + message_rows(Path(folder), broker.bootstrap, hostile, random.Random(seed), run_rows)


# --- rows of a file -----------------------------------------------------------------------------------------------------

Change = dict[str, bytes]  # column: what stands there instead
_QUOTE: Change = {
    **{"action": b"A", "side": b"N", "price": b"157.980000000", "size": b"300", "symbol": SYMBOL.encode()},
    **{"bid_px_00": b"157.980000000", "ask_px_00": b"158.030000000", "bid_sz_00": b"300", "ask_sz_00": b"100"},
}
_NUMBERS = ("price", "size", "bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00", "sequence")
_NO_NUMBERS = (
    b"ten",
    b"1O0",
    b"NaN",
    b"NULL",
    b"None",
    b"0x10",
    b"1;0",
    b"1_0",
    b" ",
    b"--5",
    b"1\0",
    b'"1',
    b"\xff",
    b"True",
)
_NO_TIMES = (
    *(
        b"",
        b"yesterday",
        b"nan",
        b"NaT",
        b"-5",
        b"1.7e18",
        b"2024-13-01T00:00:00.000000000Z",
        b"\0",
        b"18446744073709551615",
    ),
    *(
        b"2024-08-05T25:00:00.000000000Z",
        b"9999-12-31T23:59:59.999999999Z",
        b"2024-08-05T14:00:00.00000000xZ",
        b"9" * 400,
    ),
)


def _each(columns: Iterable[str], values: Iterable[bytes]) -> list[Change]:
    values = tuple(values)
    return [{column: value} for column in columns for value in values]


DAMAGE: dict[str, list[Change]] = {  # kind: what makes a good quote a row of that kind
    "blank_line": [],  # the whole line goes
    "unreadable_time": _each(["ts_event"], _NO_TIMES),
    "unreadable_number": [*_each(("publisher_id", *_NUMBERS), _NO_NUMBERS), {"publisher_id": b""}],
    "unknown_action": _each(["action"], (b"", b"X", b"a", b"AA", b"\xff", b"7", b"\0")),
    "no_symbol": _each(["symbol"], (b"", b"S" * 32, b"S" * 70_000, b"SIM\x07", b"\x1b[31m")),
    "negative_or_infinite": _each(("publisher_id", *_NUMBERS), (b"-5", b"-inf", b"inf", b"-1e30", b"-" + b"9" * 30)),
    "out_of_range": [
        *_each(("publisher_id", *_NUMBERS), (b"9" * 30, b"1e300", b"18446744073709551615")),
        *({"publisher_id": b"65536"}, {"ask_px_00": b"214748.3648"}, {"size": b"2147483648"}, {"sequence": b"1e16"}),
    ],
    "finer_than_tick": [
        *_each(("bid_px_00", "ask_px_00"), (b"157.98005", b"157.980001")),
        *_each(("size", "bid_sz_00", "ask_sz_00", "sequence"), (b"1.5", b"0.1", b"300.0000001")),
        {"publisher_id": b"2.5"},
    ],
    "price_without_size": [
        *_each(("bid_sz_00", "ask_sz_00"), (b"0", b"", b"0.0")),
        *({"action": b"T", "size": b"0"}, {"action": b"T", "size": b""}, {"action": b"T", "price": b"0"}),
    ],
    "crossed": [{"bid_px_00": b"158.030100000"}, {"ask_px_00": b"0.0001"}, {"bid_px_00": b"214748.3647"}],
    "out_of_order": _each(
        ["ts_event"], (b"1999-01-04T15:00:00.000000000Z", b"2031-01-06T15:00:00Z", b"1", b"2199-12-31")
    ),
}


def damaged_line(kind: str, line: bytes, columns: Sequence[str], draw: random.Random) -> bytes:
    """A line of `kind` made of a good one."""
    if kind == "blank_line":
        return draw.choice((b"", b"," * (len(columns) - 1)))
    cells = dict(zip(columns, line.split(b","), strict=True)) | _QUOTE | draw.choice(DAMAGE[kind])
    return b",".join(cells.values())


def lines_of_days(path: Path) -> Iterator[bytes]:
    """The lines of a file after its header, again and again, each time on the next day."""
    first, *_ = lines = path.read_bytes().splitlines()[1:]
    day = first[:10]
    for later in count():
        moved = (date.fromisoformat(day.decode()) + timedelta(days=later)).isoformat().encode()
        yield from (line.replace(day, moved) for line in lines)


@dataclass
class Pair:
    """A file, and the same with damaged rows between its own."""

    clean: Path
    damaged: Path
    good: int
    injected: dict[str, array] = field(default_factory=dict)  # kind: the lines of the second file that are damaged


def write_pair(folder: Path, source: Path, damaged: int, every: int, draw: random.Random) -> Pair:
    """Two files of good rows; in one of them a damaged row comes after one of every `every`."""
    with open(source, "rb") as file:
        header = file.readline()
    columns = header.decode().strip().split(",")
    pair = Pair(folder / "clean.csv", folder / "damaged.csv", every * damaged + LOOK_AHEAD)
    good, kinds, number = lines_of_days(source), cycle(DAMAGE), 1
    with open(pair.clean, "wb") as clean, open(pair.damaged, "wb") as both:
        clean.write(header)
        both.write(header)
        for kind in islice(kinds, damaged):
            block = list(islice(good, every))
            at = draw.randrange(every)
            bad = damaged_line(kind, block[at], columns, draw)
            clean.writelines(line + b"\n" for line in block)
            both.writelines(line + b"\n" for line in (*block[: at + 1], bad, *block[at + 1 :]))
            pair.injected.setdefault(kind, array("q")).append(number + at + 2)
            number += every + 1
        for line in islice(good, LOOK_AHEAD):  # by them a time that leaps ahead is judged
            clean.write(line + b"\n")
            both.write(line + b"\n")
    return pair


def file_rows(folder: Path, damaged: int, draw: random.Random) -> list[Row]:
    """Every kind of damaged row: put in, found; and what is left of the file."""
    began_s = time.perf_counter()
    pair = write_pair(folder, CSV, damaged, 1, draw)
    dirty, clean = _read(pair.damaged), _read(pair.clean)
    found, log = dirty.checker.rejects.lines, []
    for kind in DAMAGE:
        injected = pair.injected.get(kind, array("q"))
        same = injected == found.get(kind, array("q"))  # the same lines, not only as many
        log.append(_row("row", kind.replace("_", " "), len(injected), kind, len(found.get(kind, ())), same))
    same = (
        same_events(dirty.buffer.events(), clean.buffer.events())
        and dirty.checker.disordered == clean.checker.disordered
    )
    log.append(_row("row", "good rows left, in every value", pair.good, "good", len(dirty.buffer), same))
    _say(f"{damaged} damaged and {pair.good} good rows", began_s)
    return log


def _read(path: Path) -> Intake:
    intake = Intake(Checker(SECOND_NS), SYMBOL)
    feed.load(path, intake)
    return intake


def same_events(a: Events, b: Events) -> bool:
    """Every array of both is the same."""
    return a.publisher_ids == b.publisher_ids and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name, _ in EVENT_DTYPES
    )


def _row(what: str, kind: str, injected: int, fate: str, found: int, ok: bool) -> Row:
    return {"input": what, "kind": kind, "injected": injected, "counted as": fate, "found": found, "ok": ok}


def _say(what: str, began_s: float) -> None:
    spent_s = time.perf_counter() - began_s
    sys.stderr.write(f"{what}: {spent_s:.0f} s, peak {own_peak_mb():.0f} MB of memory\n")


# --- messages of a run --------------------------------------------------------------------------------------------------

RUN_ID, OTHER_RUN = "20240805-133000-f0220001", "20240805-133000-0abcdef0"
GOOD = (
    b'{"ts_event":"2024-08-05T14:00:00.000000000Z","publisher_id":2,"symbol":"SIM","action":"A","side":"N","price":157.98,'
    b'"size":300,"bid_px_00":157.98,"ask_px_00":158.03,"bid_sz_00":300,"ask_sz_00":100,"sequence":7}'
)


class Sent(NamedTuple):
    """A message as the producer is given it."""

    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int | None = None


def _changed(**values: object) -> bytes:
    return json.dumps({**json.loads(GOOD), **values}).encode()


NONSENSE: dict[str, tuple[str, bytes | None]] = {  # rows of the run: (kind they must be set aside as, payload)
    "no JSON": ("undecodable", b"\x00\x01Hello\xff"),
    "empty": ("undecodable", b""),
    "null value (tombstone)": ("undecodable", None),
    "an array": ("undecodable", b"[1,2,3]"),
    "cut off": ("undecodable", GOOD[:-20]),
    "nested 50,000 deep": ("undecodable", GOOD[:-1] + b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a symbol of 2 MB": ("undecodable", GOOD.replace(b"SIM", b"S" * 2 * MB)),
    "a field missing": ("undecodable", GOOD.replace(b'"sequence"', b'"seq"')),
    "NaN": ("undecodable", GOOD.replace(b"158.03", b"NaN")),
    "Infinity": ("undecodable", GOOD.replace(b"158.03", b"-Infinity")),
    "1e400": ("undecodable", GOOD.replace(b"158.03", b"1e400")),
    "a number as text": ("undecodable", GOOD.replace(b"158.03", b'"158.03"')),
    "10,000 digits": ("undecodable", GOOD.replace(b":7}", b":" + b"9" * 10_000 + b"}")),
    "half a share": ("undecodable", GOOD.replace(b":300,", b":0.5,")),
    "no UTF-8": ("undecodable", GOOD.replace(b"SIM", b"\xff\xfe")),
    "a far future time": ("out_of_order", _changed(ts_event="2190-01-01T00:00:00Z")),
    "a time of words": ("unreadable_time", _changed(ts_event="now")),
    "an unknown action": ("unknown_action", _changed(action="X")),
    "terminal codes as symbol": ("no_symbol", _changed(symbol="\x1b[2J")),
    "a negative size": ("negative_or_infinite", _changed(ask_sz_00=-1)),
    "1e300 USD": ("out_of_range", _changed(ask_px_00=1e300)),
    "a fraction of a tick": ("finer_than_tick", _changed(ask_px_00=158.03005)),
    "a price without size": ("price_without_size", _changed(ask_sz_00=0)),
    "bid above ask": ("crossed", _changed(bid_px_00=200)),
}

_RUN = [("run", RUN_ID.encode())]
_FOREIGN_ROW = [("run", OTHER_RUN.encode()), ("row", b"0")]
FAR_FUTURE_MS, FAR_PAST_MS = 2**53, 0
_START = StartRecord(
    run_id=RUN_ID, file="day.csv", sha256="", schema_version=SCHEMA_VERSION, symbols=[SYMBOL], rows=0, speed=0.0
)
_END = EndRecord(run_id=OTHER_RUN, rows_sent=0, rejects={}, disordered=0, crc32=0)


def _start(**changed: object) -> bytes:
    return json.dumps({**json.loads(contract.encode_record(_START)), **changed}).encode()


def _other(record: bytes) -> list[tuple[str, bytes]]:
    return contract.record_headers(OTHER_RUN, record)


FOREIGN: dict[str, Sent] = {  # messages that are not of the run, whatever they say
    "no headers": Sent(GOOD, []),
    "no headers, no value": Sent(None, []),
    "no headers, 2 MB": Sent(b"\x00" * 2 * MB, []),
    "headers of another program": Sent(b"hello", [("traceparent", b"00-1"), ("x", b"")]),
    "a far future Kafka time": Sent(GOOD, [], FAR_FUTURE_MS),
    "Kafka time 1970": Sent(GOOD, [], FAR_PAST_MS),
    "run id missing": Sent(GOOD, [("row", b"0")]),
    "run id no UTF-8": Sent(GOOD, [("run", b"\xff\xfe"), ("row", b"0")]),
    "run id twice": Sent(GOOD, [*_RUN, *_RUN, ("row", b"0")]),
    "row number missing": Sent(GOOD, _RUN),
    "row number twice": Sent(GOOD, [*_RUN, ("row", b"0"), ("row", b"1")]),
    "row number a word": Sent(GOOD, [*_RUN, ("row", b"one")]),
    "row number negative": Sent(GOOD, [*_RUN, ("row", b"-1")]),
    "row number beyond the run": Sent(GOOD, [*_RUN, ("row", b"1000000000000")]),
    "row number of 10,000 digits": Sent(GOOD, [*_RUN, ("row", b"9" * 10_000)]),
    "an unknown record": Sent(GOOD, [*_RUN, ("record", b"middle")]),
    "another run's row": Sent(GOOD, _FOREIGN_ROW),
    "another run's start": Sent(_start(run_id=OTHER_RUN), _other(START)),
    "another run's end": Sent(contract.encode_record(_END), _other(END)),
    "a start of schema version 99": Sent(_start(run_id=OTHER_RUN, schema_version=99), _other(START)),
    "a start of -5 rows": Sent(_start(run_id=OTHER_RUN, rows=-5), _other(START)),
    "a start that is no JSON": Sent(b"{", _other(START)),
    "an end with counts as text": Sent(b'{"run_id":"x","rows_sent":"5"}', _other(END)),
}

AGAIN: dict[str, bytes | None] = {  # rows of the run that have come already, with this value; None: their own
    "a row again": None,
    "a row again with another content": _changed(ask_px_00=1),
    "a row again that is no JSON": b"\xff",
    "a row again of 2 MB": b"9" * 2 * MB,
}
HUGE = {name for name, message in FOREIGN.items() if len(message.value or b"") > MB}
HUGE |= {name for name, (_, payload) in NONSENSE.items() if len(payload or b"") > MB}
HUGE |= {name for name, payload in AGAIN.items() if len(payload or b"") > MB}
SECOND_START = "the start record again"
FATES = {
    **dict.fromkeys(FOREIGN, "foreign"),
    **dict.fromkeys((*AGAIN, SECOND_START), "duplicate"),
    **{name: kind for name, (kind, _) in NONSENSE.items()},
}


def hostile_names(messages: int, draw: random.Random) -> list[str]:
    """So many names of `FATES`, each about as often, those of 2 MB at most `HUGE_MESSAGES` times in all."""
    huge = sorted(HUGE)[: max(1, messages // 10)]
    huge = list(islice(cycle(huge), min(HUGE_MESSAGES, messages // 10)))
    names = huge + list(islice(cycle(name for name in FATES if name not in HUGE), messages - len(huge)))
    draw.shuffle(names)
    return names


class HostileRun:
    """A run whose rows are those of a file with nonsense between, and messages between them that are not of the run."""

    def __init__(self, payloads: list[bytes], hostile: Sequence[str], draw: random.Random) -> None:
        self._draw = draw
        after = sorted(draw.choices(range(1, len(payloads)), k=len(hostile)))  # the good row each comes after
        self._plan = sorted(
            [*((n, "") for n in range(len(payloads))), *zip(after, hostile, strict=True)], key=lambda p: p[0]
        )
        self._good = payloads
        self.names = [name for _, name in self._plan]  # of each message between start and end; empty for a good row
        self.rows = len(payloads) + sum(name in NONSENSE for name in hostile)
        self._row, self._crc = 0, 0

    def messages(self, sha256: str) -> Iterator[Sent]:
        """Start record, everything in between, end record."""
        start = _start(rows=self.rows, sha256=sha256)
        yield Sent(start, contract.record_headers(RUN_ID, START))
        for at, name in self._plan:
            yield self._between(at, name, start)
        end = EndRecord(run_id=RUN_ID, rows_sent=self.rows, rejects={}, disordered=0, crc32=self._crc)
        yield Sent(contract.encode_record(end), contract.record_headers(RUN_ID, END))

    def _between(self, at: int, name: str, start: bytes) -> Sent:
        if name in FOREIGN:
            return FOREIGN[name]
        if name == SECOND_START:
            return Sent(start, contract.record_headers(RUN_ID, START))
        if name in AGAIN:
            again = self._draw.randrange(max(0, self._row - 1000), self._row)
            content = AGAIN[name] or self._good[0]
            return Sent(content, contract.row_headers(RUN_ID, again))
        return self._next_row(NONSENSE[name][1] if name else self._good[at])

    def _next_row(self, payload: bytes | None) -> Sent:
        self._crc = zlib.crc32(payload or b"", self._crc)
        self._row += 1
        return Sent(payload, contract.row_headers(RUN_ID, self._row - 1))


def message_rows(
    folder: Path, servers: str, hostile: int, draw: random.Random, run_rows: int | None = None, name: str = "hostile"
) -> list[Row]:
    """Every kind of hostile message: put in, found; and what the programs make of the run."""
    began_s = time.perf_counter()
    path = folder / "day.csv"
    with open(CSV, "rb") as source, open(path, "wb") as copy:
        copy.writelines(islice(source, None if run_rows is None else run_rows + 1))
    payloads = [
        payload for block in feed.good_blocks(path, Checker(SECOND_NS)) for payload in contract.encode_rows(block)
    ]
    run = HostileRun(payloads, hostile_names(hostile, draw), draw)
    topic = new_topic(servers, name)
    send(topic, run.messages(feed.identify(path).sha256))
    audit, intake, fates = _follow(topic)
    table = _message_table(run, fates)
    whole = not audit.faults() and same_events(intake.buffer.events(), _read(path).buffer.events())
    table.append(_row("message", "good rows left, the run whole", len(payloads), "good", len(intake.buffer), whole))
    table.append(_reports(folder, topic, path, run))
    _say(f"{hostile} hostile messages in a run of {run.rows} rows", began_s)
    return table


def new_topic(servers: str, name: str) -> stream.Topic:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    configs = {"max.message.bytes": str(LARGEST_MESSAGE)}
    options = {"num_partitions": 1, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: options}, wait_for_metadata=True)
    admin.close()
    return stream.Topic(servers, name)


def send(topic: stream.Topic, messages: Iterable[Sent]) -> None:
    producer = KafkaProducer(bootstrap_servers=topic.servers, max_request_size=LARGEST_MESSAGE, linger_ms=10)
    sent = []
    for value, headers, timestamp_ms in messages:
        key = b"" if value is None else None  # one of them there must be
        sent.append(producer.send(topic.name, value, key, headers=headers, partition=0, timestamp_ms=timestamp_ms))
    producer.flush()
    assert [future.get(10).offset for future in sent] == list(range(len(sent)))
    producer.close()


def _follow(topic: stream.Topic) -> tuple[RunAudit, Intake, list[str]]:
    """The run as `backtest.py` reads it, and what became of each message between its start and its end."""
    intake, fates, one_by_one = Intake(Checker(SECOND_NS), SYMBOL), [], None
    with stream.Reader(topic, "fuzz") as reader:
        start = reader.run(RUN_ID, 30)
        audit, one_by_one = RunAudit(start), RunAudit(start)
        while not audit.ended:
            records = reader.poll()
            first_row = audit.received
            if payloads := audit.accept(records):
                intake.add(contract.decode_rows(payloads, first_row))
            fates += [_fate(one_by_one, record) for record in records if not one_by_one.ended]
    assert audit == one_by_one, "the verdict depends on how messages are polled"
    kinds = intake.checker.rejects.kind_of_line()
    numbers = count()
    return audit, intake, [kinds.get(next(numbers), "good") if fate == "row" else fate for fate in fates]


def _fate(audit: RunAudit, record: object) -> str:
    before = audit.counts()
    audit.accept([record])
    moved = [name for name, number in audit.counts().items() if number != before[name]]
    return {("rows",): "row", ("duplicate",): "duplicate", ("foreign",): "foreign", (): "end"}.get(
        tuple(moved), str(moved)
    )


def _message_table(run: HostileRun, fates: list[str]) -> list[Row]:
    injected, found = Counter(run.names), Counter(zip(run.names, fates, strict=False))
    return [
        _row("message", name, injected[name], fate, found[name, fate], found[name, fate] == injected[name])
        for name, fate in FATES.items()
    ]


def _reports(folder: Path, topic: stream.Topic, path: Path, run: HostileRun) -> Row:
    """`backtest.py` on the topic and on the file: both reports but for `run`, and what the first says it set aside."""
    environment = {"KAFKA_BOOTSTRAP_SERVERS": topic.servers, "KAFKA_TOPIC": topic.name}
    streamed, direct = _report(folder / "kafka", [], environment), _report(folder / "csv", ["--csv", str(path)], {})
    said = streamed.pop("run")
    direct.pop("run")
    aside = Counter(FATES[name] for name in run.names if name)
    kinds = {kind: found["count"] for kind, found in said["messages_set_aside"].items()}
    counts = {fate: said["counts"][fate] for fate in ("foreign", "duplicate")}
    right = streamed == direct and said["whole"] and {**kinds, **counts} == {"foreign": 0, "duplicate": 0, **aside}
    total = sum(kinds.values()) + sum(counts.values())
    return _row(
        "message", "output.json but for `run` equal to that of the file", sum(aside.values()), "set aside", total, right
    )


def _report(out: Path, words: list[str], environment: dict[str, str]) -> dict:
    command = [sys.executable, str(ROOT / "backtest.py"), "--out", str(out), "--evaluate", "off", *words]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"backtest.py ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads((out / "output.json").read_text())


if __name__ == "__main__":
    sys.exit(main())
