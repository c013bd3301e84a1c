"""Every route over real HTTP: the application on uvicorn and PostgreSQL, with a stand-in for the providers, and with no broker."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from app import prices
from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
)
from app.providers.base import Quote
from app.settings import Settings

if TYPE_CHECKING:
    from local.postgres import EmbeddedPostgres
from tests.serving import TIME, StubProviders, age, assert_problem, hung, latest, listener, quote, serving

SERVICE = Path(__file__).resolve().parents[1]
DAY = datetime.timedelta(days=1)

Db = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def providers() -> StubProviders:
    return StubProviders(AAPL="196.45")


@pytest.fixture
def api(database_settings: Settings, providers: StubProviders) -> Iterator[httpx.Client]:
    with serving(database_settings, providers) as client:
        yield client


NOWHERE = Settings(given_database_url="postgresql://nobody@127.0.0.1:1/none", kafka_bootstrap_servers="127.0.0.1:1")


@pytest.fixture(scope="module")
def offline() -> Iterator[httpx.Client]:
    """An API without a database or a provider: what it refuses with another status than 503 has come to neither."""
    providers = StubProviders()
    with serving(NOWHERE, providers) as client:
        yield client
    assert not providers.calls


def store(db: Db, symbol: str, *rows: tuple[str, datetime.datetime], provider: str = "yfinance") -> None:
    """Prices as a provider told them."""
    from app import database

    for price, ts in rows:
        with db.transaction():
            database.run(db, prices.store(Quote(symbol, provider, Decimal(price), ts, {}), topic="t"))


def counts(db: Db) -> dict[str, int]:
    tables = ("raw_responses", "market_prices", "latest_prices", "outbox")
    return {name: db.execute(f"SELECT count(*) AS n FROM {name}").fetchone()["n"] for name in tables}


class TestLatest:
    def test_a_price_that_is_not_stored_is_fetched_and_stored_with_its_response_and_its_event(self, api, db) -> None:
        response = latest(api)
        assert response.status_code == 200
        assert response.json() == {
            "symbol": "AAPL",
            "price": 196.45,
            "timestamp": "2025-06-15T20:30:27.283671+00:00",
            "provider": "yfinance",
        }
        assert response.headers["X-Cache"] == "MISS"
        assert counts(db) == {"raw_responses": 1, "market_prices": 1, "latest_prices": 1, "outbox": 1}
        event = db.execute("SELECT topic, key, payload FROM outbox").fetchone()
        assert event["key"] == "yfinance:AAPL"
        assert json.loads(event["payload"])["price"] == 196.45

    def test_the_keys_come_in_the_order_of_the_documents_example(self, api) -> None:
        assert list(latest(api).json()) == ["symbol", "price", "timestamp", "provider"]

    @pytest.mark.parametrize(
        "price", ["196.450000", "0.000001", "123456789012.123457", "200", "1e3", "999999999999.999999", "5.10"]
    )
    def test_a_price_is_a_number_exact_to_six_decimals(self, api, providers, price: str) -> None:
        providers.answers["AAPL"] = price
        found = json.loads(latest(api).content, parse_float=Decimal, parse_int=Decimal)["price"]
        assert found == Decimal(price)
        assert isinstance(found, Decimal), "not a text"
        again = json.loads(latest(api).content, parse_float=Decimal, parse_int=Decimal)["price"]
        assert again == found

    def test_a_time_of_another_offset_is_told_in_utc(self, api, providers) -> None:
        eastern = datetime.timezone(datetime.timedelta(hours=-4))
        providers.answers["AAPL"] = quote("AAPL", "1", datetime.datetime(2025, 6, 15, 16, tzinfo=eastern))
        assert latest(api).json()["timestamp"] == "2025-06-15T20:00:00+00:00"

    def test_a_stored_price_is_returned_while_it_is_fresh(self, api, providers, db) -> None:
        latest(api)
        age(db, 299)
        response = latest(api)
        assert (response.headers["X-Cache"], response.headers["Age"]) == ("HIT", "299")
        assert providers.calls["AAPL"] == 1

    def test_a_stored_price_that_is_too_old_is_fetched_again(self, api, providers, db) -> None:
        latest(api)
        age(db, 301)
        providers.answers["AAPL"] = quote("AAPL", "197", TIME + DAY)
        response = latest(api)
        assert (response.headers["X-Cache"], response.headers["Age"]) == ("MISS", "0")
        assert response.json()["price"] == 197

    def test_fresh_is_when_it_was_fetched_not_when_it_was_traded(self, api, providers, db) -> None:
        store(db, "AAPL", ("195", TIME - 3 * DAY))
        assert latest(api).headers["X-Cache"] == "HIT"
        assert not providers.calls

    def test_the_same_price_again_is_fresh_again(self, api, providers, db) -> None:
        latest(api)
        age(db, 400)
        assert [latest(api).headers["X-Cache"] for _ in range(2)] == ["MISS", "HIT"]
        assert counts(db)["market_prices"] == 1

    def test_max_age_decides_instead_of_the_setting(self, api, providers, db) -> None:
        latest(api)
        age(db, 100)
        assert latest(api, max_age=101).headers["X-Cache"] == "HIT"
        assert latest(api, max_age=99.5).headers["X-Cache"] == "MISS"
        assert latest(api, max_age=0).headers["X-Cache"] == "MISS"
        age(db, 1_000)
        assert latest(api, max_age=2_000).headers["X-Cache"] == "HIT"

    def test_small_letters_and_capital_ones_are_one_symbol(self, api, providers) -> None:
        assert latest(api, "aapl").json() == latest(api, "AaPl").json() == latest(api, "AAPL").json()
        assert providers.calls == {"AAPL": 1}

    def test_providers_have_prices_of_their_own(self, api, providers) -> None:
        found = [latest(api, provider=name).json()["provider"] for name in ("yfinance", "replay")]
        assert found == ["yfinance", "replay"]
        assert providers.calls["AAPL"] == 2

    def test_an_etag_saves_sending_the_same_answer_again(self, api, providers, db) -> None:
        etag = latest(api).headers["ETag"]
        for given in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            same = latest_with(api, {"If-None-Match": given})
            assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
            assert same.headers["X-Cache"] == "HIT"
        assert latest_with(api, {"If-None-Match": '"other"'}).status_code == 200
        age(db, 400)
        providers.answers["AAPL"] = "196.46"
        assert latest_with(api, {"If-None-Match": etag}).headers["ETag"] != etag

    def test_a_price_older_than_the_stored_one_does_not_replace_it(self, api, providers, db) -> None:
        latest(api)
        age(db, 400)
        providers.answers["AAPL"] = quote("AAPL", "150", TIME - DAY)
        response = latest(api)
        assert (response.json()["price"], response.headers["X-Cache"]) == (196.45, "MISS")
        assert counts(db)["market_prices"] == 2, "it is kept as history"

    def test_a_corrected_price_replaces_the_one_of_its_timestamp(self, api, providers, db) -> None:
        latest(api)
        providers.answers["AAPL"] = "196.5"
        assert latest(api, max_age=0).json()["price"] == 196.5
        assert counts(db) == {"raw_responses": 2, "market_prices": 1, "latest_prices": 1, "outbox": 2}

    def test_price_response_and_event_are_stored_together_or_not_at_all(self, api, db) -> None:
        db.execute("ALTER TABLE outbox ADD CONSTRAINT broken CHECK (id < 0)")
        assert_problem(latest(api), 500, "internal_error")
        assert counts(db) == {"raw_responses": 0, "market_prices": 0, "latest_prices": 0, "outbox": 0}

    def test_the_event_carries_the_traceparent_of_its_request(self, api, db) -> None:
        given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        latest_with(api, {"traceparent": given})
        assert db.execute("SELECT traceparent FROM outbox").fetchone()["traceparent"] == given

    @pytest.mark.parametrize(
        "given", ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "ff-" + "a" * 32 + "-" + "b" * 16 + "-01"]
    )
    def test_a_traceparent_that_is_none_is_not_carried(self, api, db, given: str) -> None:
        assert latest_with(api, {"traceparent": given}).status_code == 200
        assert db.execute("SELECT traceparent FROM outbox").fetchone()["traceparent"] is None


def latest_with(api: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    return api.get("/prices/latest?symbol=AAPL", headers=headers)


BAD_SYMBOLS = ["", " ", "A" * 16, "AA PL", "AAPL ", "AAPL\n", "AA\x00PL", "\u212a", "ß", "AAPL;", "' OR 1=1--", "%", "A_B", "A/B",
               "'; DROP TABLE market_prices; --", "\U0001f600", "\u0661"]  # fmt: skip


class TestBadQuestions:
    @pytest.mark.parametrize("symbol", BAD_SYMBOLS)
    @pytest.mark.parametrize("path", ["latest", "history", "moving-average"])
    def test_what_is_no_symbol_is_refused_and_the_field_is_named(self, offline, path: str, symbol: str) -> None:
        document = assert_problem(offline.get(f"/prices/{path}", params={"symbol": symbol}), 422, "invalid")
        assert [each["field"] for each in document["errors"]] == ["symbol"]

    def test_what_is_a_symbol_is_asked_for(self, api, providers) -> None:
        symbols = ["A", "BRK-B", "^GSPC", "EURUSD=X", "BF.B", "A" * 15, "0700.HK", "btc-usd"]
        for symbol in symbols:
            assert_problem(latest(api, symbol), 404, "unknown_symbol")
        assert providers.calls == {symbol.upper(): 1 for symbol in symbols}

    @pytest.mark.parametrize("query", ["", "symbol", "symbol=", "symbol=%FF", "Symbol=AAPL", "symbol=%00", "&&&=&"])
    def test_a_query_without_a_symbol_is_refused(self, offline, query: str) -> None:
        document = assert_problem(offline.get(f"/prices/latest?{query}"), 422, "invalid")
        assert document["errors"][0]["field"] == "symbol"

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_age", "-1"), ("max_age", "NaN"), ("max_age", "inf"), ("max_age", "1e99"), ("max_age", "x"),
            ("max_age", ""), ("allow_stale", "maybe"), ("allow_stale", ""),
        ],
    )  # fmt: skip
    def test_a_wrong_parameter_is_refused_and_named(self, offline, field: str, value: str) -> None:
        document = assert_problem(latest(offline, **{field: value}), 422, "invalid")
        assert document["errors"][0]["field"] == field

    @pytest.mark.parametrize("path", ["latest", "history", "moving-average"])
    @pytest.mark.parametrize("provider", ["bloomberg", "", "YFINANCE", "yfinance\x00"])
    def test_an_unknown_provider_is_refused_with_those_there_are(self, offline, path, provider: str) -> None:
        response = offline.get(f"/prices/{path}", params={"symbol": "AAPL", "provider": provider})
        assert assert_problem(response, 400, "unknown_provider")["providers"] == ["yfinance", "replay"]

    @pytest.mark.parametrize("path", ["/", "/nope", "/prices", "/prices/latest/", "/prices/poll/1/stop", "/redoc"])
    def test_an_unknown_path_is_a_problem_too(self, offline, path: str) -> None:
        assert_problem(offline.get(path), 404, "not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/prices/latest", "GET"),
            ("PUT", "/prices/poll", "GET, POST"),
            ("POST", "/prices/poll/1", "DELETE, GET"),
            ("GET", "/prices/poll/1/pause", "POST"),
            ("OPTIONS", "/health", "GET"),
        ],
    )
    def test_a_method_that_a_path_has_not_is_refused_with_those_it_has(
        self, offline, method, path, allowed: str
    ) -> None:
        response = offline.request(method, path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == allowed


class TestFailingProvider:
    def test_an_unknown_symbol_is_not_stored_and_not_asked_for_again(self, api, providers, db) -> None:
        for _ in range(3):
            document = assert_problem(latest(api, "NOPE"), 404, "unknown_symbol")
            assert document["provider"] == "yfinance"
        assert providers.calls["NOPE"] == 1
        assert counts(db)["raw_responses"] == 0

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (ProviderTimeoutError("yfinance", "no answer within 10 s"), 504, "provider_timeout"),
            (ProviderNetworkError("yfinance", "connection refused"), 502, "provider_network"),
            (BadPriceError("yfinance", "its price is nan; it must be a number"), 502, "provider_bad_price"),
            (ProviderError("yfinance", "KeyError: 'chart'"), 502, "provider_failed"),
            (RateLimitedError("yfinance", "too many requests", 17.2), 503, "provider_rate_limited"),
        ],
    )
    def test_a_failure_names_its_provider_and_stores_nothing(self, api, providers, db, error, status, code) -> None:
        providers.answers["AAPL"] = error
        document = assert_problem(latest(api), status, code)
        assert document["provider"] == "yfinance"
        assert "yfinance" in document["detail"]
        assert counts(db)["raw_responses"] == 0

    @pytest.mark.parametrize(
        "error",
        [
            ProviderTimeoutError("yfinance", "no answer"),
            ProviderNetworkError("yfinance", "refused"),
            BadPriceError("yfinance", "its price is -1"),
            RateLimitedError("yfinance", "too many requests"),
        ],
    )
    def test_a_stale_price_is_returned_to_those_who_take_it(self, api, providers, db, error) -> None:
        latest(api)
        age(db, 5_000)
        providers.answers["AAPL"] = error
        stale = latest(api, allow_stale="true")
        assert (stale.status_code, stale.headers["X-Cache"], stale.headers["Age"]) == (200, "STALE", "5000")
        assert stale.json()["price"] == 196.45
        assert latest(api).status_code in (502, 503, 504)

    def test_without_a_stored_price_nothing_is_stale(self, api, providers) -> None:
        providers.answers["AAPL"] = ProviderTimeoutError("yfinance", "no answer")
        assert_problem(latest(api, allow_stale="true"), 504, "provider_timeout")

    def test_a_storm_does_not_reach_a_provider_that_asked_for_fewer_calls(self, api, providers) -> None:
        providers.answers |= {f"S{i}": RateLimitedError("yfinance", "too many requests", 30.0) for i in range(40)}
        with ThreadPoolExecutor(20) as pool:
            found = list(pool.map(lambda i: latest(api, f"S{i % 40}"), range(200)))
        assert {each.status_code for each in found} == {503}
        assert {int(each.headers["Retry-After"]) for each in found} <= {29, 30}
        assert sum(providers.calls.values()) <= 4, "only those that were under way together"

    def test_a_provider_is_asked_again_when_its_time_is_over(self, api, providers) -> None:
        providers.answers["AAPL"] = RateLimitedError("replay", "too many requests", None)
        wait_s = int(latest(api, provider="replay").headers["Retry-After"])
        assert 4 <= wait_s <= 6
        providers.answers["AAPL"] = "196.45"
        assert_problem(latest(api, provider="replay"), 503, "provider_rate_limited")
        assert latest(api, provider="yfinance").status_code == 200, "another provider is not concerned"
        time.sleep(wait_s)
        assert latest(api, provider="replay").status_code == 200


class TestManyAtOnce:
    def test_callers_of_one_symbol_share_one_fetch(self, api, providers, db) -> None:
        providers.delay_s = 0.3
        with ThreadPoolExecutor(40) as pool:
            found = list(pool.map(lambda _: latest(api), range(40)))
        assert {each.status_code for each in found} == {200}
        assert providers.calls["AAPL"] == 1
        assert counts(db)["market_prices"] == 1

    def test_callers_of_an_unknown_symbol_share_one_fetch(self, api, providers) -> None:
        providers.delay_s = 0.2
        with ThreadPoolExecutor(20) as pool:
            found = list(pool.map(lambda _: latest(api, "NOPE"), range(20)))
        assert {each.status_code for each in found} == {404}
        assert providers.calls["NOPE"] == 1

    def test_not_more_calls_than_set_are_under_way(self, database_settings, providers) -> None:
        providers.delay_s = 0.05
        providers.answers |= {f"S{i}": "1" for i in range(20)}
        with (
            serving(replace(database_settings, provider_max_concurrency=3), providers) as api,
            ThreadPoolExecutor(20) as pool,
        ):
            found = list(pool.map(lambda i: latest(api, f"S{i}"), range(20)))
        assert {each.status_code for each in found} == {200}
        assert providers.most_at_once == 3

    def test_who_waits_in_vain_for_a_call_is_told_to_come_again(self, database_settings, providers) -> None:
        providers.delay_s = 2.0
        few = replace(database_settings, provider_max_concurrency=1, provider_timeout_seconds=0.2)
        with serving(few, providers) as api, ThreadPoolExecutor(2) as pool:
            first = pool.submit(latest, api)
            time.sleep(0.2)
            second = latest(api, "MSFT")
            assert_problem(second, 503, "provider_rate_limited")
            assert second.headers["Retry-After"] == "1"
            assert first.result().status_code == 200

    def test_of_two_processes_that_miss_at_once_one_fetches(self, database_settings, providers, db) -> None:
        providers.delay_s = 0.5
        with serving(database_settings, providers) as one, serving(database_settings, providers) as other:
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(latest, (one, other)))
            assert sorted(each.headers["X-Cache"] for each in found) == ["HIT", "MISS"]
            assert found[0].json() == found[1].json()
            with ThreadPoolExecutor(2) as pool:
                asked = list(pool.map(lambda api: latest(api, max_age=0), (one, other)))
        assert sorted(each.headers["X-Cache"] for each in asked) == ["HIT", "MISS"], (
            "also where max_age wants a new one"
        )
        assert providers.calls["AAPL"] == 2

    def test_a_second_process_fetches_where_the_first_one_failed(self, database_settings, providers, db) -> None:
        providers.answers["AAPL"] = ProviderNetworkError("yfinance", "refused")
        providers.delay_s = 0.2
        run = partial(serving, database_settings, providers)
        with run() as one, run() as other, ThreadPoolExecutor(2) as pool:
            found = list(pool.map(latest, (one, other)))
        assert [each.status_code for each in found] == [502, 502]
        assert providers.calls["AAPL"] == 2
        locks = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND database = "
        own = db.execute(locks + "(SELECT oid FROM pg_database WHERE datname = current_database())").fetchone()
        assert own["n"] == 0

    def test_a_fetch_goes_on_for_the_others_when_its_first_caller_hangs_up(self, api, providers) -> None:
        providers.delay_s = 0.5
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(httpx.ReadTimeout):
                api.get("/prices/latest?symbol=AAPL", timeout=0.1)
            assert pool.submit(latest, api).result().status_code == 200
        assert providers.calls["AAPL"] == 1


class TestDatabaseAway:
    PATHS = ("/prices/latest?symbol=AAPL&allow_stale=true", "/prices/history?symbol=AAPL", "/prices/poll", "/prices/poll/1",
             "/prices/moving-average?symbol=AAPL", "/ready")  # fmt: skip

    def test_every_answer_is_503_at_once_and_no_provider_is_asked(self, providers) -> None:
        with serving(NOWHERE, providers) as api:
            began = time.monotonic()
            for path in self.PATHS:
                response = api.get(path)
                assert_problem(response, 503, "database_unavailable")
                assert int(response.headers["Retry-After"]) >= 1
            poll = api.post("/prices/poll", json={"symbol": "AAPL", "interval_minutes": 1})
            assert_problem(poll, 503, "database_unavailable")
            assert time.monotonic() - began < 2
            assert api.get("/health").json() == {"status": "ok"}
            assert "outbox_pending NaN" in api.get("/metrics").text
        assert not providers.calls

    def test_it_is_used_again_as_soon_as_it_is_back(self, api, providers, postgres: EmbeddedPostgres) -> None:
        assert latest(api).status_code == 200
        assert api.get("/prices/poll").status_code == 200
        postgres.kill()
        for path in self.PATHS:
            assert_problem(api.get(path), 503, "database_unavailable")
        postgres.start()
        for path in ("/prices/latest?symbol=AAPL", "/prices/poll", "/prices/history?symbol=AAPL"):
            assert api.get(path).status_code == 200
        assert providers.calls["AAPL"] == 1

    def test_a_database_that_hangs_is_not_waited_for(self, api, postgres: EmbeddedPostgres) -> None:
        assert latest(api).status_code == 200
        assert api.get("/prices/poll").status_code == 200
        with hung(postgres):
            began = time.monotonic()
            with ThreadPoolExecutor(30) as pool:
                found = list(pool.map(lambda i: api.get(self.PATHS[i % 4]), range(30)))
            assert time.monotonic() - began < 7
            assert {each.status_code for each in found} == {503}
        began = time.monotonic()
        while api.get("/prices/poll").status_code != 200 or latest(api).status_code != 200:
            assert time.monotonic() - began < 8
            time.sleep(0.05)

    def test_a_database_without_tables_is_told_apart(self, database_settings, providers, db) -> None:
        db.execute("DROP TABLE moving_averages, latest_prices, polling_job_configs")
        with serving(database_settings, providers) as api:
            for path in ("/prices/latest?symbol=AAPL", "/prices/poll", "/prices/moving-average?symbol=AAPL"):
                document = assert_problem(api.get(path), 503, "schema_missing")
                assert "scripts/create_tables.py" in document["detail"]
        assert not providers.calls


class TestPolling:
    def test_a_job_is_scheduled_with_the_documents_message(self, api) -> None:
        body = {"symbol": "AAPL", "interval_minutes": 60, "provider": "yfinance"}
        response = api.post("/prices/poll", json=body)
        assert response.status_code == 202
        document = response.json()
        assert document["message"] == "Polling job scheduled for symbol: AAPL"
        assert (document["job_id"], document["status"]) == (1, "active")
        assert datetime.datetime.fromisoformat(document["next_run_at"]).utcoffset() == datetime.timedelta(0)

    def test_the_same_symbol_and_provider_again_changes_the_interval_of_the_same_job(self, api) -> None:
        ids = [
            api.post("/prices/poll", json={"symbol": symbol, "interval_minutes": minutes}).json()["job_id"]
            for symbol, minutes in (("AAPL", 60), ("aapl", 5))
        ]
        other = api.post("/prices/poll", json={"symbol": "AAPL", "interval_minutes": 1, "provider": "replay"}).json()
        assert ids[0] == ids[1] != other["job_id"]
        assert api.get(f"/prices/poll/{ids[0]}").json()["interval_minutes"] == 5

    def test_several_symbols_are_one_request(self, api) -> None:
        response = api.post("/prices/poll", json={"symbols": ["msft", "AAPL", "MSFT"], "interval_minutes": 60})
        assert response.status_code == 202
        document = response.json()
        assert document["message"] == "Polling jobs scheduled for symbols: MSFT, AAPL"
        assert [job["symbol"] for job in document["jobs"]] == ["MSFT", "AAPL"]
        assert len(api.get("/prices/poll").json()["jobs"]) == 2

    def test_of_several_symbols_all_are_scheduled_or_none(self, api) -> None:
        for wrong in ("A B", "", 5, None, "A" * 16):
            response = api.post("/prices/poll", json={"symbols": ["AAPL", wrong], "interval_minutes": 60})
            document = assert_problem(response, 422, "invalid")
            assert document["errors"][0]["field"] == "symbols.1"
        assert api.get("/prices/poll").json() == {"jobs": [], "next_cursor": None}

    def test_where_the_database_refuses_one_symbol_none_is_scheduled(self, api, db) -> None:
        db.execute("ALTER TABLE polling_job_configs ADD CONSTRAINT broken CHECK (symbol <> 'MSFT')")
        response = api.post("/prices/poll", json={"symbols": ["AAPL", "MSFT"], "interval_minutes": 60})
        assert_problem(response, 500, "internal_error")
        assert api.get("/prices/poll").json()["jobs"] == []

    GOOD = {"symbol": "AAPL", "interval_minutes": 60}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"interval_minutes": 0}, "interval_minutes"), ({"interval_minutes": 10_081}, "interval_minutes"),
            ({"interval_minutes": -1}, "interval_minutes"), ({"interval_minutes": 1.5}, "interval_minutes"),
            ({"interval_minutes": "60"}, "interval_minutes"), ({"interval_minutes": True}, "interval_minutes"),
            ({"interval_minutes": None}, "interval_minutes"), ({"interval_minutes": 10**30}, "interval_minutes"),
            ({"interval_minutes": []}, "interval_minutes"), ({"symbol": ""}, "symbol"), ({"symbol": "A" * 16}, "symbol"),
            ({"symbol": 5}, "symbol"), ({"symbol": None}, "symbol"), ({"symbol": ["AAPL"]}, "symbol"),
            ({"symbol": "'; DROP TABLE x"}, "symbol"), ({"symbol": "A\n"}, "symbol"), ({"provider": 5}, "provider"),
            ({"provider": None}, "provider"), ({"backfill": "yes"}, "backfill"), ({"colour": "red"}, "colour"),
            ({"symbols": ["MSFT"]}, "symbol"), ({"one": 1}, "one"), ({"body": 1}, "body"),
        ],
    )  # fmt: skip
    def test_a_wrong_field_is_refused_and_named(self, offline, change: dict[str, Any], field: str) -> None:
        response = offline.post("/prices/poll", json=self.GOOD | change)
        document = assert_problem(response, 422, "invalid")
        assert field in [each["field"] for each in document["errors"]]

    @pytest.mark.parametrize("missing", ["symbol", "interval_minutes"])
    def test_a_missing_field_is_named(self, offline, missing: str) -> None:
        body = {name: value for name, value in self.GOOD.items() if name != missing}
        document = assert_problem(offline.post("/prices/poll", json=body), 422, "invalid")
        assert [each["field"] for each in document["errors"]] == [missing]

    @pytest.mark.parametrize("symbols", [[], ["AAPL"] * 101, "AAPL", None, {}])
    def test_a_wrong_list_of_symbols_is_refused(self, offline, symbols: object) -> None:
        document = assert_problem(
            offline.post("/prices/poll", json={"symbols": symbols, "interval_minutes": 1}), 422, "invalid"
        )
        assert document["errors"][0]["field"] == "symbols"

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"AAPL", b"[]", b"null", b"5", b'"AAPL"', b"\xff\xfe", b'{"symbol": "\xff", "interval_minutes": 1}',
            b'{"symbol": "AAPL", "interval_minutes": NaN}', b'{"symbol": "AAPL", "interval_minutes": Infinity}',
            b'{"symbol": "AAPL", "interval_minutes": 1e999}', b'{"symbol": "\\ud800", "interval_minutes": 1}',
            b'{"symbol": "AAPL", "interval_minutes": ' + b"9" * 5_000 + b"}", b"[" * 60_000, b'{"a":' * 10_000,
            b"{'symbol': 'AAPL'}", b'{"symbol": "AAPL", "interval_minutes": 1,}',
        ],
        ids=lambda body: repr(body[:30]),
    )  # fmt: skip
    def test_a_body_that_is_not_json_is_refused(self, offline, body: bytes) -> None:
        response = offline.post("/prices/poll", content=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 422, "invalid")

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
    def test_a_body_of_another_content_type_is_refused(self, offline, kind: str | None) -> None:
        headers = {} if kind is None else {"Content-Type": kind}
        response = offline.post("/prices/poll", content=json.dumps(self.GOOD).encode(), headers=headers)
        assert "application/json" in assert_problem(response, 422, "invalid")["detail"]

    def test_json_with_a_charset_is_json(self, api) -> None:
        headers = {"Content-Type": "Application/JSON; charset=utf-8"}
        response = api.post("/prices/poll", content=json.dumps(self.GOOD).encode(), headers=headers)
        assert response.status_code == 202

    def test_an_unknown_provider_is_refused_with_those_there_are(self, offline) -> None:
        response = offline.post("/prices/poll", json=self.GOOD | {"provider": "bloomberg"})
        assert assert_problem(response, 400, "unknown_provider")["providers"] == ["yfinance", "replay"]

    @pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_may_have_64_kib(self, api, size: int, chunked: bool) -> None:
        text = json.dumps(self.GOOD).encode()
        body = text + b" " * (size - len(text))
        parts = (body[at : at + 1_000] for at in range(0, size, 1_000))
        headers = {"Content-Type": "application/json"}
        response = api.post("/prices/poll", content=parts if chunked else body, headers=headers)
        if size == 64 * 1024:
            assert response.status_code == 202
        else:
            assert_problem(response, 413, "body_too_large")

    def test_a_large_body_is_refused_wherever_it_is_sent(self, offline) -> None:
        for method, path in (("GET", "/health"), ("PUT", "/nope"), ("POST", "/prices/poll/1/pause")):
            assert_problem(offline.request(method, path, content=b"x" * 70_000), 413, "body_too_large")

    def test_a_body_without_end_is_not_read_to_its_end(self, offline) -> None:
        sent = 0

        def parts() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(10_000):
                sent += 10_000
                yield b" " * 10_000

        try:
            response = offline.post("/prices/poll", content=parts(), headers={"Content-Type": "application/json"})
            assert_problem(response, 413, "body_too_large")
        except httpx.WriteError:
            pass  # hung up before the client looked for the answer
        assert sent < 50_000_000

    def test_a_job_can_be_looked_at_paused_resumed_and_removed(self, api) -> None:
        job = api.post("/prices/poll", json=self.GOOD | {"backfill": True}).json()
        path = f"/prices/poll/{job['job_id']}"
        shown = api.get(path).json()
        assert shown | {"created_at": ""} == {
            "job_id": 1, "symbol": "AAPL", "provider": "yfinance", "interval_minutes": 60, "status": "active", "backfill": True,
            "next_run_at": job["next_run_at"], "last_run_at": None, "last_error": None, "failures": 0, "created_at": "",
        }  # fmt: skip
        assert api.post(path + "/pause").json()["status"] == "paused"
        assert api.get(path).json()["status"] == "paused"
        assert api.post(path + "/resume").json()["status"] == "active"
        assert (api.delete(path).status_code, api.delete(path).status_code) == (204, 404)
        assert_problem(api.get(path), 404, "unknown_job")

    ON_ONE = (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"))

    def test_an_unknown_job_is_a_404(self, api) -> None:
        for method, rest in self.ON_ONE:
            for unknown in (7, 2**63 - 1):
                assert_problem(api.request(method, f"/prices/poll/{unknown}{rest}"), 404, "unknown_job")

    @pytest.mark.parametrize("wrong", ["x", "0", "-1", "1.5", str(2**63), "9" * 5_000, "%00"])
    def test_what_is_no_id_is_refused(self, offline, wrong: str) -> None:
        for method, rest in self.ON_ONE:
            document = assert_problem(offline.request(method, f"/prices/poll/{wrong}{rest}"), 422, "invalid")
            assert document["errors"][0]["field"] == "job_id"

    def test_jobs_are_listed_page_by_page(self, api) -> None:
        symbols = [f"S{i:02}" for i in range(25)]
        api.post("/prices/poll", json={"symbols": symbols, "interval_minutes": 1})
        found, cursor = [], 0
        while cursor is not None:
            page = api.get("/prices/poll", params={"limit": 10, "cursor": cursor}).json()
            found += [job["symbol"] for job in page["jobs"]]
            cursor = page["next_cursor"]
        assert found == symbols

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=-1", "cursor=x"])
    def test_a_wrong_page_is_refused(self, offline, query: str) -> None:
        document = assert_problem(offline.get(f"/prices/poll?{query}"), 422, "invalid")
        assert document["errors"][0]["field"] == query.split("=")[0]


class TestHistory:
    @pytest.fixture
    def stored(self, db: Db) -> list[datetime.datetime]:
        """Times of 25 prices of AAPL, oldest first, a day apart; 1 is the price of the first."""
        times = [TIME + i * DAY for i in range(25)]
        store(db, "AAPL", *((str(i + 1), time) for i, time in enumerate(times)))
        store(db, "MSFT", ("900", TIME))
        store(db, "AAPL", ("901", TIME), provider="replay")
        return times

    def test_the_newest_prices_come_first(self, api, stored) -> None:
        document = api.get("/prices/history?symbol=aapl&limit=3").json()
        assert (document["symbol"], document["provider"]) == ("AAPL", "yfinance")
        assert [each["price"] for each in document["prices"]] == [25, 24, 23]
        assert document["prices"][0]["timestamp"] == stored[-1].isoformat()

    def test_pages_follow_each_other_without_gap_or_repetition_while_prices_come_in(self, api, stored, db) -> None:
        found, cursor = [], ""
        while cursor is not None:
            query = {"symbol": "AAPL", "limit": 7} | ({"cursor": cursor} if cursor else {})
            page = api.get("/prices/history", params=query).json()
            found += [each["price"] for each in page["prices"]]
            cursor = page["next_cursor"]
            store(db, "AAPL", (str(1_000 + len(found)), stored[-1] + len(found) * DAY))
        assert found == list(range(25, 0, -1))

    def test_a_page_that_ends_with_the_oldest_price_has_no_next(self, api, stored) -> None:
        assert api.get("/prices/history?symbol=AAPL&limit=25").json()["next_cursor"] is None
        assert api.get("/prices/history?symbol=AAPL&limit=24").json()["next_cursor"] is not None

    def test_from_is_included_and_to_is_not(self, api, stored) -> None:
        span = {"from": stored[4].isoformat(), "to": stored[6].isoformat()}
        document = api.get("/prices/history", params={"symbol": "AAPL"} | span).json()
        assert [each["price"] for each in document["prices"]] == [6, 5]

    def test_times_of_another_offset_are_understood(self, api, stored) -> None:
        eastern = datetime.timezone(datetime.timedelta(hours=-4))
        span = {"from": stored[24].astimezone(eastern).isoformat()}
        assert len(api.get("/prices/history", params={"symbol": "AAPL"} | span).json()["prices"]) == 1

    def test_any_offset_below_24_hours_is_understood(self, api, stored) -> None:
        far_east = datetime.timezone(datetime.timedelta(hours=23))
        span = {"from": stored[24].astimezone(far_east).isoformat()}
        assert len(api.get("/prices/history", params={"symbol": "AAPL"} | span).json()["prices"]) == 1
        before_all = api.get("/prices/history", params={"symbol": "AAPL", "from": "0001-01-01T00:00:00+23:00"})
        assert before_all.status_code == 422

    def test_prices_before_1970_have_cursors_too(self, api, db) -> None:
        old = datetime.datetime(1962, 1, 2, tzinfo=datetime.timezone.utc)
        store(db, "IBM", ("1", old), ("2", old + DAY), ("3", old + 2 * DAY))
        first = api.get("/prices/history?symbol=IBM&limit=1").json()
        second = api.get(f"/prices/history?symbol=IBM&limit=5&cursor={first['next_cursor']}").json()
        assert [each["price"] for each in second["prices"]] == [2, 1]

    def test_a_symbol_without_prices_has_an_empty_history(self, api, providers) -> None:
        assert api.get("/prices/history?symbol=NOPE").json()["prices"] == []
        assert not providers.calls

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0", "limit=1001", "limit=x", "from=yesterday", "from=2025-06-15T00:00:00", "to=2025-06-15", "cursor=x",
            "cursor=99999999999999999999",  "cursor=-99999999999999999", "cursor=", "to=",
        ],
    )  # fmt: skip
    def test_a_wrong_parameter_is_refused_and_named(self, offline, query: str) -> None:
        document = assert_problem(offline.get(f"/prices/history?symbol=AAPL&{query}"), 422, "invalid")
        assert document["errors"][0]["field"] == query.split("=")[0]


class TestMovingAverage:
    def test_it_is_the_pipelines_newest_one(self, api, db) -> None:
        insert = (
            "INSERT INTO moving_averages (symbol, provider, window_size, ts, avg_price, price_id) "
            "VALUES ('AAPL', 'yfinance', %s, %s, %s, 1)"
        )
        for window, ts, average in ((5, TIME, "10.5"), (5, TIME + DAY, "11.123456"), (9, TIME + 2 * DAY, "99")):
            db.execute(insert, [window, ts, average])
        assert api.get("/prices/moving-average?symbol=aapl").json() == {
            "symbol": "AAPL",
            "provider": "yfinance",
            "window": 5,
            "moving_average": 11.123456,
            "timestamp": (TIME + DAY).isoformat(),
        }
        assert api.get("/prices/moving-average?symbol=AAPL&window=5").json()["moving_average"] == 11.123456

    def test_another_window_is_computed_from_the_newest_prices(self, api, db) -> None:
        store(db, "AAPL", *((price, TIME + i * DAY) for i, price in enumerate(("7", "1", "1", "2"))))
        document = api.get("/prices/moving-average?symbol=AAPL&window=3").json()
        assert document["moving_average"] == 1.333333
        assert document["timestamp"] == (TIME + 3 * DAY).isoformat()

    def test_there_is_none_of_fewer_prices(self, api, db) -> None:
        store(db, "AAPL", *((str(i + 1), TIME + i * DAY) for i in range(4)))
        assert api.get("/prices/moving-average?symbol=AAPL&window=4").status_code == 200
        for window in (5, 6):
            response = api.get(f"/prices/moving-average?symbol=AAPL&window={window}")
            assert_problem(response, 404, "no_average")

    @pytest.mark.parametrize("window", ["0", "-5", "1001", "x", "", "1.5"])
    def test_a_wrong_window_is_refused(self, offline, window: str) -> None:
        document = assert_problem(offline.get(f"/prices/moving-average?symbol=AAPL&window={window}"), 422, "invalid")
        assert document["errors"][0]["field"] == "window"


class TestOperations:
    def beat(self, db: Db, age_s: float = 0.0, **lags: int) -> None:
        """Heartbeats of relay and poller, and of one consumer for each lag."""
        beats = [("relay", "a", "{}"), ("poller", "a", "{}")]
        beats += [("consumer", name, json.dumps({"lag": lag})) for name, lag in lags.items()]
        for beat in beats:
            db.execute(
                "INSERT INTO heartbeats VALUES (%s, %s, now() - make_interval(secs => %s), %s)",
                [*beat[:2], age_s, beat[2]],
            )

    def test_ready_tells_of_all_that_is_needed(self, database_settings, providers, db) -> None:
        self.beat(db, one=3, two=4)
        with listener() as broker:
            running = replace(database_settings, kafka_bootstrap_servers=f"127.0.0.1:{broker.getsockname()[1]}")
            with serving(running, providers) as api:
                response = api.get("/ready")
        assert response.status_code == 200
        document = response.json()
        assert document["status"] == "ready"
        assert list(document["checks"]) == ["database", "broker", "outbox", "relay", "consumer", "poller"]
        assert document["checks"]["consumer"]["lag"] == 7
        assert document["checks"]["outbox"]["pending"] == 0

    def test_without_a_broker_requests_are_answered_and_ready_says_degraded(self, api, db) -> None:
        self.beat(db, one=0)
        assert latest(api).status_code == 200
        response = api.get("/ready")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        checks = response.json()["checks"]
        assert {name for name, check in checks.items() if not check["ok"]} == {"broker"}

    def test_who_is_silent_for_ten_seconds_is_missed(self, api, db) -> None:
        checks = api.get("/ready").json()["checks"]
        assert {name for name, check in checks.items() if not check["ok"]} == {"broker", "relay", "consumer", "poller"}
        self.beat(db, age_s=11, one=5)
        checks = api.get("/ready").json()["checks"]
        assert not checks["poller"]["ok"]
        assert checks["consumer"]["lag"] is None

    def test_events_that_wait_for_more_than_a_minute_are_missed(self, api, db) -> None:
        latest(api)
        assert api.get("/ready").json()["checks"]["outbox"]["ok"]
        db.execute("UPDATE outbox SET created_at = now() - interval '61 s'")
        outbox = api.get("/ready").json()["checks"]["outbox"]
        assert (outbox["ok"], outbox["pending"]) == (False, 1)
        assert outbox["oldest_age_seconds"] > 60

    def test_not_ready_tells_of_the_broker_too(self, providers) -> None:
        with serving(NOWHERE, providers) as api:
            document = assert_problem(api.get("/ready"), 503, "database_unavailable")
        assert {name: check["ok"] for name, check in document["checks"].items()} == {"database": False, "broker": False}

    def test_metrics_count_what_was_asked(self, api, providers, db) -> None:
        before = metrics_of(api)
        latest(api)
        latest(api)
        latest(api, "NOPE")
        api.get("/prices/poll/77")
        api.get("/somewhere/else")
        after = metrics_of(api)

        def more(name: str) -> float:
            return after[name] - before.get(name, 0)

        assert more('price_cache_total{result="HIT"}') == 1
        assert more('price_cache_total{result="MISS"}') == 1
        assert more('prices_fetched_total{provider="yfinance",result="ok"}') == 1
        assert more('prices_fetched_total{provider="yfinance",result="unknown_symbol"}') == 1
        assert more('provider_latency_seconds_count{provider="yfinance"}') == 2
        seconds = 'http_request_duration_seconds_count{method="GET",route="%s",status="%d"}'
        assert more(seconds % ("/prices/latest", 200)) == 2
        assert more(seconds % ("/prices/latest", 404)) == 1
        assert more(seconds % ("/prices/poll/{job_id}", 404)) == 1
        assert more(seconds % ("other", 404)) == 1

    def test_metrics_of_other_processes_come_from_the_database(self, api, db) -> None:
        self.beat(db, one=3, two=4)
        latest(api)
        db.execute("UPDATE outbox SET created_at = now() - interval '100 s'")
        found = metrics_of(api)
        assert (found["outbox_pending"], found["consumer_lag"]) == (1, 7)
        assert 100 <= found["outbox_oldest_age_seconds"] < 110
        assert abs(found["poller_heartbeat_timestamp_seconds"] - time.time()) < 10

    def test_labels_stay_few_whatever_is_asked(self, offline) -> None:
        before = len(metrics_of(offline))
        for i in range(30):
            offline.get(f"/x{i}")
            offline.request(f"METHOD{i}", "/health")
            latest(offline, f"S{i}")
            offline.get(f"/prices/poll/{i + 1}")
        assert len(metrics_of(offline)) - before < 100

    def test_an_unforeseen_error_is_logged_and_not_told(self, api, db, caplog) -> None:
        db.execute("CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END'")
        db.execute("CREATE TRIGGER boom BEFORE INSERT ON polling_job_configs EXECUTE FUNCTION boom()")
        with caplog.at_level(logging.ERROR):
            response = api.post("/prices/poll", json={"symbol": "AAPL", "interval_minutes": 1})
        document = assert_problem(response, 500, "internal_error")
        assert "division" not in document["detail"]
        assert any(record.exc_info and "DivisionByZero" in str(record.exc_info[0]) for record in caplog.records)

    def test_the_documents_are_at_the_seeds_addresses(self, offline) -> None:
        assert "swagger" in offline.get("/docs").text.lower()
        assert offline.get("/openapi.json").json()["openapi"].startswith("3.")


def metrics_of(api: httpx.Client) -> dict[str, float]:
    lines = api.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}
