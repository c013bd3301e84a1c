"""The moving averages: which prices they are of, what a late or a corrected one changes; order and repetition do not matter."""

from __future__ import annotations

import random
from decimal import Decimal

import hypothesis
import pytest
from flow import at, bytes_of, expected_averages, kept_averages, mean, recomputed, store, touch
from hypothesis import strategies as st

from app import averages
from app.averages import Compared
from app.database import Connection
from app.settings import Settings

MANY = 20_000


def averages_of_a(db: Connection, window: int = 5) -> dict[int, Decimal]:
    """The averages of symbol A by second."""
    kept = kept_averages(db, window)
    return {second: price for (symbol, _, second), price in kept.items() if symbol == "A"}


def store_a(db: Connection, *points: tuple[int, str]) -> None:
    for second, price in points:
        store(db, "A", second, price)


def one_to(count: int) -> list[tuple[int, str]]:
    return [(second, str(second)) for second in range(1, count + 1)]


def test_an_average_is_of_the_five_newest_prices(db: Connection):
    store_a(db, *one_to(7))
    assert touch(db, [("A", second) for second in range(1, 8)]).written == 3
    assert averages_of_a(db) == {5: Decimal(3), 6: Decimal(4), 7: Decimal(5)}


def test_fewer_than_five_prices_have_no_average(db: Connection):
    store_a(db, *one_to(4))
    assert touch(db, [("A", second) for second in range(1, 5)]) == averages.Updated(0, [])
    assert kept_averages(db) == {}


def test_averages_the_wrong_five_prices_under_backlog(db: Connection):
    """All prices are there before the first event is worked on: each average is of those up to its own time still."""
    store_a(db, *one_to(30))
    for second in range(1, 31):
        touch(db, [("A", second)])
    assert averages_of_a(db) == {second: Decimal(second - 2) for second in range(5, 31)}


def test_an_event_computes_its_own_average_and_up_to_four_that_follow(db: Connection):
    store_a(db, *one_to(20))
    assert touch(db, [("A", 10)]).written == 5
    assert sorted(averages_of_a(db)) == [10, 11, 12, 13, 14]


def test_symbols_and_providers_are_kept_apart(db: Connection):
    for second in range(1, 6):
        store(db, "A", second, "1", provider="yfinance")
        store(db, "A", second, "2", provider="replay")
        store(db, "AB", second, "3", provider="replay")
    touched = [(symbol, provider, at(5)) for symbol in ("A", "AB") for provider in ("yfinance", "replay")]
    with db.transaction():
        found = averages.update(db, touched, 5)
    assert [touched[number] for number in found.unknown] == [("AB", "yfinance", at(5))]
    assert kept_averages(db) == {
        ("A", "yfinance", 5): Decimal(1),
        ("A", "replay", 5): Decimal(2),
        ("AB", "replay", 5): Decimal(3),
    }


def test_a_late_price_changes_its_own_average_and_the_four_that_follow(db: Connection):
    store_a(db, *[each for each in one_to(20) if each[0] != 10])
    touch(db, [("A", second) for second in range(1, 21)])
    before = averages_of_a(db)
    store_a(db, (10, "1000"))
    assert touch(db, [("A", 10)]).written == 5
    after = averages_of_a(db)
    assert {second for second in after if after[second] != before.get(second)} == {10, 11, 12, 13, 14}
    assert after[10] == mean([Decimal(each) for each in (6, 7, 8, 9, 1000)])
    assert after == averages_of_a(db) == {key[2]: price for key, price in expected_averages(db).items()}


def test_a_corrected_price_changes_its_own_average_and_the_four_that_follow(db: Connection):
    store_a(db, *one_to(20))
    touch(db, [("A", second) for second in range(1, 21)])
    assert store(db, "A", 10, "11").did == "corrected"
    assert touch(db, [("A", 10)]).written == 5
    assert averages_of_a(db) == {s: Decimal(s - 2) + (Decimal("0.2") if 10 <= s <= 14 else 0) for s in range(5, 21)}


def test_what_is_right_already_is_not_written_again(db: Connection):
    store_a(db, *one_to(10))
    touched = [("A", second) for second in range(1, 11)]
    touch(db, touched)
    versions = db.execute("SELECT ctid::text, xmin::text FROM moving_averages ORDER BY ts").fetchall()
    assert touch(db, touched + touched) == averages.Updated(0, [])
    assert db.execute("SELECT ctid::text, xmin::text FROM moving_averages ORDER BY ts").fetchall() == versions


def test_a_time_that_has_no_price_is_told_by_its_place(db: Connection):
    store_a(db, *one_to(6))
    assert touch(db, [("A", 99), ("A", 5), ("B", 1), ("A", 99)]).unknown == [0, 2, 3]
    assert sorted(averages_of_a(db)) == [5, 6]


