"""CSV files into rows: formats, line numbers, every kind of damage, and one clear error where a file is of no use."""

from __future__ import annotations

import gzip
import hashlib
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sor import feed
from sor.errors import FeedError, UsageError
from sor.events import CLEAR, EVENT_DTYPES, NO_TIME, QUOTE, REJECT_KINDS, TRADE, Checker, Events, Intake

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data"
SECOND_NS = 10**9
HEADER = (
    "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence,"
    "bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,bid_ct_00,ask_ct_00,symbol"
)
T0_NS = 1_722_866_400 * SECOND_NS  # 2024-08-05T14:00:00Z


def line(second: int, header: str = HEADER, **changed: object) -> str:
    """A good quote at 14:00 plus `second` s, with its ask size counting the seconds; `changed` replaces columns."""
    values = {
        "ts_recv": f"2024-08-05T14:{second // 60:02d}:{second % 60:02d}.000100000Z",
        "ts_event": f"2024-08-05T14:{second // 60:02d}:{second % 60:02d}.000000000Z",
        **{"rtype": 1, "publisher_id": 2, "instrument_id": 1, "action": "A", "side": "N", "depth": 0},
        **{"price": "10.000000000", "size": 300, "flags": 130, "ts_in_delta": 99_999, "sequence": second},
        **{"bid_px_00": "10.000000000", "ask_px_00": "10.020000000", "bid_sz_00": 300, "ask_sz_00": 1 + second},
        **{"bid_ct_00": 1, "ask_ct_00": 1, "symbol": "SIM"},
        **changed,
    }
    return ",".join(str(values.get(name, "extra")) for name in header.split(","))


def csv_file(folder: Path, *lines: str, header: str = HEADER, end: str = "\n", name: str = "day.csv") -> Path:
    path = folder / name
    path.write_bytes("".join(text + end for text in (header, *lines)).encode())
    return path


def read(
    path: Path, *, chunk_rows: int = feed.CHUNK_ROWS, max_disorder_ns: int = SECOND_NS, strict: bool = False
) -> tuple[Events, Checker]:
    intake = Intake(Checker(max_disorder_ns, strict))
    for rows in feed.read_blocks(path, chunk_rows=chunk_rows):
        intake.add(rows)
    return intake.buffer.events(), intake.checker


def assert_equal(a: Events, b: Events) -> None:
    assert a.publisher_ids == b.publisher_ids
    for name, _ in EVENT_DTYPES:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def refusal(path: Path) -> str:
    """What `load` says of a file it cannot use: one line that begins with the file's name."""
    with pytest.raises(FeedError) as caught:
        feed.load(path, Intake(Checker(SECOND_NS)))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# --- formats --------------------------------------------------------------------------------------------------------


def test_mbp1_file_row_by_row():
    events, checker = read(DATA / "mbp1_small.csv")
    assert checker.rejects.total == 0
    assert events.publisher_ids == (2, 9, 19)
    assert events.venue.tolist() == [0, 1, 1, 1, 2, 0]
    assert events.action.tolist() == [QUOTE, QUOTE, TRADE, QUOTE, TRADE, CLEAR]
    assert (events.ts_ns - T0_NS).tolist() == [1, 1, SECOND_NS, SECOND_NS, 2 * SECOND_NS, 3 * SECOND_NS]
    assert events.bid_px_e4.tolist() == [100_000, 99_900, 0, 99_900, 0, 0]
    assert events.ask_px_e4.tolist() == [100_200, 100_100, 0, 0, 0, 0]
    assert events.bid_sz.tolist() == [300, 100, 0, 100, 0, 0]
    assert events.ask_sz.tolist() == [400, 200, 0, 0, 0, 0]
    assert events.trade_px_e4.tolist() == [0, 0, 100_100, 0, 100_125, 0]
    assert events.trade_sz.tolist() == [0, 0, 50, 0, 700, 0]


def test_mbp10_level_by_level_with_unnamed_index_and_extra_columns_gives_the_same_events():
    assert_equal(read(DATA / "mbp10_small.csv")[0], read(DATA / "mbp1_small.csv")[0])


