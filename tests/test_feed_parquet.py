"""Parquet files give the rows, the checks and the errors of the CSV files they stand for; conversion loses nothing of them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backtest
import kafka_producer
from sor import feed
from sor.errors import FeedError, UsageError
from sor.events import NO_TIME, Checker, Events, Intake
from sor.feed import convert, parquet_rows
from sor.feed.__main__ import main
from sor.feed.convert import to_parquet
from tests.test_feed import (
    BAD_NUMBERS,
    DAMAGE,
    DATA,
    HEADER,
    SECOND_NS,
    SHARED,
    T0_NS,
    assert_equal,
    csv_file,
    damaged,
    line,
    read,
    refusal,
)

ROOT = Path(__file__).parent.parent


def converted(path: Path) -> Path:
    out = path.with_suffix(".parquet")
    to_parquet(path, out)
    return out


def parquet_file(folder: Path, table: pa.Table, **options: object) -> Path:
    path = folder / "day.parquet"
    pq.write_table(table, path, **options)
    return path


def table_of(path: Path) -> pa.Table:
    """The CSV file as pyarrow reads it by itself: another program's Parquet file."""
    return pyarrow.csv.read_csv(path)


def with_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def rejects_of(path: Path) -> str:
    """The rejects file of `path` with all that the log knows, sentences included."""
    checker = read(path)[1]
    feed.write_rejects(path, checker.rejects, path.parent / "rejects.csv")
    first = "\n".join(checker.rejects.first.values())
    return f"{first}\n{(path.parent / 'rejects.csv').read_text()}{checker.disordered}"


def assert_same_rows(csv_path: Path, parquet_path: Path, chunk_rows: int = feed.CHUNK_ROWS) -> None:
    """Both files give the same blocks, to the bit and the type, and the same rejects."""
    blocks = [filter(len, feed.read_blocks(path, chunk_rows=chunk_rows)) for path in (csv_path, parquet_path)]
    for one, other in zip(*blocks, strict=True):
        for name in (f.name for f in fields(one)):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None), name
            np.testing.assert_array_equal(mine, theirs, err_msg=name)


# --- converted files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mbp1_small.csv", "mbp10_small.csv"])
def test_converted_file_gives_the_rows_of_the_csv(tmp_path, name):
    to_parquet(DATA / name, tmp_path / "day.parquet")
    assert_same_rows(DATA / name, tmp_path / "day.parquet")


def test_columns_and_types_of_a_converted_file(tmp_path):
    extra = csv_file(tmp_path, "0," + line(0), header="," + HEADER)
    schema = pq.read_schema(converted(extra))
    assert schema.names == [*HEADER.split(","), "csv_line"]  # the unnamed index column is left out
    assert {name: str(schema.field(name).type) for name in ("ts_recv", "ts_event", "symbol", "price", "sequence")} == {
        **dict.fromkeys(("ts_recv", "ts_event"), "timestamp[ns, tz=UTC]"),
        **{"symbol": "string", "price": "double", "sequence": "int64"},
    }


def test_values_that_are_not_used_here_are_kept(tmp_path):
    table = pq.read_table(converted(csv_file(tmp_path, line(0, flags=130, ts_in_delta=-5, bid_ct_00=7))))
    (row,) = table.select(["rtype", "instrument_id", "depth", "flags", "ts_in_delta", "bid_ct_00"]).to_pylist()
    assert row == {"rtype": 1, "instrument_id": 1, "depth": 0, "flags": 130, "ts_in_delta": -5, "bid_ct_00": 7}
    assert pc.cast(table["ts_recv"], pa.int64()).to_pylist() == [T0_NS + 100_000]


def test_every_nanosecond_is_kept(tmp_path):
    times = [f"2024-08-05T14:00:00.{ns:09d}Z" for ns in (1, 2, 3, 999_999_999)]
    events, _ = read(converted(csv_file(tmp_path, *(line(0, ts_event=time) for time in times))))
    assert (events.ts_ns - T0_NS).tolist() == [1, 2, 3, 999_999_999]


@pytest.mark.parametrize("chunk_rows", [1, 3, 1000])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_row_is_set_aside_for_the_same_reason_at_the_same_line(tmp_path, kind, chunk_rows):
    lines = [line(s) for s in range(20)]
    lines[5], lines[11] = damaged(5, kind), damaged(11, kind)
    path = csv_file(tmp_path, *lines)
    out = converted(path)
    assert_same_rows(path, out, chunk_rows)
    events, checker = read(out, chunk_rows=chunk_rows)
    assert checker.rejects.kind_of_line() == {7: kind, 13: kind}
    assert events.ask_sz.tolist() == [1 + s for s in range(20) if s not in (5, 11)]


