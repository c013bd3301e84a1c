"""Messages: the text of one, the way there and back, and payloads that are none."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sor import contract, feed
from sor.contract import EndRecord, StartRecord
from sor.errors import StreamError
from sor.events import EVENT_DTYPES, NO_TIME, Checker, Events, Intake, RowBlock

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data"
SECOND_NS = 10**9
HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence"
APPLE = "2024-08-01T13:36:32.491911683Z,2,AAPL,A,B,222.83,100,222.82,222.86,36,100,7"
MESSAGE = (
    b'{"ts_event":"2024-08-01T13:36:32.491911683Z","publisher_id":2,"symbol":"AAPL","action":"A","side":"B",'
    b'"price":222.83,"size":100,"bid_px_00":222.82,"ask_px_00":222.86,"bid_sz_00":36,"ask_sz_00":100,"sequence":7}'
)


def good_rows(folder: Path, *lines: str) -> RowBlock:
    path = folder / "day.csv"
    path.write_text("\n".join((HEADER, *lines)), encoding="utf-8")
    (rows,) = feed.good_blocks(path, Checker(SECOND_NS))
    assert len(rows) == len(lines)
    return rows


def message(**changed: object) -> bytes:
    return json.dumps({**json.loads(MESSAGE), **changed}).encode()


def kinds(*payloads: bytes) -> dict[int, str]:
    """{row: kind} of the payloads that are set aside."""
    checker = Checker(SECOND_NS)
    checker.good(contract.decode_rows(payloads, 0))
    return checker.rejects.kind_of_line()


def assert_equal(a: Events, b: Events) -> None:
    assert a.publisher_ids == b.publisher_ids
    for name, _ in EVENT_DTYPES:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


# --- the text -------------------------------------------------------------------------------------------------------


def test_message_is_the_one_of_the_contract(tmp_path):
    assert contract.encode_rows(good_rows(tmp_path, APPLE)) == [MESSAGE]


def test_what_is_empty_in_the_file_is_null_in_the_message(tmp_path):
    rows = good_rows(tmp_path, "2024-08-01T13:36:32Z,2,AAPL,R,N,,0,,,,,")
    assert json.loads(contract.encode_rows(rows)[0]) == {
        **{
            "ts_event": "2024-08-01T13:36:32.000000000Z",
            "publisher_id": 2,
            "symbol": "AAPL",
            "action": "R",
            "side": "N",
        },
        **{"price": None, "size": 0, "bid_px_00": None, "ask_px_00": None},
        **{"bid_sz_00": None, "ask_sz_00": None, "sequence": None},
    }


def test_databento_decimals_are_written_short(tmp_path):
    (payload,) = contract.encode_rows(good_rows(tmp_path, APPLE.replace("222.83", "222.830000000")))
    assert payload == MESSAGE


def test_integer_times_are_written_as_iso(tmp_path):
    rows = good_rows(tmp_path, APPLE.replace("2024-08-01T13:36:32.491911683Z", "1722519392491911683"))
    assert contract.encode_rows(rows) == [MESSAGE]


def test_symbol_with_quotes_and_other_letters_stays_json(tmp_path):
    (payload,) = contract.encode_rows(good_rows(tmp_path, APPLE.replace("AAPL", 'Å"\\B')))
    assert json.loads(payload)["symbol"] == 'Å"\\B'


def test_any_json_decoder_reads_every_message():
    rows = next(feed.read_blocks(DATA / "mbp1_small.csv"))
    fields = list(json.loads(MESSAGE))
    assert all(list(json.loads(payload)) == fields for payload in contract.encode_rows(rows))


# --- there and back -------------------------------------------------------------------------------------------------


def through_messages(path: Path, block_rows: int) -> tuple[Events, Events]:
    """The events of a file read directly, and of its good rows sent as messages and decoded in blocks."""
    direct, sent = Intake(Checker(SECOND_NS)), Intake(Checker(SECOND_NS))
    feed.load(path, direct)
    payloads = [
        payload for rows in feed.good_blocks(path, Checker(SECOND_NS)) for payload in contract.encode_rows(rows)
    ]
    for first in range(0, len(payloads), block_rows):
        sent.add(contract.decode_rows(payloads[first : first + block_rows], first))
    assert sent.checker.rejects.total == 0
    assert (sent.checker.disordered, sent.symbol) == (direct.checker.disordered, direct.symbol)
    return direct.buffer.events(), sent.buffer.events()


@pytest.mark.parametrize("block_rows", [1, 4, 100])
@pytest.mark.parametrize("name", ["mbp1_small.csv", "mbp10_small.csv"])
def test_messages_give_the_events_of_the_file(name, block_rows):
    assert_equal(*through_messages(DATA / name, block_rows))


@pytest.mark.parametrize("name", ["real_dev_10min.csv", "databento_mbp10_arl.csv.gz"])
def test_messages_give_the_events_of_a_real_file(name):
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not here")
    assert_equal(*through_messages(SHARED / name, 500))


@pytest.mark.parametrize("seed", range(5))
def test_messages_of_a_file_with_damage_and_disorder_give_its_events(tmp_path, seed):
    draw = random.Random(seed)
    lines = []
    for second in range(500):
        time = draw.choices([second, second - 1, second - 3, 3000], [90, 6, 3, 1])[0]
        action = draw.choices("ACMTRX", [40, 9, 40, 8, 2, 1])[0]
        bid = draw.choice(["10.0", "10.02", "", "0", "10.5"])
        lines.append(
            f"{(1_722_519_392 + time) * SECOND_NS},{draw.choice([2, 9, 43])},S,{action},N,10,5,{bid},10.1,7,8,{second}"
        )
    path = tmp_path / "day.csv"
    path.write_text("\n".join((HEADER, *lines)))
    assert_equal(*through_messages(path, draw.choice([1, 7, 100])))


whole = st.one_of(st.none(), st.integers(0, 2**31 - 1))
dollars = st.one_of(st.none(), st.floats(0, 214_748))
rows = st.builds(
    contract.Row,
    ts_event=st.integers(0, 7 * 10**18).map(lambda ns: f"{np.datetime64(ns, 'ns')}Z"),
    publisher_id=st.integers(0, 65_535),
    symbol=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40),
    action=st.sampled_from("ACMTR"),
    side=st.sampled_from(["A", "B", "N", ""]),
    **dict.fromkeys(("price", "bid_px_00", "ask_px_00"), dollars),
    **dict.fromkeys(("size", "bid_sz_00", "ask_sz_00"), whole),
    sequence=st.one_of(st.none(), st.integers(0, 2**53)),
)


@given(st.lists(rows, max_size=10))
def test_any_row_comes_back_as_it_was(sent):
    payloads = [msgspec.json.encode(row) for row in sent]
    block = contract.decode_rows(payloads, 0)
    assert not block.parse_kind.any()
    assert contract.encode_rows(block) == payloads


def test_rows_are_numbered_from_the_first():
    assert contract.decode_rows([MESSAGE] * 3, 70).line.tolist() == [70, 71, 72]


def test_no_payloads_are_no_rows():
    assert len(contract.decode_rows([], 5)) == 0
    assert contract.encode_rows(contract.decode_rows([], 5)) == []


def test_fields_of_a_later_schema_are_ignored():
    assert kinds(message(depth=0)) == {}


# --- payloads that are none -----------------------------------------------------------------------------------------

HOSTILE = {
    "empty": (b"", "undecodable"),
    "cut off": (MESSAGE[:-20], "undecodable"),
    "followed by more": (MESSAGE + b"}", "undecodable"),
    "two in one": (MESSAGE + MESSAGE, "undecodable"),
    "array": (b"[1,2,3]", "undecodable"),
    "text": (b'"row"', "undecodable"),
    "null": (b"null", "undecodable"),
    "number": (b"7", "undecodable"),
    "no field": (b"{}", "undecodable"),
    "field missing": (MESSAGE.replace(b'"sequence":7', b'"seq":7'), "undecodable"),
    "NaN": (MESSAGE.replace(b"222.86", b"NaN"), "undecodable"),
    "Infinity": (MESSAGE.replace(b"222.86", b"Infinity"), "undecodable"),
    "price as text": (message(ask_px_00="222.86"), "undecodable"),
    "price a list": (message(ask_px_00=[222.86]), "undecodable"),
    "size true": (message(ask_sz_00=True), "undecodable"),
    "half a share": (message(ask_sz_00=0.5), "undecodable"),
    "time a number": (message(ts_event=1722519392491911683), "undecodable"),
    "time null": (message(ts_event=None), "undecodable"),
    "no UTF-8": (MESSAGE.replace(b"AAPL", b"\xff\xfe"), "undecodable"),
    "no UTF-8 outside a text": (b"\xff\xfe" + MESSAGE, "undecodable"),
    "integer beyond 64 bits": (MESSAGE.replace(b"36", b"9" * 40), "undecodable"),
    "integer of 10,000 digits": (MESSAGE.replace(b"36", b"9" * 10_000), "undecodable"),
    "symbol of a megabyte": (message(symbol="A" * 1_000_000), "undecodable"),
    "time of a megabyte": (message(ts_event="9" * 1_000_000), "undecodable"),
    "arrays in arrays": (b"[" * 100_000, "undecodable"),
    "arrays in arrays in a field nobody knows": (
        MESSAGE[:-1] + b',"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "undecodable",
    ),
    "half a surrogate": (MESSAGE.replace(b"AAPL", b"\\ud800"), "undecodable"),
    "publisher null": (message(publisher_id=None), "undecodable"),
    "time of words": (message(ts_event="now"), "unreadable_time"),
    "time empty": (message(ts_event=""), "unreadable_time"),
    "time of other digits": (message(ts_event="²"), "unreadable_time"),
    "year 9999": (message(ts_event="9999-12-31T23:59:59Z"), "unreadable_time"),
    "symbol empty": (message(symbol=""), "no_symbol"),
    "action of two letters": (message(action="AA"), "unknown_action"),
    "action empty": (message(action=""), "unknown_action"),
    "action Ā, whose code ends like that of another letter": (message(action="Ā"), "unknown_action"),
    "negative size": (message(ask_sz_00=-1), "negative_or_infinite"),
    "size beyond 32 bits": (message(ask_sz_00=2**31), "out_of_range"),
    "size beyond 53 bits": (message(bid_sz_00=2**63 - 1), "out_of_range"),
    "publisher beyond 16 bits": (message(publisher_id=65_536), "out_of_range"),
    "negative sequence": (message(sequence=-(2**63)), "negative_or_infinite"),
    "huge price": (message(ask_px_00=1e300), "out_of_range"),
    "crossed": (message(bid_px_00=222.87), "crossed"),
}


@pytest.mark.parametrize(("payload", "kind"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_payload_is_counted_under_its_kind_and_the_others_stay(payload, kind):
    assert kinds(MESSAGE, payload, MESSAGE) == {1: kind}


def test_all_hostile_payloads_at_once():
    payloads = [payload for bad, _ in HOSTILE.values() for payload in (MESSAGE, bad)]
    assert kinds(*payloads) == {2 * i + 1: kind for i, (_, kind) in enumerate(HOSTILE.values())}


@pytest.mark.parametrize("number", [b"1e400", b"-1e400"])
def test_float_beyond_float64_is_set_aside(number):
    assert set(kinds(MESSAGE.replace(b"222.86", number))) == {0}


@given(st.binary(max_size=60))
def test_any_bytes_decode_to_a_marked_row(payload):
    assert list(kinds(payload)) == [0]


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
def test_message_with_one_byte_changed_never_stops_the_reader(at, change):
    payload = MESSAGE[:at] + bytes([MESSAGE[at] ^ change]) + MESSAGE[at + 1 :]
    block = contract.decode_rows([MESSAGE, payload, MESSAGE], 0)
    assert block.parse_kind[[0, 2]].tolist() == [0, 0]
    assert (block.ts_ns[[0, 2]] != NO_TIME).all()
    Checker(SECOND_NS).good(block)


# --- headers, records, checksum -------------------------------------------------------------------------------------

START = StartRecord(run_id="r1", file="day.csv", sha256="ab", schema_version=1, symbols=["SIM"], rows=2, speed=0.0)
END = EndRecord(run_id="r1", rows_sent=2, rejects={"crossed": {"count": 1, "first_line": 3}}, disordered=0, crc32=5)


def test_headers_name_run_and_row_or_record():
    assert contract.row_headers("r1", 12) == [("run", b"r1"), ("row", b"12")]
    assert contract.record_headers("r1", contract.END) == [("run", b"r1"), ("record", b"end")]


def test_records_come_back_as_they_were():
    assert contract.decode_record(contract.encode_record(START), StartRecord) == START
    assert contract.decode_record(contract.encode_record(END), EndRecord) == END


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b'{"run_id":1}', MESSAGE, b"[" * 100_000])
@pytest.mark.parametrize("kind", [StartRecord, EndRecord])
def test_record_that_is_none_is_a_stream_error(payload, kind):
    with pytest.raises(StreamError, match=f"a {kind.__name__} cannot be decoded"):
        contract.decode_record(payload, kind)


@given(st.lists(st.binary(max_size=20)), st.integers(0, 20))
def test_checksum_continues_over_any_blocks(payloads, cut):
    in_two = contract.crc32(payloads[cut:], contract.crc32(payloads[:cut]))
    assert in_two == contract.crc32(payloads) == zlib.crc32(b"".join(payloads))
