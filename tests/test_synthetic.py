"""The simulated day: reproducible, well formed, calibrated, and driven by its order flow; and the code that measures it."""

from __future__ import annotations

import csv
import functools
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sor import facts, synthetic
from sor.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
DAY = ROOT / "l1_day.csv"
DOCS = ROOT / "docs" / "synthetic.md"
REAL_DAY = ROOT.parent / "shared" / "data" / "real_dev.csv.gz"
HEADER = (
    "ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,depth,price,size,flags,ts_in_delta,sequence,"
    "bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,bid_ct_00,ask_ct_00,symbol"
)


def read_columns(path: Path) -> facts.Columns:
    """A Databento CSV as the columns to measure, independently of sor.feed."""
    table = pd.read_csv(path)

    def e4(name: str) -> np.ndarray:
        return np.rint(table[name].fillna(0).to_numpy() * 1e4).astype(np.int64)

    return facts.Columns(
        pd.to_datetime(table["ts_event"]).astype("int64").to_numpy(),
        table["publisher_id"].to_numpy(),
        (table["action"] == "T").to_numpy(),
        e4("bid_px_00"),
        e4("ask_px_00"),
        table["bid_sz_00"].fillna(0).to_numpy().astype(np.int64),
        table["ask_sz_00"].fillna(0).to_numpy().astype(np.int64),
        e4("price"),
        table["size"].to_numpy(),
    )


@functools.cache
def simulated(seed: int) -> list[synthetic.Row]:
    return synthetic.simulate(seed)


@pytest.fixture(scope="module")
def rows() -> list[synthetic.Row]:
    return simulated(7)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(DAY)


@pytest.fixture(scope="module")
def book(rows: list[synthetic.Row]) -> facts.Book:
    return facts.build_book(synthetic.columns(rows), synthetic.session())


@pytest.fixture(scope="module")
def figures(rows: list[synthetic.Row]) -> dict[str, float]:
    return facts.measure(synthetic.columns(rows), synthetic.session())


