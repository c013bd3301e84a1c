"""Work that is shared, reads that are batched, connections that are lent: without a network, then with PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest

from app import connections, database, prices, reads
from app.connections import Connections, DatabaseSilentError
from app.errors import RateLimitedError, UnknownSymbolError
from app.fetching import Fetcher
from app.providers.base import Quote
from app.reads import LatestReads
from app.refusals import MOST_UNKNOWN, Refusals
from app.settings import Settings
from app.single_flight import SingleFlight

Body = Callable[[], Coroutine[Any, Any, None]]


def in_loop(body: Body) -> None:
    """Run a test's body in an event loop."""
    asyncio.run(body())


class TestSingleFlight:
    def test_callers_at_the_same_time_share_one_piece_of_work(self) -> None:
        runs = []

        async def work() -> int:
            runs.append(1)
            await asyncio.sleep(0.01)
            return len(runs)

        async def body() -> None:
            flights: SingleFlight[int] = SingleFlight()
            assert await asyncio.gather(*(flights.do("a", work) for _ in range(50))) == [1] * 50
            assert len(flights) == 0
            assert await flights.do("a", work) == 2, "what is over is not remembered"

        in_loop(body)

    def test_another_key_is_other_work(self) -> None:
        async def body() -> None:
            flights: SingleFlight[str] = SingleFlight()

            async def work(name: str) -> str:
                await asyncio.sleep(0.01)
                return name

            names = ["a", "b", "a", "c"]
            assert await asyncio.gather(*(flights.do(name, partial(work, name)) for name in names)) == names

        in_loop(body)

    def test_an_error_reaches_every_caller_and_is_not_remembered(self) -> None:
        async def fail() -> int:
            await asyncio.sleep(0.01)
            raise ValueError("no")

        async def succeed() -> int:
            return 1

        async def body() -> None:
            flights: SingleFlight[int] = SingleFlight()
            found = await asyncio.gather(*(flights.do("a", fail) for _ in range(5)), return_exceptions=True)
            assert [str(each) for each in found] == ["no"] * 5
            assert await flights.do("a", succeed) == 1

        in_loop(body)

    def test_a_caller_that_gives_up_does_not_end_the_work_of_the_others(self) -> None:
        async def work() -> str:
            await asyncio.sleep(0.05)
            return "done"

        async def body() -> None:
            flights: SingleFlight[str] = SingleFlight()
            first, second = (asyncio.create_task(flights.do("a", work)) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            assert await second == "done"
            with pytest.raises(asyncio.CancelledError):
                await first

        in_loop(body)

    def test_an_error_that_nobody_waits_for_any_more_is_no_trouble(self, caplog) -> None:
        async def fail() -> None:
            await asyncio.sleep(0.01)
            raise ValueError("no")

        async def body() -> None:
            flights: SingleFlight[None] = SingleFlight()
            task = asyncio.create_task(flights.do("a", fail))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0.03)
            assert len(flights) == 0

        in_loop(body)
        assert not caplog.records

    def test_closing_ends_what_is_under_way(self) -> None:
        ended = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(1)

        async def body() -> None:
            flights: SingleFlight[None] = SingleFlight()
            task = asyncio.create_task(flights.do("a", work))
            await asyncio.sleep(0.01)
            await flights.close()
            assert ended == [1]
            with pytest.raises(asyncio.CancelledError):
                await task

        in_loop(body)


