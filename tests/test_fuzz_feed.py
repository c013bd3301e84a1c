"""Any bytes as a file: rows in are rows out and counted rejects, or one line says why not. Never a traceback, never a hang."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from sor import feed
from sor.errors import FeedError
from sor.events import REJECT_KINDS, Checker, Intake
from sor.feed import csv_rows
from sor.feed.convert import to_parquet
from sor.feed.parquet_rows import FOOTER_SUM
from tests.test_feed import HEADER, SECOND_NS, csv_file, line, read, refusal

bounded = settings(max_examples=120, deadline=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = [line(second) for second in range(12)]
PLAIN = "\n".join((HEADER, *LINES, "")).encode()
QUOTED = "\n".join(",".join(f'"{cell}"' for cell in text.split(",")) for text in (HEADER, *LINES)).encode()
PIECES = [
    *(b'"', b'""', b'",', b',"', b'"\n', b"\0", b"\r", b"\n", b"\r\n", b",", b";", b"\t", b"\xff", b"\xef\xbb\xbf"),
    *(
        b"nan",
        b"-inf",
        b"1e999",
        b"9" * 400,
        b"A" * 70_000,
        b"True",
        b"NULL",
        b"1j",
        b"#",
        b"\\",
        b"'",
        b"\xe2\x80\xa8",
        b"\x0b",
    ),
]


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """`original` after a few bytes are changed, cut out or put in; sometimes cut off, sometimes packed before that."""
    content = bytearray(gzip.compress(original) if draw(st.integers(0, 9)) == 0 else original)
    near_start = draw(st.booleans())  # where the header is
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, min(len(content), 300) if near_start else len(content)))
        match draw(st.sampled_from(["change", "cut", "put", "put", "end"])):
            case "change":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "put":
                content[at:at] = draw(st.sampled_from(PIECES))
            case "end":
                del content[max(at, 1) :]
    return bytes(content)


def assert_one_line(error: Exception) -> None:
    assert str(error).isprintable()


def lines_in(content: bytes) -> int:
    """Lines after the header of what a file holds, unpacked."""
    text = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return len(text.removeprefix(b"\xef\xbb\xbf").splitlines()) - 1


def check(path: Path, chunk_rows: int = feed.CHUNK_ROWS) -> int | None:
    """Rows of a file, each of which is kept or counted; None if it is refused in one line."""
    intake, rows = Intake(Checker(SECOND_NS)), 0
    log = intake.checker.rejects
    try:
        for block in feed.read_blocks(path, chunk_rows=chunk_rows):
            rows += len(block)
            intake.add(block)
        feed.write_rejects(path, log, path.with_name("rejects"))
    except FeedError as error:
        assert_one_line(error)
        return None
    assert rows == len(intake.buffer) + log.total + intake.other_symbol_rows
    return rows


@bounded
@given(content=st.binary(max_size=2_000) | st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_as_csv(tmp_path, content):
    path = tmp_path / "day.csv"
    path.write_bytes(content)
    check(path)


@bounded
@given(content=mutated(PLAIN) | mutated(QUOTED), chunk_rows=st.sampled_from([1, 5, 1000]))
def test_damaged_csv_loses_no_line_unseen(tmp_path, content, chunk_rows):
    path = tmp_path / "day.csv"
    path.write_bytes(content)
    rows = check(path, chunk_rows)
    assert rows is None or rows == lines_in(content)


@bounded
@given(
    header=st.lists(st.sampled_from([*HEADER.split(","), "", '"', '"price"', "price.1", "x", " size"]), max_size=40),
    separator=st.sampled_from([",", ",", ";", "\t", "|", ", "]),
)
def test_any_header(tmp_path, header, separator):
    path = tmp_path / "day.csv"
    path.write_text("\n".join((separator.join(header), *LINES)), encoding="utf-8")
    check(path)


@bounded
@given(content=mutated(PLAIN) | mutated(QUOTED))
def test_damaged_csv_is_converted_to_the_same_rows_or_refused(tmp_path, content):
    path, out = tmp_path / "day.csv", tmp_path / "day.parquet"
    path.write_bytes(content)
    try:
        rows, _ = to_parquet(path, out)
    except FeedError as error:
        assert_one_line(error)
        return
    assert rows == lines_in(content)
    assert check(out) == check(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    to_parquet(csv_file(folder, *LINES, line(12, price="x")), folder / "day.parquet")
    return folder / "day.parquet"


@bounded
@given(data=st.data())
def test_damaged_parquet_gives_its_rows_or_is_refused(tmp_path, whole, data):
    path = tmp_path / "day.parquet"
    path.write_bytes(data.draw(mutated(whole.read_bytes())))
    check(path)


@bounded
@given(data=st.data())
def test_a_byte_of_the_footer_changed_is_always_found(tmp_path, whole, data):
    packed = whole.read_bytes()
    start = packed.rindex(FOOTER_SUM) + len(FOOTER_SUM)
    at = data.draw(st.integers(start, len(packed) - 1))
    change = data.draw(st.integers(1, 255))
    path = tmp_path / "day.parquet"
    path.write_bytes(packed[:at] + bytes([packed[at] ^ change]) + packed[at + 1 :])
    assert "cannot be read to its end" in refusal(path)


@bounded
@given(content=st.binary(max_size=300))
def test_any_bytes_called_parquet(tmp_path, content):
    path = tmp_path / "day.parquet"
    path.write_bytes(b"PAR1" + content + b"PAR1")
    check(path)


def test_footer_with_another_number_of_rows_is_refused(tmp_path, whole):
    path = tmp_path / "day.parquet"
    packed = whole.read_bytes()
    start = packed.rindex(FOOTER_SUM)
    unsealed = packed[:start] + b"\0" * len(FOOTER_SUM) + packed[start + len(FOOTER_SUM) :]  # as of another program
    rows = unsealed.index(b"\x16\x1a\x19\x1c\x19", start)  # Thrift's 13, between the schema and the row groups
    path.write_bytes(unsealed[:rows] + b"\x16\x1c" + unsealed[rows + 2 :])
    assert "it holds 13 rows, its footer says 14" in refusal(path)


# --- what was found by the above ----------------------------------------------------------------------------------------


def test_stray_quote_in_a_quoted_file_spoils_its_own_row_only(tmp_path):
    rows = QUOTED.replace(b'"10.000000000","10.020000000","300","4"', b'"10.000000000,"10.020000000","300","4"')
    (tmp_path / "day.csv").write_bytes(rows)
    intake = Intake(Checker(SECOND_NS), "SIM")
    feed.load(tmp_path / "day.csv", intake)
    assert intake.buffer.events().ask_sz.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert intake.checker.rejects.kind_of_line() == {5: "unreadable_time"}


def test_empty_cell_is_empty_beside_a_huge_number_and_a_text(tmp_path):
    rows = [line(0), line(1, bid_sz_00="9" * 30), line(2, bid_px_00="", bid_sz_00=""), line(3, bid_sz_00="x")]
    events, checker = read(csv_file(tmp_path, *rows))
    assert checker.rejects.kind_of_line() == {3: "out_of_range", 5: "unreadable_number"}
    assert events.ask_sz.tolist() == [1, 3]


@pytest.mark.parametrize("name", ["price", "ts_event", "symbol"])
def test_column_given_twice_is_refused(tmp_path, name):
    path = csv_file(tmp_path, *(text + ",1" for text in LINES), header=f"{HEADER},{name}")
    assert f"the header has more than once {name}; it must be" in refusal(path)


def test_quoted_file_with_byte_order_mark(tmp_path):
    (tmp_path / "day.csv").write_bytes(b"\xef\xbb\xbf" + QUOTED)
    assert len(read(tmp_path / "day.csv")[0]) == len(LINES)


def test_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "LONGEST_LINE", 1 << 20)
    path = csv_file(tmp_path, *LINES, "9" * (3 << 20), *LINES)
    assert refusal(path).startswith(
        f"{path}: cannot be read to its end: a line is longer than 1,048,576 bytes; it must"
    )


@pytest.mark.parametrize("symbol", ["SIM\x07", "\x1b[31m", "S\x85M"])
def test_symbol_that_a_terminal_would_obey_is_set_aside(tmp_path, symbol):
    _, checker = read(csv_file(tmp_path, line(0), line(1, symbol=symbol), line(2)))
    assert checker.rejects.kind_of_line() == {3: "no_symbol"}


def test_name_of_a_file_is_shown_without_control_characters(tmp_path):
    assert feed.identify(csv_file(tmp_path, line(0), name="a\x1b[2J\nb.csv")).name == "a\ufffd[2J\ufffdb.csv"


# --- every kind at once -------------------------------------------------------------------------------------------------


def test_the_benchmark_damages_rows_in_every_kind_a_file_can_have():
    assert set(fuzz.DAMAGE) == set(REJECT_KINDS) - {"undecodable"}  # that one is of messages
    assert set(REJECT_KINDS) - {"blank_line", "unreadable_number"} == {kind for kind, _ in fuzz.NONSENSE.values()}


@pytest.mark.parametrize("seed", range(3))
def test_damaged_rows_of_every_kind_are_each_set_aside_and_the_others_stay(tmp_path, seed):
    table = fuzz.file_rows(tmp_path, 2_200, random.Random(seed))
    assert all(row["ok"] for row in table)
    assert sum(row["found"] for row in table[:-1]) == 2_200