def test_columns_in_any_order(tmp_path):
    backwards = ",".join(reversed(HEADER.split(",")))
    path = csv_file(tmp_path, *(line(s, backwards) for s in range(5)), header=backwards)
    assert_equal(read(path)[0], read(csv_file(tmp_path, *map(line, range(5)), name="b.csv"))[0])


def test_unnamed_index_column_is_ignored(tmp_path):
    path = csv_file(tmp_path, *(f"{s}," + line(s) for s in range(5)), header="," + HEADER)
    assert_equal(read(path)[0], read(csv_file(tmp_path, *map(line, range(5)), name="b.csv"))[0])


def test_fields_beyond_the_header_are_ignored_in_all_rows_or_in_one(tmp_path):
    plain, _ = read(csv_file(tmp_path, *map(line, range(5))))
    assert_equal(read(csv_file(tmp_path, *(line(s) + "," for s in range(5)), name="all.csv"))[0], plain)
    some = [line(s) + (",x,y" if s == 3 else "") for s in range(5)]
    assert_equal(read(csv_file(tmp_path, *some, name="one.csv"))[0], plain)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 1000])
def test_integer_nanoseconds_and_iso_times_give_the_same_events(tmp_path, chunk_rows):
    whole = csv_file(tmp_path, *(line(s, ts_event=T0_NS + s * SECOND_NS) for s in range(5)), name="whole.csv")
    iso = csv_file(tmp_path, *map(line, range(5)))
    assert_equal(read(whole, chunk_rows=chunk_rows)[0], read(iso)[0])


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_other_systems(tmp_path, end):
    path = csv_file(tmp_path, *map(line, range(5)), line(5, action="X"), end=end)
    events, checker = read(path)
    assert (len(events), checker.rejects.summary()) == (5, {"unknown_action": {"count": 1, "first_line": 7}})


def test_byte_order_mark_before_the_header(tmp_path):
    first_column_used = HEADER.removeprefix("ts_recv,")
    path = csv_file(tmp_path, *(line(s, first_column_used) for s in range(5)), header="\ufeff" + first_column_used)
    assert len(read(path)[0]) == 5


def test_no_line_end_after_the_last_row(tmp_path):
    path = csv_file(tmp_path, *map(line, range(5)))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read(path)[0]) == 5


@pytest.mark.parametrize("name", ["day.csv.gz", "day.csv"])
def test_gzip_whatever_it_is_called(tmp_path, name):
    plain = csv_file(tmp_path, *map(line, range(5)), name="plain.csv")
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert_equal(read(path)[0], read(plain)[0])


def test_quoted_file_is_read_as_csv(tmp_path):
    quote = '"{}"'.format
    rows = [",".join(map(quote, line(s).split(","))) for s in range(5)]
    path = csv_file(tmp_path, *rows, header=",".join(map(quote, HEADER.split(","))))
    assert_equal(read(path)[0], read(csv_file(tmp_path, *map(line, range(5)), name="b.csv"))[0])


def test_stray_quote_spoils_its_own_row_only(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, price='"10'), line(2), line(3, symbol='"SIM'), line(4))
    intake = Intake(Checker(SECOND_NS), "SIM")
    feed.load(path, intake)
    assert intake.buffer.events().ask_sz.tolist() == [1, 3, 5]
    assert intake.checker.rejects.summary() == {"unreadable_number": {"count": 1, "first_line": 3}}
    assert intake.other_symbol_rows == 1


def test_nul_bytes_never_shorten_a_number(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, ask_sz_00="2\0000"), line(2, ts_event="\0"), line(3))
    events, checker = read(path)
    assert events.ask_sz.tolist() == [1, 4]
    assert checker.rejects.kind_of_line() == {3: "unreadable_number", 4: "unreadable_time"}


def test_bytes_that_are_no_utf8_spoil_their_own_row_only(tmp_path):
    path = csv_file(tmp_path, *map(line, range(4)))
    rows = path.read_bytes().split(b"\n")
    rows[2] = rows[2].replace(b",300,", b",3\xff0,", 1)
    rows[3] = rows[3].replace(b",A,", b",\xff,", 1)
    path.write_bytes(b"\n".join(rows))
    events, checker = read(path)
    assert events.ask_sz.tolist() == [1, 4]
    assert checker.rejects.kind_of_line() == {3: "unreadable_number", 4: "unknown_action"}


