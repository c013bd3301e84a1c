"""The contract of the topic: one JSON message per row of market data, and the two records that frame a run.

A run is a start record, its rows in file order, and an end record. Every message carries two headers:

    run     the run's id
    row     the row's number, counted from 0 (rows), or
    record  "start" or "end" (the framing records)

Encoding and decoding are plain functions on bytes; Kafka itself is in `sor.stream`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, TypedDict

import msgspec
import numpy as np

from sor.errors import StreamError
from sor.events import KIND_CODE, NO_TIME, RowBlock
from sor.feed import parse_times

SCHEMA_VERSION = 1
HEADER_RUN, HEADER_ROW, HEADER_RECORD = "run", "row", "record"
START, END = b"start", b"end"

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
RunId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9-]{1,64}\Z")]
Line = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]{0,1000}\Z")]  # what a terminal shows as it is
Text = Annotated[str, msgspec.Meta(max_length=40)]  # numpy gives all texts of a block the width of the longest


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of market data as a message: Databento's names, USD per share and shares; null where the row holds nothing."""

    ts_event: Text  # ISO-8601 UTC, nanoseconds
    publisher_id: Int64  # Databento's id of the venue
    symbol: Text
    action: Text  # A, C, M: quote; T: trade; R: the venue's book is cleared
    side: Text  # of a trade, the aggressor: B bought, A sold, N not given
    price: float | None  # of the trade, or of the order that changed the book
    size: Int64 | None
    bid_px_00: float | None  # best bid after the row; 0 or null: the venue has no bid
    ask_px_00: float | None
    bid_sz_00: Int64 | None
    ask_sz_00: Int64 | None
    sequence: Int64 | None


class StartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is about to send."""

    run_id: RunId
    file: Line
    sha256: Line  # of the file's bytes
    schema_version: int
    symbols: list[Line]
    rows: Count  # good rows of the file
    speed: float  # times real time; 0: as fast as possible


class Rejected(TypedDict):
    """Rows of one kind that were set aside."""

    count: Count
    first_line: Count


class EndRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has sent. `aborted` says why it stopped early; it is empty for a whole run."""

    run_id: RunId
    rows_sent: Count
    rejects: dict[Line, Rejected]  # by kind
    disordered: Count
    crc32: Count  # of all payloads, in order
    aborted: str = ""


_row_encoder = msgspec.json.Encoder()
_row_decoder = msgspec.json.Decoder(Row)
_row_fields = attrgetter(*Row.__struct_fields__)
_NOT_DECODED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # the last for arrays nested without end


def encode_rows(rows: RowBlock) -> list[bytes]:
    """One payload per row, in order."""
    encode = _row_encoder.encode
    symbols = np.array(rows.symbols, object)
    columns = (
        _time_texts(rows.ts_ns),
        rows.publisher_id.astype(np.int64).tolist(),
        symbols[rows.symbol].tolist(),
        _letter_texts(rows.action),
        _letter_texts(rows.side),
        rows.price.tolist(),  # NaN is written as null
        _whole(rows.size),
        rows.bid_px.tolist(),
        rows.ask_px.tolist(),
        _whole(rows.bid_sz),
        _whole(rows.ask_sz),
        _whole(rows.sequence),
    )
    return [encode(Row(*values)) for values in zip(*columns, strict=True)]


def _time_texts(ts_ns: np.ndarray) -> list[str]:
    return np.char.add(np.datetime_as_string(ts_ns.view("datetime64[ns]"), unit="ns"), "Z").tolist()


def _letter_texts(letters: np.ndarray) -> list[str]:
    return [chr(code) if code else "" for code in letters.tolist()]


def _whole(values: np.ndarray) -> list[int | None]:
    missing = np.isnan(values)
    if not missing.any():
        return values.astype(np.int64).tolist()
    return [None if gone else int(value) for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]


def decode_rows(payloads: Sequence[bytes], first_row: int) -> RowBlock:
    """The rows of consecutive payloads, numbered from `first_row`; what is not a `Row` is marked as undecodable."""
    decode = _row_decoder.decode
    undecodable = []
    try:
        rows = [decode(payload) for payload in payloads]
    except _NOT_DECODED:
        rows = [_row_or_none(payload) for payload in payloads]
        undecodable = [i for i, row in enumerate(rows) if row is None]
        rows = [row or _NO_ROW for row in rows]
    return _row_block(rows, first_row, undecodable)


_NO_ROW = Row("", 0, "", "", "", None, None, None, None, None, None, None)


def _row_or_none(payload: bytes) -> Row | None:
    try:
        return _row_decoder.decode(payload)
    except _NOT_DECODED:
        return None


def _row_block(rows: list[Row], first_row: int, undecodable: list[int]) -> RowBlock:
    columns = list(zip(*map(_row_fields, rows), strict=True)) or [()] * len(Row.__struct_fields__)
    ts_event, publisher_id, symbol, action, side, *numbers = columns
    ts_ns = parse_times(np.array([text.encode(errors="replace") for text in ts_event], "S40"))
    parse_kind = np.where(ts_ns == NO_TIME, KIND_CODE["unreadable_time"], 0).astype(np.uint8)
    parse_kind[undecodable] = KIND_CODE["undecodable"]
    symbols = sorted(set(symbol))
    index = {name: i for i, name in enumerate(symbols)}
    price, size, bid_px, ask_px, bid_sz, ask_sz, sequence = (np.array(column, np.float64) for column in numbers)
    return RowBlock(
        line=np.arange(first_row, first_row + len(rows)),
        ts_ns=ts_ns,
        publisher_id=np.array(publisher_id, np.float64),
        symbol=np.array([index[name] for name in symbol], np.int64),
        action=_letter_codes(action),
        side=_letter_codes(side),
        price=price,
        size=size,
        bid_px=bid_px,
        ask_px=ask_px,
        bid_sz=bid_sz,
        ask_sz=ask_sz,
        sequence=sequence,
        parse_kind=parse_kind,
        symbols=tuple(symbols),
    )


def _letter_codes(letters: tuple[str, ...]) -> np.ndarray:
    table = {letter: ord(letter) if len(letter) == 1 and ord(letter) < 256 else 0 for letter in set(letters)}
    return np.fromiter(map(table.__getitem__, letters), np.uint8, len(letters))


def row_headers(run_id: str, row: int) -> list[tuple[str, bytes]]:
    """Headers of a row's message."""
    return [(HEADER_RUN, run_id.encode()), (HEADER_ROW, b"%d" % row)]


def record_headers(run_id: str, record: bytes) -> list[tuple[str, bytes]]:
    """Headers of a framing record; `record` is START or END."""
    return [(HEADER_RUN, run_id.encode()), (HEADER_RECORD, record)]


def encode_record(record: StartRecord | EndRecord) -> bytes:
    """A framing record as JSON."""
    return msgspec.json.encode(record)


def decode_record(payload: bytes, kind: type[StartRecord] | type[EndRecord]) -> StartRecord | EndRecord:
    """A framing record from JSON; StreamError if it is not one, or one of another version of this contract."""
    try:
        record = msgspec.json.decode(payload, type=kind)
    except _NOT_DECODED as error:
        raise StreamError(f"a {kind.__name__} cannot be decoded: {error}") from None
    version = getattr(record, "schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise StreamError(f"a {kind.__name__} is of schema version {version}; it must be {SCHEMA_VERSION}")
    return record


def crc32(payloads: Sequence[bytes], start: int = 0) -> int:
    """CRC-32 of all payloads in order, continued from `start`."""
    return zlib.crc32(b"".join(payloads), start)
