"""Every metric of the service, named once. Labels are bounded: no symbol, no path with an id."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
    UnknownSymbolError,
)

PRICES_FETCHED = Counter("prices_fetched_total", "Prices asked of a provider", ["provider", "result"])
PROVIDER_LATENCY = Histogram(
    "provider_latency_seconds",
    "Time of a provider's answer",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PRICE_CACHE = Counter("price_cache_total", "Answers by where the price came from", ["result"])
OUTBOX_PENDING = Gauge("outbox_pending", "Events that wait to be published")
OUTBOX_OLDEST_AGE = Gauge("outbox_oldest_age_seconds", "Age of the oldest event that waits")
EVENTS_PUBLISHED = Counter("events_published_total", "Events that the broker acknowledged")
EVENTS_CONSUMED = Counter("events_consumed_total", "Messages that were worked on")
AVERAGES_UPSERTED = Counter("averages_upserted_total", "Moving averages written or changed")
CONSUMER_LAG = Gauge("consumer_lag", "Messages on the topic that the group has not worked on")
DLQ_MESSAGES = Counter("dlq_messages_total", "Messages that were set aside", ["reason"])
POLLING_RUNS = Counter("polling_runs_total", "Runs of polling jobs", ["result"])
POLLING_LAG = Gauge("polling_lag_seconds", "How late the last polling job began")
POLLER_BEAT = Gauge("poller_heartbeat_timestamp_seconds", "When the poller last said that it works, Unix time")
HTTP_DURATION = Histogram(
    "http_request_duration_seconds", "Time of a request", ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)  # fmt: skip

OK = "ok"
FETCH_RESULTS: dict[type[ProviderError], str] = {
    UnknownSymbolError: "unknown_symbol",
    RateLimitedError: "rate_limited",
    ProviderTimeoutError: "timeout",
    ProviderNetworkError: "network",
    BadPriceError: "bad_price",
}


@contextmanager
def fetching(provider: str) -> Iterator[None]:
    """Count and time the call of a provider that the block makes; `result` is `ok`, one of FETCH_RESULTS, or `error`."""
    began = time.perf_counter()
    result = "error"
    try:
        yield
        result = OK
    except ProviderError as error:
        result = FETCH_RESULTS.get(type(error), result)
        raise
    finally:
        PRICES_FETCHED.labels(provider, result).inc()
        PROVIDER_LATENCY.labels(provider).observe(time.perf_counter() - began)