class TestRefusals:
    @pytest.fixture
    def now(self) -> list[float]:
        """The time, which a test changes."""
        return [1_000.0]

    @pytest.fixture
    def refusals(self, now: list[float]) -> Refusals:
        return Refusals(clock=lambda: now[0], spread=lambda: 1.0)

    def pause(self, refusals: Refusals, provider: str = "yfinance") -> float:
        """How long the provider is to be left alone."""
        with pytest.raises(RateLimitedError) as found:
            refusals.check(provider, "AAPL")
        return found.value.retry_after_s

    def test_an_unknown_symbol_is_remembered_for_60_seconds(self, refusals, now) -> None:
        refusals.unknown("NOPE", UnknownSymbolError("yfinance", "no such symbol"))
        for later, is_known in ((0, False), (59.9, False), (60, True)):
            now[0] = 1_000 + later
            if is_known:
                refusals.check("yfinance", "NOPE")
            else:
                with pytest.raises(UnknownSymbolError, match="no such symbol"):
                    refusals.check("yfinance", "NOPE")
        refusals.check("replay", "NOPE")
        refusals.check("yfinance", "AAPL")

    def test_not_more_unknown_symbols_are_remembered_than_fit(self, refusals) -> None:
        for i in range(MOST_UNKNOWN + 5):
            refusals.unknown(f"S{i}", UnknownSymbolError("yfinance", "no"))
        assert len(refusals._unknown) == MOST_UNKNOWN
        refusals.check("yfinance", "S4")
        with pytest.raises(UnknownSymbolError):
            refusals.check("yfinance", "S5")

    def test_those_whose_time_is_over_are_forgotten(self, refusals, now) -> None:
        refusals.unknown("S1", UnknownSymbolError("yfinance", "no"))
        now[0] += 61
        refusals.unknown("S2", UnknownSymbolError("yfinance", "no"))
        assert len(refusals._unknown) == 1

    def test_pauses_double_up_to_half_an_hour(self, refusals, now) -> None:
        found = []
        for _ in range(12):
            refusals.limited(RateLimitedError("yfinance", "too many"), now[0])
            found.append(self.pause(refusals))
            now[0] += found[-1]
            refusals.check("yfinance", "AAPL")
        assert found == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800, 1800]

    def test_a_success_ends_the_doubling(self, refusals, now) -> None:
        for _ in range(3):
            refusals.limited(RateLimitedError("yfinance", "too many"), now[0])
            now[0] += 100
        refusals.answered("yfinance")
        refusals.limited(RateLimitedError("yfinance", "too many"), now[0])
        assert self.pause(refusals) == 5

    def test_calls_that_were_under_way_together_are_one_refusal(self, refusals, now) -> None:
        asked = now[0]
        for _ in range(4):
            now[0] += 1
            told = refusals.limited(RateLimitedError("yfinance", "too many"), asked)
        assert self.pause(refusals) == 2, "5 seconds from the first, which was 3 seconds ago"
        assert told.retry_after_s == 2

    def test_a_longer_wait_that_the_provider_names_is_kept(self, refusals, now) -> None:
        refusals.limited(RateLimitedError("yfinance", "too many", 77.0), now[0])
        assert self.pause(refusals) == 77
        refusals.limited(RateLimitedError("replay", "too many", 1e9), now[0])
        assert self.pause(refusals, "replay") == 86_400

    def test_pauses_of_several_processes_are_not_the_same(self, now) -> None:
        found = set()
        for _ in range(20):
            refusals = Refusals(clock=lambda: now[0])
            refusals.limited(RateLimitedError("yfinance", "too many"), now[0])
            found.add(self.pause(refusals))
        assert len(found) > 10
        assert 4 <= min(found) <= max(found) <= 6


class Line:
    """A stand-in for a connection: answers SELECTs of latest prices from a dict, after `delay_s`."""

    def __init__(self, stock: dict[tuple[str, str], str], delay_s: float = 0.0, error: Exception | None = None) -> None:
        self.stock, self.delay_s, self.error = stock, delay_s, error
        self.asked: list[list[tuple[str, str]]] = []
        self.is_closed = False

    async def execute(self, _sql: str, values: dict[str, list[str]]) -> Line:
        self.asked.append(list(zip(values["symbols"], values["providers"], strict=True)))
        self._rows = [self._row(key) for key in self.asked[-1] if key in self.stock]
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise self.error
        return self

    async def fetchall(self) -> list[dict[str, Any]]:
        return self._rows

    async def close(self) -> None:
        self.is_closed = True

    def _row(self, key: tuple[str, str]) -> dict[str, Any]:
        time_ = datetime.datetime(2025, 6, 15, tzinfo=datetime.timezone.utc)
        price = Decimal(self.stock[key])
        return {"symbol": key[0], "provider": key[1], "price": price, "ts": time_, "fetched_at": time_, "age_s": 1.0}