# --- times ----------------------------------------------------------------------------------------------------------


def times_of(*texts: str) -> list[int]:
    return feed.parse_times(np.array([text.encode() for text in texts], "S40")).tolist()


@pytest.mark.parametrize(
    ("text", "after_t0_ns"),
    [
        ("2024-08-05T14:00:00.000000001Z", 1),
        ("2024-08-05T14:00:00Z", 0),
        ("2024-08-05 14:00:00.5", SECOND_NS // 2),
        ("2024-08-05T16:00:00.25+02:00", SECOND_NS // 4),
        (" 2024-08-05T14:00:00Z ", 0),
        (f"{T0_NS + 7}", 7),
    ],
)
def test_forms_of_a_time(text, after_t0_ns):
    assert times_of(text) == [T0_NS + after_t0_ns]


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "now", "today", "NaT", "nan", "-5", "1.7e18", "2024-13-01T00:00:00.000000000Z"),
        *("2024-02-30T00:00:00.000000000Z", "2024-08-05T25:00:00.000000000Z", "2024-08-05T14:00:00.00000000xZ"),
        *("0001-01-01T00:00:00.000000000Z", "9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59Z", "9999-12-31"),
        *("18446744073709551615", "9" * 40, "²", "٣", "2024-08-05T14:00:00.0000000+5Z"),
    ],
)
def test_what_is_no_time(text):
    good = "2024-08-05T14:00:00.000000001Z"
    assert times_of(good, text, good) == [T0_NS + 1, NO_TIME, T0_NS + 1]


def test_no_times_of_no_texts():
    assert times_of() == []


@given(st.lists(st.integers(-8 * 10**18, 7 * 10**18), min_size=1), st.sampled_from(["", "x"]))
def test_written_times_are_read_back_on_both_paths(times_ns, other):
    texts = [f"{np.datetime64(ns, 'ns')}Z" for ns in times_ns]
    assert times_of(*texts, *[other] * bool(other))[: len(texts)] == times_ns


@given(st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2199, 12, 31)), max_size=20))
def test_times_equal_those_of_the_standard_library(moments):
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    utc = [moment.replace(tzinfo=timezone.utc) for moment in moments]
    micros = [(moment - epoch) // timedelta(microseconds=1) for moment in utc]
    assert times_of(*(moment.isoformat() for moment in utc)) == [1000 * micro for micro in micros]


# --- damaged rows ---------------------------------------------------------------------------------------------------

DAMAGE = {
    "blank_line": "",
    "unreadable_time": {"ts_event": "yesterday"},
    "unreadable_number": {"bid_px_00": "ten"},
    "unknown_action": {"action": "X"},
    "no_symbol": {"symbol": ""},
    "negative_or_infinite": {"ask_sz_00": -5},
    "out_of_range": {"ask_px_00": "10020000000"},
    "finer_than_tick": {"ask_px_00": "10.02005"},
    "price_without_size": {"bid_sz_00": 0},
    "crossed": {"bid_px_00": "10.03"},
    "out_of_order": {"ts_event": "2024-08-05T13:00:00.000000000Z"},
}


def damaged(second: int, kind: str) -> str:
    return DAMAGE[kind] if kind == "blank_line" else line(second, **DAMAGE[kind])


def test_every_kind_a_file_can_have_is_tried_here():
    assert set(DAMAGE) == set(REJECT_KINDS) - {"undecodable"}  # that one is of messages


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_row_is_counted_with_its_line_and_the_others_stay_as_they_were(tmp_path, kind, chunk_rows):
    lines = [line(s) for s in range(20)]
    lines[5] = damaged(5, kind)  # line 7 of the file
    lines[11] = damaged(11, kind)
    events, checker = read(csv_file(tmp_path, *lines), chunk_rows=chunk_rows)
    assert checker.rejects.summary() == {kind: {"count": 2, "first_line": 7}}
    assert checker.rejects.kind_of_line() == {7: kind, 13: kind}
    assert events.ask_sz.tolist() == [1 + s for s in range(20) if s not in (5, 11)]


BAD_NUMBERS = [
    "NaN",
    "nan",
    "NULL",
    "None",
    "1O0",
    "1;0",
    " ",
    "True",
    "0x10",
    "1_000",
    "--5",
    "1 0",
    "1+2j",
]


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_text_in_a_number_column_is_unreadable_in_one_row_or_in_all_of_a_chunk(tmp_path, text, everywhere):
    rows = [line(s, bid_sz_00=text) if everywhere or s == 1 else line(s) for s in range(3)]
    checker = Checker(SECOND_NS)
    good = sum(map(len, feed.good_blocks(csv_file(tmp_path, *rows), checker)))
    assert checker.rejects.summary() == {"unreadable_number": {"count": 3 - good, "first_line": 2 if everywhere else 3}}
    assert good == (0 if everywhere else 2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("inf", "negative_or_infinite"), ("-inf", "negative_or_infinite")),
        *(("9" * 30, "out_of_range"), ("18446744073709551615", "out_of_range"), ("-1e30", "negative_or_infinite")),
        *(("-" + "9" * 30, "negative_or_infinite"), ("9223372036854775807", "out_of_range")),
    ],
)
@pytest.mark.parametrize("column", ["publisher_id", "size", "bid_px_00", "ask_sz_00", "sequence"])
@pytest.mark.parametrize("beside", [{}, {"sequence": "x"}])
def test_huge_numbers_are_set_aside_however_the_chunk_was_typed(tmp_path, text, kind, column, beside):
    rows = [line(0), line(1, **{column: text}), line(2), line(3, **beside)]
    events, checker = read(csv_file(tmp_path, *rows))
    assert checker.rejects.kind_of_line()[3] == kind
    assert events.ask_sz.tolist()[:2] == [1, 3]


