"""Every error of the API as application/problem+json (RFC 9457), never with a stack trace.

{"type": "about:blank", "title": "Not Found", "status": 404, "code": "unknown_symbol", "detail": "...", ...}
`code` is for programs; `errors` names the wrong fields, `providers` those there are, `provider` the one that failed.
"""

from __future__ import annotations

import http
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from app import providers
from app.connections import DatabaseSilentError
from app.errors import (
    BadPriceError,
    ProviderError,
    ProviderNetworkError,
    ProviderTimeoutError,
    RateLimitedError,
    UnknownSymbolError,
)

MEDIA_TYPE = "application/problem+json"
DATABASE_RETRY_S = 2
SAY_AGAIN_S = 60.0
MOST_SAID = 100
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

DATABASE_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    DatabaseSilentError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)
PROVIDER_FAILURES: dict[type[ProviderError], tuple[int, str]] = {
    UnknownSymbolError: (404, "unknown_symbol"),
    RateLimitedError: (503, "provider_rate_limited"),
    ProviderTimeoutError: (504, "provider_timeout"),
    ProviderNetworkError: (502, "provider_network"),
    BadPriceError: (502, "provider_bad_price"),
}

log = logging.getLogger(__name__)


class Problem(HTTPException):
    """An answer that is an error: `extra` are members of its document besides the usual ones."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code, self.extra = code, extra

    def response(self) -> Response:
        """As it is sent."""
        title = TITLES.get(self.status_code) or http.HTTPStatus(self.status_code).phrase
        document = {"type": "about:blank", "title": title, "status": self.status_code, "code": self.code}
        body = msgspec.json.encode(document | {"detail": self.detail} | self.extra)
        return Response(body, self.status_code, self.headers, MEDIA_TYPE)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """The 422 for what pydantic found wrong; what was sent is not repeated, but its field is named."""
    found = [{"field": _field(each["loc"]), "message": str(each["msg"])} for each in errors]
    return Problem(422, "invalid", "; ".join(f"{each['field']}: {each['message']}" for each in found), errors=found)


def unknown_provider(name: str) -> Problem:
    """The 400 for a provider that there is not."""
    known = list(providers.names())
    detail = f"provider is {name[:40]!r}; it must be one of {', '.join(known)}"
    return Problem(400, "unknown_provider", detail, providers=known)


def provider_failed(error: ProviderError) -> Problem:
    """The answer to a provider's failure, which names it."""
    status, code = PROVIDER_FAILURES.get(type(error), (502, "provider_failed"))
    headers = {}
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or 0)))
    return Problem(status, code, str(error), headers=headers, provider=error.provider)


def database_failed(error: Exception) -> Problem:
    """The 503 for a database that cannot be used now; why is in the log, not in the answer."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return _unavailable("schema_missing", "the database lacks tables; scripts/create_tables.py makes them")
    return _unavailable("database_unavailable", "the database cannot be reached or does not answer in time")


def unforeseen() -> Problem:
    """The 500; what happened is in the log."""
    return Problem(500, "internal_error", "an unforeseen error; it was logged")


def install(app: FastAPI) -> None:
    """Have the app answer every error that is foreseen with a problem; app/middleware.py does it for the others."""
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ProviderError, _on_provider)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _on_database)


def _unavailable(code: str, detail: str) -> Problem:
    return Problem(503, code, detail, headers={"Retry-After": str(DATABASE_RETRY_S)})


def _field(place: Sequence[int | str]) -> str:
    """`symbol`, `symbols.0`, or `body` for all of it: without what pydantic puts before the field's name."""
    names = place[2:] if place[1:2] in (("one",), ("several",)) else place[1:]
    return ".".join(str(each) for each in names) or str(place[0])


async def _on_http(request: Request, error: HTTPException) -> Response:
    if isinstance(error, Problem):
        return error.response()
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed(request) or headers["Allow"]
    code = CODES.get(error.status_code, "http_error")
    return Problem(error.status_code, code, str(error.detail), headers=headers).response()


def _allowed(request: Request) -> str:
    """The methods of every route of the path: the router names the first one's only. Empty for what is not documented."""
    for template, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), request.url.path):
            return ", ".join(sorted(methods)).upper()
    return ""


async def _on_invalid(_: Request, error: RequestValidationError) -> Response:
    return invalid(error.errors()).response()


async def _on_provider(_: Request, error: ProviderError) -> Response:
    return provider_failed(error).response()


async def _on_database(_: Request, error: Exception) -> Response:
    _say(f"database: {(str(error) or type(error).__name__).splitlines()[0]}")
    return database_failed(error).response()


def _say(line: str) -> None:
    """Log a line; the same one again after a minute only, however many requests meet it."""
    now = time.monotonic()
    if now - _said.get(line, -math.inf) > SAY_AGAIN_S:
        if len(_said) > MOST_SAID:
            _said.clear()
        _said[line] = now
        log.warning("%s", line)


_said: dict[str, float] = {}