@pytest.mark.parametrize(
    "kind", sorted(set(DAMAGE) - {"finer_than_tick", "crossed", "out_of_range"})
)  # their prices gain zeros
def test_rejects_file_of_a_converted_file_is_that_of_the_csv(tmp_path, kind):
    path = csv_file(tmp_path, line(0), damaged(1, kind), line(2))
    assert rejects_of(converted(path)) == rejects_of(path)


def test_rejects_file_shows_a_row_kept_as_values_as_databento_writes_it(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, bid_px_00="10.03"))
    shown = line(1, bid_px_00="10.030000000")
    assert rejects_of(converted(path)).splitlines()[1:3] == ["line,kind,row", f'3,crossed,"{shown}"']


@pytest.mark.parametrize("column", ["price", "size", "publisher_id", "sequence", "flags", "ts_recv", "ts_event"])
@pytest.mark.parametrize("text", [*BAD_NUMBERS, "inf", "-inf", "1e400", "9" * 30, "-5", "0.5", "300.0", "-0.0", ""])
def test_cell_of_any_text_is_read_as_from_the_csv(tmp_path, column, text):
    path = csv_file(tmp_path, line(0), line(1, **{column: text}), line(2))
    assert_same_rows(path, converted(path))


def test_row_that_the_types_cannot_hold_is_kept_as_its_line(tmp_path):
    rows = [line(0), line(1, ask_sz_00="1.5"), line(2, price=""), "", line(4, action="AB"), line(5, flags="x")]
    path = csv_file(tmp_path, *rows)
    assert to_parquet(path, tmp_path / "day.parquet") == (6, 3)
    kept = pq.read_table(tmp_path / "day.parquet")["csv_line"].to_pylist()
    assert kept == [None, rows[1].encode(), None, None, rows[4].encode(), rows[5].encode()]
    assert_same_rows(path, tmp_path / "day.parquet")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_kept_lines_are_their_own_whatever_ends_them(tmp_path, end, mark):
    rows = [line(0), line(1, price="x"), "", line(3, symbol="y" * 40), line(4, price="1\0"), line(5)]
    path = csv_file(tmp_path, *rows, header=mark + HEADER, end=end)
    assert_same_rows(path, converted(path))
    assert rejects_of(path.with_suffix(".parquet")) == rejects_of(path)


def test_bytes_that_are_no_utf8_are_kept(tmp_path):
    path = csv_file(tmp_path, *map(line, range(5)))
    rows = path.read_bytes().split(b"\n")
    for at, (old, new) in enumerate([(b",300,", b",3\xff0,"), (b",A,", b",\xff,"), (b"SIM", b"S\xff")], start=2):
        rows[at] = rows[at].replace(old, new, 1)
    path.write_bytes(b"\n".join(rows))
    assert_same_rows(path, converted(path))


def test_rows_shorter_and_longer_than_the_header(tmp_path):
    path = csv_file(tmp_path, line(0), line(1)[:40], line(2)[:-4], line(3) + ",x,y", line(4) + ",,,,", ",,,", line(6))
    assert_same_rows(path, converted(path))


def test_quoted_file_with_a_bad_row(tmp_path):
    quote = '"{}"'.format
    rows = [",".join(map(quote, line(s, **({"size": "1,5"} if s == 3 else {})).split(","))) for s in range(5)]
    path = csv_file(tmp_path, *rows, line(5), header=",".join(map(quote, HEADER.split(","))))
    assert_same_rows(path, converted(path))


def test_quoted_field_over_several_lines_is_as_many_bad_rows(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, price='"1\n2"'), line(2), header=HEADER.replace("price", '"price"'))
    assert_same_rows(path, converted(path))
    assert rejects_of(path) == rejects_of(converted(path))
    assert list(read(path)[1].rejects.kind_of_line()) == [3, 4]


def test_many_row_groups_and_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "CHUNK_ROWS", 4)
    monkeypatch.setattr(convert, "ROW_GROUP_ROWS", 8)
    monkeypatch.setattr(parquet_rows, "CHUNK_ROWS", 4)
    path = csv_file(tmp_path, *(line(s, **({"price": "x"} if s % 5 == 0 else {})) for s in range(30)))
    out = converted(path)
    assert pq.read_metadata(out).num_row_groups == 4
    assert_same_rows(path, out, chunk_rows=4)
    assert rejects_of(out) == rejects_of(path)