class TestLatestReads:
    def reads_of(self, *lines: Line) -> LatestReads:
        left = list(lines)

        async def connect() -> Line:
            return left.pop(0)

        return LatestReads(connect)

    def test_reads_that_come_while_one_is_under_way_share_the_next(self) -> None:
        line = Line({("A", "p"): "1", ("B", "p"): "2"}, delay_s=0.02)

        async def body() -> None:
            reading = self.reads_of(line)
            first = [asyncio.create_task(reading.get("A", "p")) for _ in range(3)]
            await asyncio.sleep(0.01)
            second = [asyncio.create_task(reading.get(symbol, "p")) for symbol in "ABCAB"]
            found = [each and each.price for each in await asyncio.gather(*first, *second)]
            assert found == [1, 1, 1, 1, 2, None, 1, 2]
            await reading.close()

        in_loop(body)
        assert line.asked == [[("A", "p")], [("A", "p"), ("B", "p"), ("C", "p")]]
        assert line.is_closed

    def test_a_read_never_sees_what_was_read_before_it_was_asked(self) -> None:
        line = Line({("A", "p"): "1"}, delay_s=0.02)

        async def body() -> None:
            reading = self.reads_of(line)
            first = asyncio.create_task(reading.get("A", "p"))
            await asyncio.sleep(0.01)
            line.stock["A", "p"] = "2"
            second = asyncio.create_task(reading.get("A", "p"))
            assert [(await each).price for each in (first, second)] == [1, 2]

        in_loop(body)

    def test_a_connection_that_broke_is_made_anew_at_once(self) -> None:
        old, new = Line({("A", "p"): "1"}), Line({("A", "p"): "2"})

        async def body() -> None:
            reading = self.reads_of(old, new)
            assert (await reading.get("A", "p")).price == 1
            old.error = psycopg.OperationalError("server closed the connection")
            assert (await reading.get("A", "p")).price == 2

        in_loop(body)
        assert old.is_closed

    def test_an_error_reaches_all_of_its_batch_and_the_next_one_tries_again(self) -> None:
        bad, good = Line({}, delay_s=0.01, error=psycopg.errors.UndefinedTable("no table")), Line({("A", "p"): "1"})

        async def body() -> None:
            reading = self.reads_of(bad, good)
            found = await asyncio.gather(*(reading.get("A", "p") for _ in range(3)), return_exceptions=True)
            assert [type(each) for each in found] == [psycopg.errors.UndefinedTable] * 3
            assert (await reading.get("A", "p")).price == 1

        in_loop(body)
        assert bad.is_closed

    def test_a_read_that_hangs_is_given_up_and_others_get_another_connection(self, monkeypatch) -> None:
        monkeypatch.setattr(reads, "READ_S", 0.05)
        hung, good = Line({("A", "p"): "1"}, delay_s=0.3), Line({("A", "p"): "2"})

        async def body() -> None:
            reading = self.reads_of(hung, good)
            first = asyncio.create_task(reading.get("A", "p"))
            await asyncio.sleep(0.01)
            second = asyncio.create_task(reading.get("A", "p"))
            began = time.monotonic()
            with pytest.raises(DatabaseSilentError):
                await first
            assert (await second).price == 2
            assert time.monotonic() - began < 0.25
            await asyncio.sleep(0.3)
            assert hung.is_closed
            assert (await reading.get("A", "p")).price == 2

        in_loop(body)

    def test_a_caller_that_gives_up_does_not_disturb_the_others(self) -> None:
        line = Line({("A", "p"): "1"}, delay_s=0.02)

        async def body() -> None:
            reading = self.reads_of(line)
            first, second = (asyncio.create_task(reading.get("A", "p")) for _ in range(2))
            await asyncio.sleep(0.01)
            first.cancel()
            assert (await second).price == 1

        in_loop(body)


