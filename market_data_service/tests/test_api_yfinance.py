"""`GET /prices/latest` through the real yfinance in its child process; it reaches a stand-in for Yahoo's servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from app.settings import Settings
from tests.serving import age, assert_problem, latest, serving
from tests.yahoo import Yahoo

TIMEOUT_S = 2.0


@pytest.fixture
def api(database_settings: Settings, yahoo: Yahoo) -> Iterator[httpx.Client]:
    """The API with its real providers, which has fetched MSFT once: yfinance is imported."""
    yahoo.price("AAPL", 196.45)
    with serving(replace(database_settings, provider_timeout_seconds=TIMEOUT_S)) as client:
        client.timeout = 90
        assert latest(client, "MSFT").status_code == 200
        yield client


def test_yahoos_price_is_fetched_stored_and_stays_what_it_was(api, yahoo: Yahoo, db) -> None:
    first = latest(api)
    asked = yahoo.counts["chart AAPL"]
    second = latest(api)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("MISS", "HIT")
    assert first.json() == second.json()
    assert first.json()["price"] == 196.45
    assert yahoo.counts["chart AAPL"] == asked
    stored = db.execute("SELECT body, status FROM raw_responses WHERE symbol = 'AAPL'").fetchone()
    assert stored["status"] == 200
    assert stored["body"]


@pytest.mark.parametrize("fixture", ["404", "empty"])
def test_a_symbol_that_yahoo_does_not_know_is_a_404_and_is_asked_for_once(api, yahoo: Yahoo, fixture: str) -> None:
    yahoo.answer("NOPE", fixture)
    for _ in range(3):
        assert_problem(latest(api, "NOPE"), 404, "unknown_symbol")
    asked = yahoo.counts["chart NOPE"]
    assert_problem(latest(api, "NOPE"), 404, "unknown_symbol")
    assert yahoo.counts["chart NOPE"] == asked


def test_a_storm_of_429_ends_in_stale_prices_and_leaves_yahoo_alone(api, yahoo: Yahoo, db) -> None:
    latest(api)
    age(db, 1_000)
    yahoo.retry_after = "30"
    yahoo.storm(True)
    refused = latest(api)
    assert_problem(refused, 503, "provider_rate_limited")
    assert int(refused.headers["Retry-After"]) >= 4
    asked = sum(yahoo.counts.values())
    for i in range(20):
        stale = latest(api, allow_stale="true")
        assert (stale.status_code, stale.headers["X-Cache"]) == (200, "STALE")
        assert_problem(latest(api, f"S{i}"), 503, "provider_rate_limited")
    assert sum(yahoo.counts.values()) == asked


def test_demonstration_7_a_storm_of_429_backs_off_in_steps_and_ends(api, yahoo: Yahoo, db) -> None:
    def calls() -> float:
        line = 'prices_fetched_total{provider="yfinance",result="rate_limited"} '
        lines = api.get("/metrics").text.splitlines()
        return next((float(each.removeprefix(line)) for each in lines if each.startswith(line)), 0.0)

    latest(api)
    age(db, 1_000)
    yahoo.retry_after = "1"
    yahoo.storm(True)
    before, pauses_s = calls(), []
    for number in (1, 2):
        refused = latest(api)
        assert_problem(refused, 503, "provider_rate_limited")
        pauses_s.append(int(refused.headers["Retry-After"]))
        stale = [latest(api, allow_stale="true") for _ in range(20)]
        assert {(each.status_code, each.headers["X-Cache"]) for each in stale} == {(200, "STALE")}
        assert calls() == before + number
        if number == 2:
            yahoo.storm(False)
        time.sleep(pauses_s[-1] + 0.5)
    assert pauses_s[0] < pauses_s[1]
    again = latest(api)
    assert (again.status_code, again.headers["X-Cache"]) == (200, "MISS")
    print(
        f"\ndemonstration 7: 2 calls in the storm, pauses of {pauses_s} s, 40 STALE answers meanwhile, then a fresh price"
    )


def test_an_answer_that_takes_too_long_is_a_504(api, yahoo: Yahoo) -> None:
    yahoo.slow_s = 3 * TIMEOUT_S
    yahoo.answer("TSLA", "slow")
    document = assert_problem(latest(api, "TSLA"), 504, "provider_timeout")
    assert document["provider"] == "yfinance"


@pytest.mark.parametrize(
    ("fixture", "code"),
    [
        ("half-close", "provider_network"),
        ("consent", "provider_network"),
        ("500", "provider_network"),
        ("nan", "provider_bad_price"),
        ("zero", "provider_bad_price"),
    ],
)
def test_what_is_no_price_is_a_502(api, yahoo: Yahoo, db, fixture: str, code: str) -> None:
    yahoo.answer("TSLA", fixture)
    assert_problem(latest(api, "TSLA"), 502, code)
    assert db.execute("SELECT count(*) AS n FROM raw_responses WHERE symbol = 'TSLA'").fetchone()["n"] == 0


def test_without_yahoo_there_is_a_502_or_the_stale_price(database_settings, yahoo: Yahoo, db, monkeypatch) -> None:
    with serving(database_settings) as api:
        api.timeout = 90
        assert latest(api).status_code == 200
    age(db, 1_000)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with serving(database_settings) as api:
        api.timeout = 90
        assert_problem(latest(api, "MSFT"), 502, "provider_network")
        assert latest(api, allow_stale="true").headers["X-Cache"] == "STALE"