CELLS = st.one_of(
    st.sampled_from(
        [*BAD_NUMBERS, "", "0", "10.00", "1e3", "inf", "-1", "9" * 25, "A", "T", "SIM", "2", '"', "a,b", "\0"]
    ),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters='\n\r"'), max_size=5),
    st.decimals(0, 300, places=9).map(str),
    st.integers(-(2**70), 2**70).map(str),
)
ROWS = st.tuples(st.integers(0, 999), st.dictionaries(st.sampled_from(HEADER.split(",")), CELLS, max_size=3))
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(ROWS, ENDS), max_size=12), cut=st.integers(0, 300), chunk_rows=st.integers(1, 13))
def test_any_csv_file_is_read_the_same_once_converted(tmp_path_factory, rows, cut, chunk_rows):
    folder = tmp_path_factory.mktemp("any")
    text = HEADER + "\n" + "".join(line(second, **changed) + end for (second, changed), end in rows)
    path = folder / "day.csv"
    path.write_bytes(text.encode()[: max(len(HEADER), len(text) - cut)])
    if not any(map(len, feed.read_blocks(path))):
        with pytest.raises(FeedError, match="holds no row"):
            converted(path)
        return
    assert_same_rows(path, converted(path), chunk_rows)


@given(st.lists(st.integers(1, 2 * 10**14), min_size=1, max_size=20))
def test_nine_decimals_are_kept_to_the_last(tmp_path_factory, prices_e9):
    texts = [f"{px // 10**9}.{px % 10**9:09d}" for px in prices_e9]
    path = csv_file(tmp_path_factory.mktemp("prices"), *(line(0, price=text) for text in texts))
    (rows,) = feed.read_blocks(converted(path))
    assert rows.price.tolist() == [float(text) for text in texts]


# --- Parquet files of others ----------------------------------------------------------------------------------------


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


TIMES: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "nanoseconds": lambda column: column,
    "another zone": lambda column: pc.cast(column, pa.timestamp("ns", "America/New_York")),
    "no zone": lambda column: pc.cast(column, pa.timestamp("ns")),
    "microseconds": lambda column: pc.cast(column, pa.timestamp("us", "UTC")),
    "milliseconds": lambda column: pc.cast(column, pa.timestamp("ms", "UTC")),
    "whole numbers": lambda column: pc.cast(column, pa.int64()),
    "unsigned": lambda column: pc.cast(pc.cast(column, pa.int64()), pa.uint64()),
    "text": as_text,
    "large text": lambda column: pc.cast(as_text(column), pa.large_string()),
    "coded text": lambda column: as_text(column).dictionary_encode(),
    "text of whole numbers": lambda column: as_text(pc.cast(column, pa.int64())),
}
NUMBERS: dict[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]] = {
    "float64": lambda column: pc.cast(column, pa.float64()),
    "float32": lambda column: pc.cast(column, pa.float32()),
    "decimal": lambda column: pc.cast(column, pa.decimal128(38, 9)),
    "text": as_text,
    "large text": lambda column: pc.cast(as_text(column), pa.large_string()),
    "coded text": lambda column: as_text(column).dictionary_encode(),
    "bytes": lambda column: pc.cast(as_text(column), pa.binary()),
}


def day(folder: Path) -> Path:
    return csv_file(folder, *(line(s, bid_px_00="9.99", symbol=f"S{s % 2}") for s in range(50)))


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_any_type(tmp_path, kind):
    table = table_of(day(tmp_path))
    path = parquet_file(tmp_path, with_column(table, "ts_event", TIMES[kind](table["ts_event"])))
    assert_same_rows(tmp_path / "day.csv", path)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("column", ["bid_px_00", "ask_sz_00", "publisher_id"])
def test_numbers_of_any_type(tmp_path, kind, column):
    table = table_of(day(tmp_path))
    path = parquet_file(tmp_path, with_column(table, column, NUMBERS[kind](table[column])))
    assert_same_rows(tmp_path / "day.csv", path)


