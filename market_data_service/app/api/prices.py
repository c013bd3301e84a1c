"""`GET /prices/latest`, `/prices/history` and `/prices/moving-average`."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qsl

import pydantic
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from app import metrics, problems, schemas
from app.api.dependencies import (
    JSON,
    Running,
    Services,
    answer,
    documented,
    encoded,
    iso,
    known_provider,
    running,
    traceparent,
)
from app.database import Row
from app.errors import ProviderError
from app.events import plain
from app.prices import HISTORY, MOVING_AVERAGE, Latest
from app.schemas import AverageQuestion, HistoryQuestion, LatestQuestion


class _PlainRoute(APIRoute):
    """Gives the request to its function as it is: FastAPI's own way to the parameters takes a quarter of an answer's time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


router = APIRouter(prefix="/prices", tags=["prices"])
quick = APIRouter(prefix="/prices", tags=["prices"], route_class=_PlainRoute)

MICROSECOND = datetime.timedelta(microseconds=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

_AVERAGE_NOW = """
SELECT max(ts) AS ts, round(avg(price), 6) AS avg_price
FROM (SELECT ts, price FROM market_prices WHERE symbol = %(symbol)s AND provider = %(provider)s
      ORDER BY ts DESC LIMIT %(window)s) AS newest
HAVING count(*) = %(window)s
"""

_asked = {how: metrics.PRICE_CACHE.labels(how) for how in ("HIT", "MISS", "STALE")}


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema}


_PRICE_HEADERS = {
    "X-Cache": _header("HIT: stored, MISS: fetched, STALE: the provider failed", enum=["HIT", "MISS", "STALE"]),
    "Age": _header("seconds since the price was fetched", type="integer", minimum=0),
    "ETag": _header("of this answer; with If-None-Match 304 tells that it is still the same", type="string"),
}


def _parameters(model: type[pydantic.BaseModel]) -> list[dict[str, Any]]:
    """The model's fields as OpenAPI's query parameters."""
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]


@quick.get(
    "/latest",
    response_model=schemas.Price,
    responses={
        200: {"headers": _PRICE_HEADERS},
        304: {"description": "the price is the one that If-None-Match names", "headers": _PRICE_HEADERS},
        **documented(400, 404, 422, 502, 503, 504),
    },
    openapi_extra={
        "parameters": [
            *_parameters(LatestQuestion),
            {"name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"}},
        ]
    },
)
async def latest(request: Request) -> Response:
    """The latest price of a symbol: the stored one while it is fresh, else it is fetched and stored."""
    services = running(request)
    try:
        question = LatestQuestion.model_validate(dict(parse_qsl(request.scope["query_string"].decode("latin-1"), True)))
    except pydantic.ValidationError as error:
        raise problems.invalid([each | {"loc": ("query", *each["loc"])} for each in error.errors()]) from None
    known_provider(question.provider)
    price, cache = await _price(services, question, request)
    _asked[cache].inc()
    return _price_response(price, cache, request.headers.get("if-none-match"))


async def _price(services: Services, question: LatestQuestion, request: Request) -> tuple[Latest, str]:
    max_age_s = services.settings.price_max_age_seconds if question.max_age is None else question.max_age
    stored = await services.reads.get(question.symbol, question.provider)
    if stored is not None and stored.age_s < max_age_s:
        return stored, "HIT"
    try:
        found = await services.fetcher.fetch(question.symbol, question.provider, max_age_s, traceparent(request))
    except ProviderError:
        last = await services.reads.get(question.symbol, question.provider) if question.allow_stale else None
        if last is None:
            raise
        return last, "STALE"
    return found.latest, found.cache


def _price_response(price: Latest, cache: str, if_none_match: str | None) -> Response:
    body = encoded(
        {
            "symbol": price.symbol,
            "price": plain(price.price),
            "timestamp": iso(price.ts),
            "provider": price.provider,
        }
    )
    etag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    headers = {"X-Cache": cache, "Age": str(max(0, int(price.age_s))), "ETag": etag}
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(None, 304, headers)
    return Response(body, 200, headers, JSON)


def _matches(if_none_match: str, etag: str) -> bool:
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return etag in given or given == ["*"]


@router.get("/history", response_model=schemas.History, responses=documented(400, 422, 503))
async def history(question: Annotated[HistoryQuestion, Query()], services: Running) -> Response:
    """The stored prices of a symbol, newest first, a page at a time."""
    values = {
        "symbol": question.symbol,
        "provider": known_provider(question.provider),
        "from_ts": question.from_ts,
        "to_ts": question.to_ts,
        "before_ts": None if question.cursor is None else _time_of(question.cursor),
        "limit": question.limit + 1,
    }
    async with services.connections.session() as session:
        rows = await session.rows(HISTORY, values)
    page = rows[: question.limit]
    return answer(
        {
            "symbol": question.symbol,
            "provider": question.provider,
            "prices": [_past(row) for row in page],
            "next_cursor": _cursor(page[-1]["ts"]) if len(rows) > len(page) else None,
        }
    )


def _past(row: Row) -> dict[str, Any]:
    return {"price": plain(row["price"]), "timestamp": iso(row["ts"]), "fetched_at": iso(row["fetched_at"])}


def _cursor(ts: datetime.datetime) -> str:
    return str((ts - EPOCH) // MICROSECOND)


def _time_of(cursor: str) -> datetime.datetime:
    try:
        return EPOCH + int(cursor) * MICROSECOND
    except OverflowError:
        raise problems.invalid([{"loc": ("query", "cursor"), "msg": "it must be a next_cursor"}]) from None


@router.get("/moving-average", response_model=schemas.Average, responses=documented(400, 404, 422, 503))
async def moving_average(question: Annotated[AverageQuestion, Query()], services: Running) -> Response:
    """The newest moving average of a symbol: the pipeline's for MA_WINDOW prices, any other window's computed now."""
    window = question.window or services.settings.ma_window
    sql = MOVING_AVERAGE if window == services.settings.ma_window else _AVERAGE_NOW
    values = {"symbol": question.symbol, "provider": known_provider(question.provider), "window": window}
    async with services.connections.session() as session:
        rows = await session.rows(sql, values)
    if not rows:
        detail = f"{question.symbol} at {question.provider} has no average of {window} prices yet"
        raise problems.Problem(404, "no_average", detail)
    names = {"symbol": question.symbol, "provider": question.provider, "window": window}
    return answer(names | {"moving_average": plain(rows[0]["avg_price"]), "timestamp": iso(rows[0]["ts"])})
