"""What is an event of a price and what is not: bytes and headers of a message, by hand, and against docs/price-event.schema.json."""

from __future__ import annotations

import datetime
import decimal
import json
import re
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import events
from app.events import BadEventError, PriceEvent

SCHEMA = json.loads(
    (Path(__file__).parent.parent / "docs" / "price-event.schema.json").read_text(), parse_float=decimal.Decimal
)
NOW = datetime.datetime(2025, 6, 15, 20, 30, 30, tzinfo=datetime.timezone.utc)
SEED = {
    "symbol": "AAPL",
    "price": 196.45,
    "timestamp": "2025-06-15T20:30:27.283671Z",
    "provider": "yfinance",
    "raw_response_id": "1",
}
EVENT = PriceEvent(
    "AAPL",
    Decimal("196.45"),
    datetime.datetime(2025, 6, 15, 20, 30, 27, 283671, tzinfo=datetime.timezone.utc),
    "yfinance",
    "1",
)


def value(**changed: Any) -> bytes:
    """The seed's message with some fields changed; None leaves one out."""
    return json.dumps({name: each for name, each in (SEED | changed).items() if each is not None}).encode()


def reason(message: bytes | None, headers: events.Headers = ()) -> str | None:
    """Why the message is refused; None if it is not."""
    try:
        events.decode(message, headers, NOW)
    except BadEventError as error:
        return error.reason
    return None


def test_the_message_has_the_five_fields_of_the_seed_and_no_other():
    assert json.loads(events.encode(EVENT)) == SEED
    assert list(json.loads(events.encode(EVENT))) == list(SEED)
    assert events.decode(events.encode(EVENT).encode(), [], NOW) == EVENT


def test_a_price_is_written_exactly_and_plainly():
    prices = {"0.000001": "0.000001", "200.000000": "200", "1E+2": "100", "999999999999.999999": "999999999999.999999"}
    for price, text in prices.items():
        made = PriceEvent("A", Decimal(price), EVENT.timestamp, "replay", "7")
        assert f'"price":{text},' in events.encode(made)
        assert events.decode(events.encode(made).encode(), [], NOW).price == Decimal(price)


def test_the_timestamp_goes_out_in_utc_with_its_offset():
    athens = datetime.timezone(datetime.timedelta(hours=3))
    made = PriceEvent("A", Decimal(1), datetime.datetime(2025, 6, 15, 23, 30, tzinfo=athens), "replay", "7")
    assert '"timestamp":"2025-06-15T20:30:00Z"' in events.encode(made)


def test_a_timestamp_is_read_as_utc_for_postgresql_refuses_offsets_of_16_hours_and_more():
    read = events.decode(value(timestamp="2025-06-15T20:30:27+23:00"), [], NOW).timestamp
    assert read.isoformat() == "2025-06-14T21:30:27+00:00"


def test_an_event_that_its_readers_would_refuse_is_not_written():
    for symbol, price in (("aapl", "1"), ("AAPL", "0"), ("AAPL", "0.0000001"), ("AAPL\n", "1")):
        with pytest.raises(BadEventError):
            events.encode(PriceEvent(symbol, Decimal(price), EVENT.timestamp, "replay", "7"))


def test_the_id_of_an_event_depends_on_provider_symbol_time_and_price_alone():
    other_zone = EVENT.timestamp.astimezone(datetime.timezone(datetime.timedelta(hours=-4)))
    same = PriceEvent("AAPL", Decimal("196.450000"), other_zone, "yfinance", "2")
    other = PriceEvent("AAPL", Decimal("196.450001"), EVENT.timestamp, "yfinance", "1")
    told = "yfinance|AAPL|2025-06-15T20:30:27.283671+00:00|196.450000"
    assert same.event_id == EVENT.event_id == uuid.uuid5(events.NAMESPACE, told)
    assert other.event_id != EVENT.event_id


def test_headers_carry_id_version_and_the_trace_where_there_is_one():
    expected = [("event_id", str(EVENT.event_id).encode()), ("schema_version", b"1")]
    assert events.headers(EVENT.event_id, None) == expected
    assert events.headers(EVENT.event_id, "00-1-2-01") == [*expected, ("traceparent", b"00-1-2-01")]
    assert EVENT.key == "yfinance:AAPL"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\xff\xfe", "not_utf8"),
        (value().replace(b"AAPL", b"AAP\xe9"), "not_utf8"),
        (b"{", "not_json"),
        (value() + b"}", "not_json"),
        (value().replace(b"196.45", b"NaN"), "not_json"),
        (b"[" * 100_000, "schema"),
        (b"[]", "schema"),
        (value(price="196.45"), "schema"),
        (value(price="é" * 30), "schema"),
        (value(price=True), "schema"),
        (value(price=0), "schema"),
        (value(price=-1), "schema"),
        (value(price=1e12), "schema"),
        (value(price=0.0000001), "schema"),
        (value(price=None), "schema"),
        (value().replace(b"196.45", b"[" * 100_000 + b"]" * 100_000), "schema"),
        (value(symbol="aapl"), "schema"),
        (value(symbol="AAPL\n"), "schema"),
        (value(timestamp="2025-06-15T20:30:27"), "schema"),
        (value(timestamp="2025-06-15 20:30:27Z"), "schema"),
        (value(timestamp="2025-02-29T00:00:00Z"), "schema"),
        (value(timestamp=1750019427), "schema"),
        (value(timestamp="0001-01-01T00:00:00+23:59"), "schema"),
        (value(timestamp="9999-12-31T23:59:59-00:01"), "schema"),
        (value(raw_response_id=1), "schema"),
        (value(currency="USD"), "schema"),
        (value(timestamp="2025-06-15T20:35:30.000001Z"), "future_timestamp"),
        (value(timestamp="2025-06-15T22:35:31+02:00"), "future_timestamp"),
    ],
)
def test_a_bad_message_is_told_by_its_reason(message: bytes | None, expected: str):
    assert reason(message) == expected