class TestConnections:
    @pytest.fixture
    def lending(self, database_settings: Settings) -> Callable[[int], Connections]:
        return lambda most: Connections(partial(database.connect_async, database_settings, "test"), most)

    async def pid(self, lent: connections.Session) -> int:
        return (await lent.rows("SELECT pg_backend_pid() AS pid", {}))[0]["pid"]

    def test_a_connection_is_used_again(self, lending) -> None:
        async def body() -> None:
            pool, pids = lending(2), set()
            for _ in range(5):
                async with pool.session() as lent:
                    pids.add(await self.pid(lent))
            assert len(pids) == 1
            await pool.close()

        in_loop(body)

    def test_who_finds_no_free_one_waits_and_in_the_end_is_told(self, lending, monkeypatch) -> None:
        monkeypatch.setattr(connections, "PLACE_S", 0.1)

        async def body() -> None:
            pool = lending(1)
            async with pool.session():
                with pytest.raises(DatabaseSilentError, match="came free"):
                    async with pool.session():
                        pass
            async with pool.session() as lent:
                await self.pid(lent)
            await pool.close()

        in_loop(body)

    def test_after_an_error_a_connection_is_closed_and_its_locks_are_free(self, lending, db) -> None:
        async def body() -> None:
            pool = lending(1)
            with suppress(ZeroDivisionError):
                async with pool.session() as lent:
                    await lent.rows("SELECT pg_advisory_lock(7)", {})
                    raise ZeroDivisionError
            await asyncio.sleep(0.1)
            async with pool.session() as lent:
                rows = await lent.rows("SELECT pg_try_advisory_lock(7) AS ok", {})
                assert rows[0]["ok"]
            await pool.close()

        in_loop(body)

    def test_a_connection_that_the_server_ended_is_replaced(self, lending, db) -> None:
        async def body() -> None:
            pool = lending(3)
            async with pool.session() as one, pool.session() as two:
                pids = [await self.pid(one), await self.pid(two)]
            for pid in pids:
                db.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            async with pool.session() as lent:
                assert await self.pid(lent) not in pids
            await pool.close()

        in_loop(body)

    def test_a_statement_that_takes_too_long_is_left_and_its_place_stays_taken_until_it_ends(
        self, lending, monkeypatch
    ) -> None:
        monkeypatch.setattr(connections, "PLACE_S", 0.1)
        monkeypatch.setattr(connections, "STATEMENT_S", 0.2)

        async def body() -> None:
            pool = lending(1)
            with pytest.raises(DatabaseSilentError, match="did not answer"):
                async with pool.session() as lent:
                    await lent.bounded(lent._rows("SELECT pg_sleep(0.8)", {}), 0.2)
            with pytest.raises(DatabaseSilentError, match="came free"):
                async with pool.session():
                    pass
            await asyncio.sleep(0.7)
            async with pool.session() as lent:
                await self.pid(lent)
            await pool.close()

        in_loop(body)


class Never:
    """A provider that must not be asked."""

    async def latest(self, provider: str, symbol: str) -> Quote:
        raise AssertionError(symbol)

    async def close(self) -> None:
        """It runs nothing."""


def test_the_wait_for_another_process_fetch_may_take_longer_than_a_statement(
    database_settings: Settings, db: psycopg.Connection
) -> None:
    """The other one holds the lock for 0.8 s, here a statement has 0.3 s; then its price is there."""

    async def connect() -> database.AsyncConnection:
        made = await database.connect_async(database_settings, "test")
        await made.execute("SET statement_timeout = '300ms'")
        return made

    def other_is_done() -> None:
        quote = Quote("A", "replay", Decimal(1), datetime.datetime.now(datetime.timezone.utc), {})
        database.run(db, prices.store(quote, topic="t"))
        db.execute("SELECT pg_advisory_unlock(hashtextextended('replay:A', 1))")

    async def body() -> None:
        db.execute("SELECT pg_advisory_lock(hashtextextended('replay:A', 1))")
        asyncio.get_running_loop().call_later(0.8, other_is_done)
        pool = Connections(connect, 1)
        fetcher = Fetcher(database_settings, pool, Never())
        answer = await fetcher.fetch("A", "replay", 300, None)
        assert (answer.cache, answer.latest.price) == ("HIT", 1)
        await pool.close()

    in_loop(body)