@pytest.mark.parametrize("kind", ["text", "large text", "coded text", "bytes"])
@pytest.mark.parametrize("column", ["symbol", "action", "side"])
def test_texts_of_any_type(tmp_path, kind, column):
    table = table_of(day(tmp_path))
    path = parquet_file(tmp_path, with_column(table, column, NUMBERS[kind](table[column])))
    assert_same_rows(tmp_path / "day.csv", path)


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("options", [{}, {"version": "1.0", "use_dictionary": False}, {"compression": "gzip"}])
def test_row_groups_of_any_size(tmp_path, rows, options):
    path = parquet_file(tmp_path, table_of(day(tmp_path)), row_group_size=rows, **options)
    intake = [Intake(Checker(SECOND_NS), "S1") for _ in range(2)]
    for file, one in zip((tmp_path / "day.csv", path), intake, strict=True):
        feed.load(file, one)
    assert_equal(*(one.buffer.events() for one in intake))


def test_null_and_nan_are_empty_cells(tmp_path):
    table = table_of(csv_file(tmp_path, *map(line, range(4))))
    table = with_column(table, "bid_px_00", pa.array([None, np.nan, 9.5, 9.75], pa.float64()))
    table = with_column(table, "action", pa.array([None, "A", "A", "A"]))
    path = parquet_file(tmp_path, with_column(table, "side", pa.nulls(4)))
    events, checker = read(path)
    assert events.bid_px_e4.tolist() == [0, 95_000, 97_500]
    assert checker.rejects.kind_of_line() == {2: "unknown_action"}


def test_row_of_nulls_is_a_blank_line(tmp_path):
    table = table_of(csv_file(tmp_path, *map(line, range(3))))
    nulls = pa.Table.from_arrays([pa.nulls(1, field.type) for field in table.schema], schema=table.schema)
    path = parquet_file(tmp_path, pa.concat_tables([table.slice(0, 1), nulls, table.slice(2)]))
    assert read(path)[1].rejects.kind_of_line() == {3: "blank_line"}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([-5, 0, None]), ["-5", "0", ""]),
        (pa.array([2**63, 2**63 - 1, 2**64 - 1], pa.uint64()), ["9223372036854775808", "9223372036854775807", "1" * 25]),
        (pa.array([9_999_999_999_999, None, 0], pa.timestamp("ms")), ["no time", "", "1970-01-01"]),
        (pa.array([-9_999_999_999_999, 1, -1], pa.timestamp("ms")), ["x", "1970-01-01T00:00:00.001", "1969-12-31T23:59:59.999"]),
        (pa.array([1.7e18, None, np.nan]), ["1.7e18", "", "nan"]),
        (pa.array(["yesterday", "", "5\0"]), ["yesterday", "", "5\0"]),
    ],
)  # fmt: skip
def test_what_is_no_time_in_a_column_of_times(tmp_path, column, text):
    path = csv_file(tmp_path, *(line(0, ts_event=cell) for cell in text))
    table = table_of(csv_file(tmp_path, *[line(0)] * 3, name="good.csv"))
    assert_same_rows(path, parquet_file(tmp_path, with_column(table, "ts_event", column)))


def test_smallest_time_of_a_column_is_no_time(tmp_path):
    table = table_of(csv_file(tmp_path, line(0)))
    column = pa.array([NO_TIME], pa.int64()).view(pa.timestamp("ns"))
    (rows,) = feed.read_blocks(parquet_file(tmp_path, with_column(table, "ts_event", column)))
    assert rows.ts_ns.tolist() == [NO_TIME]


def test_column_of_another_meaning_sets_its_rows_aside(tmp_path):
    table = table_of(csv_file(tmp_path, *map(line, range(2))))
    path = parquet_file(tmp_path, with_column(table, "bid_sz_00", pa.array([True, None])))
    checker = read(path)[1]
    assert checker.rejects.kind_of_line() == {2: "unreadable_number", 3: "price_without_size"}
    path = parquet_file(tmp_path, with_column(table, "action", pa.array([Decimal("65"), None])))
    assert "holds no usable row; line 2: unknown action" in refusal(path)


def test_rejects_file_of_the_file_of_another_program(tmp_path):
    table = table_of(csv_file(tmp_path, line(0), line(1, action="X")))
    feed.write_rejects(path := parquet_file(tmp_path, table), read(path)[1].rejects, tmp_path / "rejects.csv")
    assert (tmp_path / "rejects.csv").read_text() == f'line,kind,row\n3,unknown_action,"{line(1, action="X")}"\n'


def test_column_of_the_same_name_as_the_kept_lines_means_nothing_in_the_file_of_another_program(tmp_path):
    table = table_of(csv_file(tmp_path, line(0))).append_column("csv_line", pa.array([b"x"]))
    assert len(read(parquet_file(tmp_path, table))[0]) == 1


# --- files of no use ------------------------------------------------------------------------------------------------