def test_number_beyond_float64_is_set_aside(tmp_path):
    events, checker = read(csv_file(tmp_path, line(0), line(1, bid_px_00="1e400"), line(2)))
    assert events.ask_sz.tolist() == [1, 3]
    assert list(checker.rejects.kind_of_line()) == [3]  # infinite or unreadable: pandas 2 and 3 differ


def test_short_rows_are_set_aside(tmp_path):
    rows = [line(0), line(1)[:40], line(2)[:-4], line(3)]
    events, checker = read(csv_file(tmp_path, *rows))
    assert events.ask_sz.tolist() == [1, 4]
    assert list(checker.rejects.kind_of_line()) == [3, 4]


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 1000])
def test_rows_in_the_future_do_not_put_the_day_out_of_order_whatever_the_chunks(tmp_path, chunk_rows):
    rows = [line(s) for s in range(40)]
    future = {"ts_event": "2031-01-01T00:00:00.000000000Z"}
    wrong = [0, 9, 10, 19, 20, 21, 22, 33]
    for at in wrong:
        rows[at] = line(at, **future)
    rows.insert(12, "")  # line 14
    events, checker = read(csv_file(tmp_path, *rows), chunk_rows=chunk_rows)
    assert events.ask_sz.tolist() == [1 + s for s in range(40) if s not in wrong]
    assert checker.rejects.summary()["out_of_order"] == {"count": 8, "first_line": 2}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk_rows", [50, 1000])
def test_events_with_one_row_in_a_hundred_damaged_are_those_of_the_file_without_it(tmp_path, seed, chunk_rows):
    draw = random.Random(seed)
    lines, spoilt, first = [], [], {}
    for second in range(2_000):
        lines.append(line(second, bid_px_00=f"{9 + draw.random():.4f}", action=draw.choice("AMCTR")))
        if draw.random() < 0.01:
            kind = draw.choice(list(DAMAGE))
            first.setdefault(kind, second + 2)
            spoilt.append(damaged(second, kind))
        else:
            spoilt.append(lines[-1])
    rest = [good for good, kept in zip(lines, spoilt, strict=True) if good is kept]
    events, checker = read(csv_file(tmp_path, *spoilt), chunk_rows=chunk_rows)
    assert_equal(events, read(csv_file(tmp_path, *rest, name="rest.csv"))[0])
    assert checker.rejects.total == len(lines) - len(rest)
    assert {kind: count["first_line"] for kind, count in checker.rejects.summary().items()} == first


