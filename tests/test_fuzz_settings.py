"""Any text as a setting, from the environment or a flag, and any TOML as a venue table: taken, or one line and exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import config
from config import BOTH, Settings, env_name, flag_name
from sor import market as markets
from sor import verify
from sor.errors import UsageError, VerificationError
from sor.venues import VenueTable, parse_venues
from tests.test_fuzz_feed import assert_one_line

bounded = settings(max_examples=60, deadline=2_000)
SHIPPED = (Path(__file__).parent.parent / "sor" / "venues.toml").read_text(encoding="utf-8")
FIELDS = [
    (program, field)
    for program in BOTH
    for field in dataclasses.fields(Settings)
    if program in field.metadata["programs"]
]
WITH_FLAG = [(program, field) for program, field in FIELDS if not field.metadata.get("secret")]
texts = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                "\0",
                "nan",
                "-nan",
                "inf",
                "-inf",
                "1e400",
                "-1",
                "9" * 5_000,
                "0x10",
                "1_000",
                " 1 ",
                "5e-324",
                "1e308",
                "½",
            ),
            *(
                "٣",
                "0٣:30",
                "09:30:00.٣",
                "24:00",
                "09:30\n",
                "host:٣9",
                "[::1]:9092",
                "[]:1",
                "a..b:1",
                "a:1,",
                ",",
                "=",
                "1,=1",
            ),
            *(
                "1,A=1,A=2",
                "../../etc/passwd",
                "/dev/zero",
                "\udcff",
                "a\nb",
                "\x1b[31m",
                "%s",
                "{}",
                "$(id)",
                "--",
                "-",
                "tcp://x:1",
            ),
        ]
    ),
    st.text(max_size=30),
    st.text("0123456789.,:=-eE+ _", max_size=12),
    st.floats().map(str),
    st.integers().map(str),
)


def outcome(program: str, argv: list[str], environ: dict[str, str]) -> Settings | None:
    """The settings; None if they are refused as they must be: exit code 2 and one line on stderr."""
    said, printed = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            return config.settings(program, argv, "what it does", environ)
    except SystemExit as stop:
        code, line = stop.code, said.getvalue()
    assert (code, printed.getvalue(), line.count("\n"), line[-1:]) == (2, "", 1, "\n")
    assert line[:-1].isprintable()
    return None


@pytest.mark.parametrize(("program", "field"), FIELDS, ids=lambda each: getattr(each, "name", each))
def test_any_value_of_the_environment(program, field):
    @settings(max_examples=20, deadline=2_000)
    @given(texts)
    def check(text):
        found = outcome(program, [], {env_name(field): text})
        assert found is None or field.metadata["check"][0](getattr(found, field.name))

    check()


@bounded
@given(chosen=st.sampled_from(WITH_FLAG), text=texts, joined=st.booleans())
def test_any_value_of_a_flag(chosen, text, joined):
    program, field = chosen
    flag = flag_name(field)
    argv = [f"{flag}={text}"] if joined else [flag, text]
    found = outcome(program, argv, {})
    assert found is None or field.metadata["check"][0](getattr(found, field.name))


@bounded
@given(
    st.sampled_from(BOTH), st.lists(texts | st.sampled_from([flag_name(field) for _, field in WITH_FLAG]), max_size=4)
)
def test_any_words(program, words):
    if not {"-h", "--help"} & set(words):
        outcome(program, words, {})


@pytest.mark.parametrize("text", ["0٣:30", "09:30:00.٣", "2٣:00"])
def test_digits_of_other_scripts_are_no_clock(text):
    assert outcome("backtest", ["--start-time", text], {}) is None


@pytest.mark.parametrize(
    "name", ["order_size", "speed", "slice_s", "seed", "lambda_over", "deadline_penalty", "latency_ms"]
)
def test_digits_of_other_scripts_are_no_number(name):
    program, field = next(pair for pair in FIELDS if pair[1].name == name)
    assert outcome(program, [f"{flag_name(field)}=٣"], {}) is None


@bounded
@given(texts)
@example("America")
@example("a" * 5_000)
@example("../zoneinfo/UTC")
@example("/etc/localtime")
@example("zone.tab")
@example(".")
def test_any_time_zone_is_one_or_a_usage_error(text):
    try:
        assert isinstance(markets._zone(text), ZoneInfo)
    except UsageError as error:
        assert_one_line(error)


# --- TOML ---------------------------------------------------------------------------------------------------------------


def parsed(text: str) -> VenueTable | None:
    try:
        return parse_venues(text)
    except UsageError as error:
        assert_one_line(error)
        return None


HOSTILE = {
    "deep arrays": "a = " + "[" * 100_000,
    "deep tables": "[default]\nx = " + "{a=" * 5_000,
    "huge hexadecimal number": "[[venue]]\npublisher_id = 0x" + "f" * 9_000,
    "huge hexadecimal number for a table": "default = 0x" + "f" * 9_000,
    "huge exponent": "[default]\ntaker_fee = 1e999999999999999999999",
    "NUL": 'a = "\0"',
    "key with a line feed": '[default]\n"a\\nb" = 1',
    "long value": f'[default]\ntaker_fee = "{"x" * 100_000}"',
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_venue_table_is_one_line(text):
    with pytest.raises(UsageError) as refused:
        parse_venues(text)
    assert_one_line(refused.value)
    assert len(str(refused.value)) < 1_000


@bounded
@given(st.data())
def test_venue_table_with_anything_put_in(data):
    text = SHIPPED[:3_000]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        piece = st.one_of(
            st.text(max_size=5),
            st.sampled_from(["nan", "-inf", "1e999", "[", "{", '"""', "=", "\n", "9" * 5_000, "0xff", "true", "."]),
        )
        text = text[:at] + data.draw(piece) + text[at + data.draw(st.integers(0, 20)) :]
    parsed(text)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)