def test_five_minutes_ahead_is_not_the_future_yet():
    assert events.decode(value(timestamp="2025-06-15T20:35:30Z"), [], NOW).timestamp > NOW


def test_another_version_is_refused_whatever_the_message_holds():
    for version in (b"2", b"", b"1.0", b"\xff", None):
        assert reason(value(), [("schema_version", version)]) == "unknown_version"
        assert reason(b"{", [("event_id", None), ("schema_version", version)]) == "unknown_version"
    assert events.decode(value(), [("schema_version", b"1")], NOW)
    assert events.decode(value(), [("event_id", None)], NOW), "without a version it is taken for 1"


def is_date_time(text: object) -> bool:
    """RFC 3339's date-time by its own words: a day of the calendar, a time of the clock, an offset below 24 hours.

    In UTC it is of the years 1 to 9999.
    """
    found = re.fullmatch(
        r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", str(text), re.ASCII
    )
    if not found:
        return not isinstance(text, str)
    *clock, sign, hours, minutes = found.groups(default="0")
    year, month, day, hour, minute, second, *offset = map(int, (*clock, hours, minutes))
    east = datetime.timedelta(hours=offset[0], minutes=offset[1])
    try:
        datetime.datetime(year or 4, month, day, hour, minute, min(second, 59)) + (east if sign == "-" else -east)
    except (ValueError, OverflowError):
        return False
    return second <= 60 and offset[0] < 24 and offset[1] < 60


CHECKER = jsonschema.FormatChecker(formats=())
CHECKER.checks("date-time")(is_date_time)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=CHECKER)

numbers = st.one_of(
    st.decimals("-10", "1000000000010", places=8).map(str),
    st.decimals("0", "1000", places=6).map(str),
    st.tuples(st.integers(0, 10**19), st.integers(-25, 25)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.sampled_from(["0", "-0", "1e12", "999999999999.999999", "0.000001", "0.0000009", "1.50000000000", "1E-6"]),
)
zones = st.integers(-1439, 1439).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))
times = st.one_of(
    st.datetimes(max_value=datetime.datetime(2025, 6, 1), timezones=zones).map(datetime.datetime.isoformat),
    st.from_regex(
        r"\A20[0-3]\d-[01]\d-[0-3]\d[Tt _]([01]\d|2[0-4]):[0-6]\d:[0-6]\d(\.\d{0,8})?([Zz]|[+-][0-3]\d:?[0-7]\d)?\n?\Z"
    ),
)
texts = st.text(st.sampled_from("AZaz09.^=-_ \né"), max_size=17)
anything = st.one_of(st.sampled_from(["null", "true", "[]", '{"a": 1}']), numbers, texts.map(json.dumps))
fields = {
    "symbol": st.one_of(st.from_regex(r"[A-Z0-9.^=-]{1,16}\n?", fullmatch=True).map(json.dumps), anything),
    "price": st.one_of(numbers, numbers, anything),
    "timestamp": st.one_of(times.map(json.dumps), anything),
    "provider": st.one_of(st.from_regex(r"[a-z0-9_]{1,33}\n?", fullmatch=True).map(json.dumps), anything),
    "raw_response_id": st.one_of(st.from_regex(r"[0-9]{0,20}\n?", fullmatch=True).map(json.dumps), anything),
}
changes = st.sets(st.sampled_from(sorted(fields)), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: fields[name] for name in sorted(names)})
)


@hypothesis.settings(max_examples=300, deadline=None)
@given(
    changed=changes,
    extra=st.sampled_from([*[{}] * 9, {"currency": '"USD"'}]),
    missing=st.sampled_from([*[""] * 20, *SEED]),
)
def test_the_schema_and_the_reader_refuse_the_same(changed: dict[str, str], extra: dict[str, str], missing: str):
    raw = {name: json.dumps(each) for name, each in SEED.items() if name != missing}
    text = "{" + ",".join(f'"{name}":{each}' for name, each in (raw | changed | extra).items()) + "}"
    with decimal.localcontext(decimal.Context(prec=100)):
        is_valid = VALIDATOR.is_valid(json.loads(text, parse_float=decimal.Decimal))
    refused = reason(text.encode())
    assert (refused != "schema") == is_valid, text
    assert refused in (None, "schema", "future_timestamp"), text


def test_the_schema_says_what_the_seed_sends():
    VALIDATOR.validate(json.loads(events.encode(EVENT), parse_float=decimal.Decimal))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@given(
    st.binary(max_size=60),
    st.lists(st.tuples(st.text(max_size=3) | st.just("schema_version"), st.none() | st.binary(max_size=4))),
)
def test_no_message_whatever_its_bytes_ends_the_reader(message: bytes, headers: list[tuple[str, bytes | None]]):
    assert reason(message, headers) in events.REASONS