@given(st.lists(st.integers(1, 2 * 10**14), min_size=1, max_size=20))
def test_nine_decimals_are_parsed_to_the_nearest_float(tmp_path_factory, prices_e9):
    texts = [f"{px // 10**9}.{px % 10**9:09d}" for px in prices_e9]
    path = csv_file(tmp_path_factory.mktemp("prices"), *(line(0, price=text) for text in texts))
    (rows,) = feed.read_blocks(path)
    assert rows.price.tolist() == [float(text) for text in texts]


# --- strict, rejects, summary ---------------------------------------------------------------------------------------


def test_strict_stops_at_the_first_bad_row_with_its_line(tmp_path):
    path = csv_file(tmp_path, line(0), "", line(2, bid_px_00="10.03"))
    with pytest.raises(FeedError, match=r"^strict: line 3: blank line .*a row must hold values$"):
        read(path, strict=True)


def test_disorder_beyond_the_bound_is_set_aside_and_within_it_counted(tmp_path):
    path = csv_file(tmp_path, *map(line, (0, 5, 3, 4, 6)))
    events, checker = read(path)
    assert (events.ask_sz.tolist(), checker.disordered) == ([1, 6, 5, 7], 1)
    assert checker.rejects.kind_of_line() == {4: "out_of_order"}
    events, checker = read(path, max_disorder_ns=2 * SECOND_NS)
    assert (events.ask_sz.tolist(), checker.disordered, checker.rejects.total) == ([1, 6, 4, 5, 7], 2, 0)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rejects_file_holds_the_lines_as_they_stand_with_number_and_kind(tmp_path, end):
    bad, worse = line(1, action="X"), line(3, price='"1"')
    path = csv_file(tmp_path, line(0), bad, "", worse, end=end)
    _, checker = read(path)
    feed.write_rejects(path, checker.rejects, tmp_path / "rejects.csv")
    quoted = '"' + worse.replace('"', '""') + '"'
    assert (tmp_path / "rejects.csv").read_text() == (
        f'line,kind,row\n3,unknown_action,"{bad}"\n4,blank_line,\n5,unreadable_number,{quoted}\n'
    )


def test_rejects_file_of_a_gzip_with_byte_order_mark(tmp_path):
    plain = csv_file(tmp_path, line(0), line(1, action="X"), header="\ufeff" + HEADER)
    path = tmp_path / "day.csv.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    _, checker = read(path)
    feed.write_rejects(path, checker.rejects, tmp_path / "rejects.csv")
    assert (tmp_path / "rejects.csv").read_text().splitlines()[1].startswith("3,unknown_action,")


def test_rejects_file_shows_what_is_no_text_as_such(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, price="1\0"))
    path.write_bytes(path.read_bytes().replace(b",1,2,1,A,N,0,1", b",1,2,1,\xff,N,0,1"))
    feed.write_rejects(path, read(path)[1].rejects, tmp_path / "rejects.csv")
    assert "1,2,1,\ufffd,N,0,1\ufffd,300" in (tmp_path / "rejects.csv").read_text(encoding="utf-8")


def test_rejects_file_that_cannot_be_written_is_a_usage_error(tmp_path):
    path = csv_file(tmp_path, line(0))
    with pytest.raises(UsageError, match="cannot be written: Is a directory; it must be a file"):
        feed.write_rejects(path, Checker(0).rejects, tmp_path)


def test_summary_counts_rows_timestamps_venues_and_symbols():
    summary = feed.summarise(DATA / "mbp1_small.csv", Checker(SECOND_NS))
    assert (summary.rows, summary.timestamps) == (6, 4)
    assert (summary.first_ns - T0_NS, summary.last_ns - T0_NS) == (1, 3 * SECOND_NS)
    assert (summary.symbols, summary.venues) == ({"SIM": 6}, {2: 2, 9: 3, 19: 1})


def test_identity_is_the_name_and_sha256_of_the_bytes(tmp_path):
    path = csv_file(tmp_path, line(0))
    assert feed.identify(path) == feed.FileIdentity("day.csv", hashlib.sha256(path.read_bytes()).hexdigest())