def test_missing_parquet_file_and_folder(tmp_path):
    assert refusal(tmp_path / "no.parquet").endswith("No such file or directory; it must be a Parquet file")
    (tmp_path / "days.parquet").mkdir()
    assert "Is a directory" in refusal(tmp_path / "days.parquet")


def test_parquet_by_content_whatever_it_is_called(tmp_path):
    out = converted(csv_file(tmp_path, *map(line, range(3))))
    out.rename(tmp_path / "other.csv")
    assert len(read(tmp_path / "other.csv")[0]) == 3


def test_other_content_called_parquet(tmp_path):
    path = csv_file(tmp_path, line(0), name="day.parquet")
    assert "Parquet magic bytes not found" in refusal(path)
    path.write_bytes(b"")
    assert refusal(path).endswith("it must be a Parquet file")


@pytest.mark.parametrize("missing", feed.COLUMNS)
def test_missing_column_is_named(tmp_path, missing):
    table = table_of(csv_file(tmp_path, line(0))).drop_columns([missing])
    assert f"the schema lacks {missing}; it must have the columns of" in refusal(parquet_file(tmp_path, table))


def test_column_twice_and_column_of_lists_are_named(tmp_path):
    table = table_of(csv_file(tmp_path, line(0)))
    assert "more than once price;" in refusal(parquet_file(tmp_path, table.append_column("price", table["price"])))
    lists = with_column(table, "size", pa.array([[1]]))
    assert "size is list<element: int64>; it must be one" in refusal(parquet_file(tmp_path, lists))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file(tmp_path, share):
    path = converted(csv_file(tmp_path, *map(line, range(500))))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refusal(path)


def test_flipped_byte_in_the_values(tmp_path):
    path = converted(csv_file(tmp_path, *map(line, range(500))))
    packed = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(HEADER.split(",").index("ask_sz_00"))
    packed[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 3] ^= 1
    path.write_bytes(packed)
    assert "CRC checksum verification failed" in refusal(path)


def test_kept_header_that_lacks_a_column(tmp_path):
    table = pq.read_table(converted(csv_file(tmp_path, line(0), line(1, price="x"))))
    path = parquet_file(tmp_path, table.replace_schema_metadata({"sor.csv_header": HEADER.replace("price", "prize")}))
    assert "the header lacks price" in refusal(path)
    path = parquet_file(tmp_path, table.drop_columns(["csv_line"]))
    assert "the schema lacks csv_line" in refusal(path)


def test_file_without_rows(tmp_path):
    table = table_of(csv_file(tmp_path, line(0)))
    assert refusal(parquet_file(tmp_path, table.slice(1))).endswith("holds no usable row")


@pytest.mark.parametrize("content", ["", HEADER, HEADER + "\n"])
def test_csv_without_rows_is_not_converted(tmp_path, content):
    (tmp_path / "day.csv").write_text(content)
    with pytest.raises(
        FeedError, match=r"day.csv: (there is no header; it must be|holds no row; it must hold at least one)"
    ):
        converted(tmp_path / "day.csv")
    assert os.listdir(tmp_path) == ["day.csv"]


# --- the command ----------------------------------------------------------------------------------------------------


def command(*words: object) -> int:
    return main([*map(str, words)])


def test_command_writes_beside_each_file_and_says_so(tmp_path, capsys):
    path = csv_file(tmp_path, *map(line, range(5)), line(5, price="x"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert command("--to-parquet", path, tmp_path / "b.csv.gz") == 0
    assert sorted(os.listdir(tmp_path)) == ["b.csv.gz", "b.parquet", "day.csv", "day.parquet"]
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "day.parquet").read_bytes()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].endswith("6 rows, 1 of them kept as lines")


def test_command_writes_to_a_folder_that_it_makes(tmp_path):
    path = csv_file(tmp_path, line(0))
    assert command("--to-parquet", path, "--out", tmp_path / "a" / "b") == 0
    assert len(read(tmp_path / "a" / "b" / "day.parquet")[0]) == 1


def test_two_files_for_one_name_are_refused_before_anything_is_written(tmp_path, capsys):
    path = csv_file(tmp_path, line(0))
    assert command("--to-parquet", path, tmp_path / "day.csv.gz") == 2
    assert "is also made of another file; every name must be given once" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["day.csv"]


