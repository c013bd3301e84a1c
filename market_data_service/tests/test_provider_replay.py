"""The provider that plays a recording: what is on when, what an unusable file says, and the simulated one that comes with it."""

from __future__ import annotations

import contextlib
import datetime
import io
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import providers
from app.errors import BadPriceError, ProviderError, SettingsError, UnknownSymbolError
from app.providers import simulate
from app.providers.replay import MOST, SIMULATED, ReplayProvider, read
from app.settings import Settings

UTC = datetime.timezone.utc
ROWS = """symbol,ts,price
AAPL,2025-06-15T20:00:00Z,1.5
AAPL,2025-06-15T20:00:10+00:00,2.5
AAPL,2025-06-15T22:00:30+02:00,3.5
ONE,2025-06-15T20:00:00Z,7
BAD,2025-06-15T20:00:00Z,NaN
BAD,2025-06-15T20:00:01Z,2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def at(file: Path, now_s: float) -> ReplayProvider:
    """The provider at a time."""
    return ReplayProvider(Settings(replay_file=str(file)), clock=lambda: now_s)


# AAPL's rounds are 45 s long: 30 s from the first row to the last, and once more the mean step of 15 s.
@pytest.mark.parametrize(
    ("now_s", "price", "ts_s"),
    [
        (0, "1.5", 0),
        (9.999999, "1.5", 0),
        (10, "2.5", 10),
        (29.9, "2.5", 10),
        (30, "3.5", 30),
        (44.9, "3.5", 30),
        (45, "1.5", 45),
        (45 * 1_000_000 + 12, "2.5", 45 * 1_000_000 + 10),
    ],
)
def test_the_recording_repeats_in_the_present(file: Path, now_s: float, price: str, ts_s: int) -> None:
    quote = at(file, now_s).latest("AAPL")
    assert (quote.price, quote.ts.timestamp()) == (Decimal(price), ts_s)


def test_the_raw_response_tells_what_was_recorded(file: Path) -> None:
    quote = at(file, 10).latest("AAPL")
    assert quote.body == {"file": "rows.csv", "recorded": {"ts": "2025-06-15T20:00:10+00:00", "price": "2.5"}}


def test_two_processes_play_the_same(file: Path) -> None:
    assert at(file, 1_750_000_000.5).latest("AAPL") == at(file, 1_750_000_000.5).latest("AAPL")


def test_a_single_row_is_on_for_ever_with_a_new_time_each_second(file: Path) -> None:
    quotes = [at(file, now_s).latest("ONE") for now_s in (100, 100.9, 101)]
    assert [quote.price for quote in quotes] == [7, 7, 7]
    assert [quote.ts.timestamp() for quote in quotes] == [100, 100, 101]


def test_a_history_goes_back_over_rounds_in_order(file: Path) -> None:
    quotes = at(file, 100).history("AAPL", datetime.datetime.fromtimestamp(30, UTC))
    assert [(str(quote.price), quote.ts.timestamp()) for quote in quotes] == [
        ("3.500000", 30),
        ("1.500000", 45),
        ("2.500000", 55),
        ("3.500000", 75),
        ("1.500000", 90),
        ("2.500000", 100),
    ]


def test_a_history_from_the_future_is_empty(file: Path) -> None:
    assert at(file, 100).history("AAPL", datetime.datetime.fromtimestamp(101, UTC)) == []


def test_a_long_history_has_its_newest_quotes(file: Path) -> None:
    quotes = at(file, 10_000_000).history("AAPL", datetime.datetime.fromtimestamp(0, UTC))
    assert len(quotes) == MOST
    assert quotes[-1] == at(file, 10_000_000).latest("AAPL")


def test_an_unknown_symbol_is_said_to_be_unknown(file: Path) -> None:
    for ask in (lambda: at(file, 0).latest("TSLA"), lambda: at(file, 0).history("TSLA", datetime.datetime.now(UTC))):
        with pytest.raises(UnknownSymbolError, match=r"^replay: rows\.csv has no symbol TSLA$"):
            ask()


def test_a_bad_price_in_the_file_is_an_error_when_its_turn_comes(file: Path) -> None:
    with pytest.raises(BadPriceError):
        at(file, 0).latest("BAD")
    assert at(file, 1).latest("BAD").price == 2


@given(
    st.floats(0, 4e9, allow_nan=False),
    st.lists(st.integers(0, 10**10), min_size=1, max_size=8, unique=True),
)
def test_whatever_the_recording_the_row_that_is_on_came_on_last(now_s: float, offsets: list[int]) -> None:
    from app.providers.replay import Recording

    first = min(offsets)
    recording = Recording(sorted(offset - first for offset in offsets), [""] * len(offsets), [""] * len(offsets))
    now_us = int(now_s * 1e6)
    newest, before = recording.at(now_us), recording.at(recording.at(now_us)[1] - 1)
    assert newest[1] <= now_us < recording.at(now_us)[1] + recording.round_us
    assert before[0] == newest[0] - 1
    assert recording.at(newest[1]) == newest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with ''; it must be symbol,ts,price"),
        ("symbol,price,ts\n", "begins with 'symbol,price,ts'"),
        ("symbol,ts,price\n", "holds no price"),
        ("symbol,ts,price\nAAPL,2025-06-15T20:00:00Z\n", "line 2: not enough values"),
        ("symbol,ts,price\nAAPL,2025-06-15T20:00:00,1\n", "line 2: ts is 2025-06-15T20:00:00; it must have an offset"),
        ("symbol,ts,price\nAAPL,yesterday,1\n", "line 2: Invalid isoformat string: 'yesterday'"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read(path)
    assert str(caught.value).startswith(f"REPLAY_FILE {path}")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"symbol,ts,price\n\xff,2025,1\n")
    for name in ("none.csv", "bytes.csv", ""):
        with pytest.raises(SettingsError, match="cannot be read"):
            read(tmp_path / name)


def test_the_simulated_file_is_what_its_program_writes() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert simulate.main() == 0
    assert out.getvalue() == SIMULATED.read_text()


def test_by_default_the_simulated_prices_play_and_move_each_second() -> None:
    quotes = [ReplayProvider(Settings(), clock=lambda now=now: now).latest("AAPL") for now in range(240)]
    assert len({quote.ts for quote in quotes}) == 240
    assert len({quote.price for quote in quotes}) > 30
    assert quotes[0].price == quotes[120].price == Decimal("196.45")


def test_providers_are_found_by_name() -> None:
    assert providers.names() == ("yfinance", "replay")
    assert providers.get("replay", Settings()).name == "replay"
    with pytest.raises(
        ProviderError, match=r"^bloomberg: there is no such provider; it must be one of yfinance, replay$"
    ):
        providers.get("bloomberg", Settings())