# --- the file -------------------------------------------------------------------------------------------------------
def test_seed_7_gives_the_committed_file_byte_for_byte(tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    assert synthetic.main(["--seed", "7", "--out", str(out)]) == 0
    assert out.read_bytes() == DAY.read_bytes()
    assert list(tmp_path.iterdir()) == [out]


def test_another_seed_gives_another_day(rows: list[synthetic.Row]) -> None:
    assert simulated(8)[:1000] != rows[:1000]


def test_file_has_the_size_and_the_columns_that_were_asked_for(table: pd.DataFrame) -> None:
    assert DAY.stat().st_size <= 12_000_000
    assert 55_000 <= len(table) <= 65_000
    assert ",".join(table.columns) == HEADER


def test_rows_are_in_time_order_within_the_session_and_numbered(table: pd.DataFrame) -> None:
    ts_ns = pd.to_datetime(table["ts_event"]).astype("int64").to_numpy()
    assert (np.diff(ts_ns) >= 0).all()
    assert ts_ns[0] >= pd.Timestamp("2024-08-05T13:30Z").value
    assert ts_ns[-1] < pd.Timestamp("2024-08-05T20:00Z").value
    assert (table["sequence"] == np.arange(1, len(table) + 1)).all()


def test_text_of_times_and_prices_has_nine_decimals() -> None:
    with DAY.open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            assert len(row["ts_event"]) == 30
            assert row["ts_event"].endswith("Z")
            assert len(row["price"].partition(".")[2]) == 9
            assert row["symbol"] == "SIM"


def test_twelve_venues_quote_and_two_publishers_only_print(table: pd.DataFrame) -> None:
    trades = table["action"] == "T"
    assert set(table["publisher_id"][~trades]) == set(facts.VENUE_NAMES)
    assert {17, 19} <= set(table["publisher_id"][trades])
    assert set(table["action"]) == {"A", "M", "T"}


def test_quotes_show_round_lots_and_a_withdrawn_side_is_price_and_size_zero(table: pd.DataFrame) -> None:
    quotes = table[table["action"] != "T"]
    for side in ("bid", "ask"):
        assert (quotes[f"{side}_sz_00"] % 100 == 0).all()
        assert ((quotes[f"{side}_px_00"] == 0) == (quotes[f"{side}_sz_00"] == 0)).all()
    assert ((quotes["bid_px_00"] == 0) | (quotes["ask_px_00"] == 0)).any()


def test_a_trade_never_changes_the_book(table: pd.DataFrame) -> None:
    sides = ["bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00"]
    exchange = table[~table["publisher_id"].isin(facts.OFF_EXCHANGE_IDS)]
    before = exchange.groupby("publisher_id")[sides].shift()
    trades = exchange["action"] == "T"
    assert (exchange[sides][trades] == before[trades]).all(axis=None)


def test_exchange_trades_name_the_aggressor_and_off_exchange_prints_do_not(table: pd.DataFrame) -> None:
    trades = table[table["action"] == "T"]
    off = trades["publisher_id"].isin(facts.OFF_EXCHANGE_IDS)
    assert set(trades["side"][off]) == {"N"}
    assert set(trades["side"][~off]) == {"A", "B"}
    at_bid = trades[~off & (trades["price"] == trades["bid_px_00"])]
    assert set(at_bid["side"]) == {"A"}


@pytest.mark.parametrize("argv", [[], ["--seed", "-1", "--out", "x.csv"], ["--out", "no/such/folder/x.csv"]])
def test_bad_usage_exits_2_with_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_unwritable_place_leaves_no_draft(tmp_path: Path, rows: list[synthetic.Row]) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="must be a file"):
        synthetic.write_csv(rows[:3], tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


# --- the market -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [7, 8])
def test_consolidated_book_is_never_crossed_or_locked_at_any_row(seed: int) -> None:
    day = facts.build_book(synthetic.columns(simulated(seed)), synthetic.session())
    assert (day.nbb < day.nbo).all()


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("horizon_s", [1, 10, 60])
@pytest.mark.parametrize("aggressor", ["A", "B"])
def test_mid_falls_after_sells_and_rises_after_buys(seed: int, horizon_s: float, aggressor: str) -> None:
    rows = [r for r in simulated(seed) if r.action != "T" or r.side == aggressor]
    day, session = synthetic.columns(rows), synthetic.session()
    loss_cents = facts.follow_through_cents(day, facts.build_book(day, session), session, horizon_s)
    standard_error = loss_cents.std() / np.sqrt(len(loss_cents))
    assert loss_cents.mean() > 2 * standard_error


def test_depleting_the_only_venue_at_the_best_bid_lowers_it() -> None:
    sim = synthetic.Simulation(1)
    sim.open()
    market = sim.market
    lone = market.best(synthetic.BID) + 1
    market.show(synthetic.BID, 0, lone, 100)
    for _ in range(200):
        sim.hit(synthetic.BID)
        if market.best(synthetic.BID) < lone:
            break
    assert market.best(synthetic.BID) < lone
    assert market.rows[-1].action == "M"
    assert market.rows[-2][2:4] == ("T", "A")


def test_trades_that_empty_the_best_bid_are_followed_by_lower_bids(rows: list[synthetic.Row], book: facts.Book) -> None:
    quote = -1
    changes = []
    for before, after in itertools.pairwise(rows):
        quote += before.action != "T"
        alone = quote >= 0 and (book.bid[quote] == book.nbb[quote]).sum() == 1
        if before.action == "T" and before.side == "A" and before.px_e4 == book.nbb[quote] and alone:
            emptied = after.action == "M" and after.who == before.who and after.bid < before.bid
            changes += [book.nbb[quote + 1] - book.nbb[quote]] * emptied
    assert len(changes) > 50
    assert max(changes) < 0


# --- calibration ----------------------------------------------------------------------------------------------------
def test_every_fact_is_within_its_tolerance_but_those_named_in_the_docs(figures: dict[str, float]) -> None:
    assert sorted(facts.outside(figures)) == sorted(synthetic.NOT_MET)


def test_few_facts_are_missed() -> None:
    assert len(synthetic.NOT_MET) <= 0.1 * len(facts.targets())


def test_docs_show_the_table_of_the_committed_file(figures: dict[str, float]) -> None:
    assert facts.fact_table(figures) in DOCS.read_text(encoding="utf-8")


def test_file_and_simulation_hold_the_same_columns(rows: list[synthetic.Row]) -> None:
    file, memory = read_columns(DAY), synthetic.columns(rows)
    for name, x, y in zip(facts.Columns._fields, file, memory, strict=True):
        where = memory.is_trade if name.startswith("trade") else ~memory.is_trade
        assert (x[where] == y[where]).all() if name not in ("ts_ns", "publisher_id") else (x == y).all()


# --- the measuring code ---------------------------------------------------------------------------------------------
@pytest.mark.skipif(not REAL_DAY.exists(), reason="needs ../shared/data/real_dev.csv.gz")
def test_measuring_the_real_day_gives_the_published_facts() -> None:
    start_ns = pd.Timestamp("2018-01-02T14:30Z").value
    real = facts.measure(read_columns(REAL_DAY), facts.Session(start_ns, start_ns + 23_400 * 10**9))
    targets = facts.targets()
    assert real.keys() == targets.keys()
    for name, target in targets.items():
        assert real[name] == pytest.approx(target.real, rel=0.006, abs=0.0051), name


def hand_made_day() -> facts.Columns:
    """Two venues, ten seconds: the NBO is lifted at 4 s and back at 5 s; one buy at the NBO at 4 s."""
    second = 10**9
    rows = [  # ts, venue, trade, bid, ask, bid size, ask size, trade price, trade size
        (0, 2, False, 100_0000, 100_0300, 100, 200, 0, 0),
        (0, 9, False, 100_0100, 100_0300, 300, 100, 0, 0),
        (2, 2, False, 100_0100, 100_0300, 100, 200, 0, 0),
        (4, 9, True, 0, 0, 0, 0, 100_0300, 100),
        (4, 9, False, 100_0100, 100_0500, 300, 100, 0, 0),
        (4, 2, False, 100_0100, 0, 100, 0, 0, 0),
        (5, 2, False, 100_0100, 100_0300, 100, 200, 0, 0),
        (5, 2, False, 100_0100, 100_0300, 100, 200, 0, 0),
    ]
    columns = facts.Columns(*(np.array(field) for field in zip(*rows, strict=True)))
    return columns._replace(ts_ns=columns.ts_ns * second)


def test_hand_made_book_carries_quotes_forward_and_withdraws_a_side_priced_zero() -> None:
    book = facts.build_book(hand_made_day(), facts.Session(0, 10 * 10**9))
    assert book.nbb.tolist() == [100_0000, *[100_0100] * 6]
    assert book.nbo.tolist() == [100_0300] * 3 + [100_0300, 100_0500, 100_0300, 100_0300]
    assert book.hold_s.tolist() == [0, 2, 2, 0, 1, 0, 5]
    assert book.changed.tolist() == [True] * 6 + [False]


def test_hand_made_spread_front_and_refill() -> None:
    session = facts.Session(0, 10 * 10**9)
    book = facts.build_book(hand_made_day(), session)
    spread = facts.spread_facts(book)
    assert spread["NBBO spread 2c, % of time"] == pytest.approx(90)
    assert spread["NBBO spread 4c, % of time"] == pytest.approx(10)
    front = facts.front_facts(book)
    bid_alone, ask_alone = 20, 60  # % of time: the bid until 2 s, the ask from 4 s
    assert front["venues at the best price: 1, % of time"] == pytest.approx((bid_alone + ask_alone) / 2)
    assert facts.refill_delay_s(book, session).tolist() == [1.0]
    assert facts.follow_through_cents(hand_made_day(), book, session, 0.5).tolist() == [1.0]


def test_stretch_slows_every_clock() -> None:
    book = facts.build_book(hand_made_day(), facts.Session(0, 10 * 10**9, 2.0))
    assert book.hold_s.sum() == pytest.approx(5)


def test_a_session_without_trades_is_refused() -> None:
    columns = hand_made_day()
    with pytest.raises(ValueError, match="no quote or no trade"):
        facts.measure(columns._replace(is_trade=np.zeros(8, bool)), facts.Session(0, 10 * 10**9))