@pytest.mark.parametrize(
    ("given", "window", "expected"),
    [
        (["0.000001", "0.000002"], 2, "0.000002"),  # 0.0000015: halves go up
        (["0.000001", "0.000001", "0.000002"], 3, "0.000001"),  # 0.00000133...
        (["999999999999.999999"] * 5, 5, "999999999999.999999"),
        (["0.1", "0.2", "0.3", "0.4", "0.5"], 5, "0.300000"),
        (["196.45"], 1, "196.450000"),
    ],
)
def test_averages_are_exact_to_six_decimals(db: Connection, given: list[str], window: int, expected: str):
    store_a(db, *enumerate(given, 1))
    touch(db, [("A", 1)], window)
    assert str(averages_of_a(db, window)[len(given)]) == expected


def test_each_window_size_has_averages_of_its_own(db: Connection):
    store_a(db, *one_to(6))
    for window in (1, 3, 5):
        touch(db, [("A", second) for second in range(1, 7)], window)
        assert kept_averages(db, window) == expected_averages(db, window)
        assert recomputed(db, window) == bytes_of(db, window)
    assert len(averages_of_a(db, 3)) == 4


def test_demonstration_6_any_order_and_repetition_gives_the_same_averages(db: Connection):
    """Prices come late and are corrected; an event may come any time after its price, in any batch, and again."""
    seen = {"histories": 0, "prices": 0, "events": 0}

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(data=st.data())
    def holds(data: st.DataObject) -> None:
        points = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=6, max_size=25))
        waiting: list[int] = []
        with db.transaction(force_rollback=True):
            for number, (second, price) in enumerate(points):
                store(db, "A", second, Decimal(price))
                batch = data.draw(st.lists(st.integers(0, number), max_size=6))
                touch(db, [("A", points[each][0]) for each in batch])
                waiting = [each for each in [*waiting, number] if each not in batch]
                seen["events"] += len(batch)
            for each in data.draw(st.permutations(waiting)):
                touch(db, [("A", points[each][0])])
            assert kept_averages(db) == expected_averages(db)
            assert bytes_of(db) == recomputed(db)
        seen["histories"] += 1
        seen["prices"] += len(points)
        seen["events"] += len(waiting)

    holds()
    told = ", ".join(f"{count} {name}" for name, count in seen.items())
    print(f"\ndemonstration 6: {told}; averages equal the definition and the recomputation every time")


def test_recompute_puts_right_what_is_missing_wrong_or_surplus_and_nothing_else(db: Connection):
    for symbol in ("A", "B", "C"):
        for second in range(1, 21):
            store(db, symbol, second, random.Random(second).randint(1, 500))
    assert averages.recompute(db, 5) == Compared(averages=48, missing=48)
    right = bytes_of(db)
    db.execute("DELETE FROM moving_averages WHERE symbol = 'A' AND ts > %s", [at(18)])
    db.execute("UPDATE moving_averages SET avg_price = avg_price + 0.000001 WHERE symbol = 'B'")
    db.execute("UPDATE moving_averages SET price_id = 0 WHERE symbol = 'C' AND ts = %s", [at(9)])
    columns = "symbol, window_size, ts, provider, avg_price, price_id"
    for symbol, window in (("C", 5), ("Z", 5), ("Z", 7)):
        row = [symbol, window, at(4), "replay", 1, 1]
        db.execute(f"INSERT INTO moving_averages ({columns}) VALUES (%s, %s, %s, %s, %s, %s)", row)
    wrong = Compared(averages=48, missing=2, wrong=17, surplus=2)
    assert averages.compare(db, 5) == wrong
    assert averages.recompute(db, 5) == wrong
    assert bytes_of(db) == right == recomputed(db)
    assert averages.compare(db, 5) == Compared(averages=48)
    assert len(bytes_of(db, 7)) == 1, "another window size is left alone"


def test_the_script_says_what_differs_and_puts_it_right(db: Connection, database_settings: Settings, start):
    store_a(db, *one_to(6))
    first = start("scripts/recompute_averages.py", "--check", settings=database_settings)
    assert first.finish() == 1
    assert first.out == "2 averages of 5 prices; 2 differ (2 missing, 0 wrong, 0 surplus)\n"
    assert kept_averages(db) == {}
    second = start("scripts/recompute_averages.py", settings=database_settings)
    assert second.finish() == 0
    assert second.out == "2 averages of 5 prices; 2 put right (2 missing, 0 wrong, 0 surplus)\n"
    third = start("scripts/recompute_averages.py", "--check", settings=database_settings, MA_WINDOW="5")
    assert (third.finish(), third.err) == (0, "")
    assert averages_of_a(db) == {5: Decimal(3), 6: Decimal(4)}


def test_an_update_reads_a_few_rows_whatever_the_history(db: Connection):
    db.execute(
        "INSERT INTO market_prices (symbol, provider, price, ts) SELECT 'A', 'replay', n, %s + n * interval '1 s' "
        "FROM generate_series(1, %s) AS n",
        [at(0), MANY],
    )
    db.execute("ANALYZE")
    averages.prepare(db)
    values = {"symbols": ["A"] * 2, "providers": ["replay"] * 2, "times": [at(100), at(MANY - 100)], "window": 5}
    with db.transaction(force_rollback=True):
        (plan,) = db.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {averages._UPDATE}", values).fetchone().values()
    top = plan[0]["Plan"]
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 200
    assert touch(db, [("A", 100), ("A", MANY - 100)]).written == 10