def test_failure_leaves_the_older_file_and_no_draft(tmp_path, capsys):
    path = csv_file(tmp_path, *map(line, range(500)))
    out = converted(path)
    before = out.read_bytes()
    path.write_bytes(gzip.compress(path.read_bytes())[:-100])
    assert command("--to-parquet", path) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "cannot be read to its end" in said
    assert sorted(os.listdir(tmp_path)) == ["day.csv", "day.parquet"]
    assert out.read_bytes() == before


def test_what_is_parquet_already_is_not_converted(tmp_path, capsys):
    out = converted(csv_file(tmp_path, line(0)))
    assert command("--to-parquet", out) == 1
    assert "must be a CSV file" in capsys.readouterr().err


def test_places_that_cannot_be_written_are_usage_errors(tmp_path, capsys):
    path = csv_file(tmp_path, line(0))
    assert command("--to-parquet", path, "--out", path) == 2
    (tmp_path / "day.parquet").mkdir()
    assert command("--to-parquet", path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        to_parquet(path, tmp_path / "none" / "day.parquet")
    assert sorted(os.listdir(tmp_path)) == ["day.csv", "day.parquet"]


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--to-parquet"], 2), (["day.csv"], 2), (["--help"], 0)])
def test_wrong_words_and_help(capsys, words, code):
    with pytest.raises(SystemExit) as ended:
        command(*words)
    assert ended.value.code == code
    said = capsys.readouterr()
    assert ("python -m sor.feed --to-parquet" in said.out) == (code == 0)


# --- the programs ---------------------------------------------------------------------------------------------------


def test_backtest_of_a_converted_file_reports_what_it_reports_of_the_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = csv_file(tmp_path, *map(line, range(30)), line(30, bid_px_00="ten"), line(31, bid_px_00="10.03"), line(32))
    reports = []
    for file in (path, converted(path)):
        words = [
            "--csv",
            file.name,
            "--out",
            "out",
            "--order-size",
            "300",
            "--rejects",
            "rejects.csv",
            "--time-zone",
            "UTC",
        ]
        assert backtest.main(words) == 0
        report = json.loads(Path("out", "output.json").read_text())
        assert report.pop("run")["transport"] == "csv"
        assert (report["data"].pop("file"), len(report["data"].pop("sha256"))) == (file.name, 64)
        reports.append(report)
    assert reports[0] == reports[1]
    assert list(reports[0]["data"]["rejects"]) == ["unreadable_number", "crossed"]
    assert [row.split(",")[0] for row in Path("rejects.csv").read_text().splitlines()] == ["line", "32", "33"]


def test_producer_sends_the_same_messages(tmp_path):
    path = csv_file(tmp_path, *map(line, range(30)), line(30, bid_px_00="ten"))
    sent = []
    for file in (path, converted(path)):
        checker = Checker(SECOND_NS)
        summary = feed.summarise(file, checker)
        sent.append((summary, checker.rejects, kafka_producer._preview(str(file), summary, SECOND_NS)))
    assert sent[0] == sent[1]


def test_pyarrow_is_not_loaded_for_csv_files():
    """pandas loads it wherever it is installed: 35 MB and 60 ms, for nothing."""
    code = (
        "import sys, backtest, kafka_producer; from sor import feed; from sor.events import Checker\n"
        "feed.summarise('tests/data/mbp1_small.csv', Checker(0))\n"
        "assert 'pyarrow' not in sys.modules\n"
        "import pyarrow"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("work", ["list(feed.read_blocks('day.parquet'))", "main(['--to-parquet', 'day.csv'])"])
def test_without_pyarrow_one_line_says_what_is_missing(tmp_path, work):
    converted(csv_file(tmp_path, line(0)))
    code = (
        "import sys; from sor import cli, feed; from sor.feed.__main__ import main\n"
        f"sys.modules['pyarrow'] = None; sys.exit(cli.run(lambda: {work}))"
    )
    paths = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True)
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: Parquet needs pyarrow (")
    assert said.endswith("it must be installed, as requirements.txt says")
    assert done.returncode == 1


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["real_dev.csv.gz", "real_dev_10min.csv", "databento_mbp10_arl.csv.gz", "l1_day.csv"])
def test_whole_day_is_the_same_to_the_last_row_and_smaller(tmp_path, name):
    path = ROOT / name if name == "l1_day.csv" else SHARED / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not here")
    out = tmp_path / "day.parquet"
    rows, kept = to_parquet(path, out)
    assert kept == 0
    assert_same_rows(path, out)
    events: list[Events] = [read(file)[0] for file in (path, out)]
    assert_equal(*events)
    assert len(events[0]) == rows
    assert out.stat().st_size < path.stat().st_size * 1.1