# --- files of no use ------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "none.csv").endswith(
        "No such file or directory; it must be a CSV file, plain or .gz, or a Parquet file"
    )
    with pytest.raises(FeedError, match="No such file or directory"):
        feed.identify(tmp_path / "none.csv")


def test_directory(tmp_path):
    assert "Is a directory" in refusal(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "day.csv").touch()
    assert "there is no header; it must be a Databento MBP-1 or MBP-10 CSV" in refusal(tmp_path / "day.csv")


def test_header_only(tmp_path):
    assert refusal(csv_file(tmp_path)).endswith("holds no usable row")


@pytest.mark.parametrize("missing", feed.COLUMNS)
def test_missing_column_is_named(tmp_path, missing):
    header = ",".join(name for name in HEADER.split(",") if name != missing)
    path = csv_file(tmp_path, line(0, header), header=header)
    assert f"the header lacks {missing}; it must be a Databento MBP-1 or MBP-10 CSV" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0", b'{"a": 1}\n', b"\0" * 100, b"\xff\xfe\n", b"a;b;c\n1;2;3\n"]
)
def test_another_format(tmp_path, content):
    path = tmp_path / "day.csv"
    path.write_bytes(content)
    assert "comma-separated" in refusal(path)


def test_truncated_gzip(tmp_path):
    path = tmp_path / "day.csv.gz"
    packed = gzip.compress(csv_file(tmp_path, *map(line, range(500))).read_bytes())
    path.write_bytes(packed[: len(packed) // 2])
    assert "cannot be read to its end: Compressed file ended before" in refusal(path)


def test_gzip_with_a_flipped_byte(tmp_path):
    path = tmp_path / "day.csv.gz"
    packed = bytearray(gzip.compress(csv_file(tmp_path, *map(line, range(500))).read_bytes()))
    packed[-6] ^= 1  # of the checksum
    path.write_bytes(packed)
    assert "cannot be read to its end: CRC check failed" in refusal(path)


def test_file_with_no_good_row_says_what_is_wrong_with_the_first(tmp_path):
    path = csv_file(tmp_path, line(0, action="X"), line(1, bid_px_00="10.03"))
    message = refusal(path)
    assert "holds no usable row; line 2: unknown action (" in message
    with pytest.raises(FeedError, match="holds no usable row; line 2: unknown action"):
        feed.summarise(path, Checker(SECOND_NS))


def test_symbol_that_is_not_in_the_file_is_named(tmp_path):
    with pytest.raises(FeedError, match="holds no usable row of symbol AAPL"):
        feed.load(csv_file(tmp_path, line(0)), Intake(Checker(SECOND_NS), "AAPL"))


def test_unbalanced_quote_in_a_quoted_file_spoils_its_own_row_only(tmp_path):
    path = csv_file(tmp_path, line(0), line(1, symbol='"SIM'), line(2), header=HEADER.replace("symbol", '"symbol"'))
    intake = Intake(Checker(SECOND_NS), "SIM")
    feed.load(path, intake)
    assert intake.buffer.events().ask_sz.tolist() == [1, 3]
    assert intake.other_symbol_rows == 1


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["real_dev_10min.csv", "databento_mbp10_arl.csv.gz"])
def test_real_file_in_small_chunks_equals_the_file_at_once(name):
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    whole, checker = read(SHARED / name)
    assert checker.rejects.total == 0
    assert_equal(read(SHARED / name, chunk_rows=97)[0], whole)


def test_genuine_export_begins_with_a_clear_and_has_sides_withdrawn():
    path = SHARED / "databento_mbp10_arl.csv.gz"
    if not path.exists():
        pytest.skip(f"../shared/data/{path.name} is not here")
    events, _ = read(path)
    quotes = events.action == QUOTE
    assert (len(events), events.action[0], int((events.action == TRADE).sum())) == (3_928, CLEAR, 46)
    assert (int((quotes & (events.bid_px_e4 == 0)).sum()), int((quotes & (events.ask_px_e4 == 0)).sum())) == (2, 4)