@bounded
@given(
    st.dictionaries(
        st.sampled_from(["name", "publisher_id", "taker_fee", "maker_rebate", "as_of", "source", "routable"]), scalars
    )
)
def test_venue_with_any_values(fields):
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items() if value is not None]
    text = re.sub(r"NaN", "nan", re.sub(r"Infinity", "inf", "\n".join(lines)))
    parsed(f"{SHIPPED[: SHIPPED.index('[[venue]]')]}[[venue]]\n{text}\n")


def test_name_of_several_lines_is_no_name():
    with pytest.raises(UsageError, match=r"name is 'A\\nB', must be a text that is not empty, of one line"):
        parse_venues(SHIPPED.replace('name = "XNAS"', 'name = "A\\nB"', 1))


# --- JSON ---------------------------------------------------------------------------------------------------------------


@bounded
@given(
    st.binary(max_size=200)
    | st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)).map(lambda v: json.dumps(v).encode())
)
@example(b"[" * 100_000)
@example(b'{"settings":{},"settings":{}}')
@example(b'{"settings":{},"data":{},"x":NaN}')
@example(b'{"settings":{},"data":' + b'{"a":' * 50_000)
@example(b"9" * 5_000)
def test_any_bytes_as_a_report_to_verify(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "output.json"
    path.write_bytes(content)
    with pytest.raises(VerificationError) as refused:
        verify.read(str(path))
    assert_one_line(refused.value)


@bounded
@given(
    st.dictionaries(
        st.sampled_from([*config.RESULT_SETTINGS, "x"]),
        scalars | st.lists(scalars, max_size=3) | texts.filter(lambda text: len(text) < 100),
        max_size=5,
    )
)
def test_any_settings_of_a_report_are_taken_or_refused_with_a_value_error(changed):
    usual = config.Settings()
    recorded = {name: getattr(usual, name) for name in config.RESULT_SETTINGS} | changed
    try:
        found = config.recorded(usual, recorded)
    except ValueError:
        return
    assert isinstance(found, config.Settings)
