"""What routes share: the running service, how answers are written, how the OpenAPI document tells of errors."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from fastapi.responses import Response

from app import problems, providers
from app.connections import Connections
from app.fetching import Fetcher
from app.reads import LatestReads
from app.schemas import ProblemDocument
from app.settings import Settings
from app.single_flight import SingleFlight

JSON = "application/json"
RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
WHY = {
    400: "there is no such provider",
    404: "there is none",
    413: "the body is over 64 KiB",
    422: "a field is wrong; it is named",
    500: "an unforeseen error; it was logged",
    502: "the provider cannot be reached, or its price cannot be right",
    503: "the database cannot be used, or the provider asked for fewer calls",
    504: "the provider did not answer in time",
}

_encoder = msgspec.json.Encoder(decimal_format="number")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Services:
    """What a running API has."""

    settings: Settings
    connections: Connections
    reads: LatestReads
    fetcher: Fetcher
    surveys: SingleFlight[Any]


def running(request: Request) -> Services:
    """The services of the app that the request came to."""
    services: Services = request.app.state.services
    return services


Running = Annotated[Services, Depends(running)]


def known_provider(name: str) -> str:
    """The name; raises the 400 with the list where there is no such provider."""
    if name not in providers.names():
        raise problems.unknown_provider(name)
    return name


def traceparent(request: Request) -> str | None:
    """The request's, where it is one of W3C's trace context."""
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) and not given.startswith("ff") else None


def encoded(content: Any) -> bytes:
    """JSON; decimals are exact numbers."""
    return _encoder.encode(content)


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The content as a response."""
    return Response(encoded(content), status, headers, JSON)


def iso(time: datetime.datetime) -> str:
    """The time with its offset."""
    return time.isoformat()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route besides 413 and 500, which every one has."""
    return {
        status: {"model": ProblemDocument, "description": WHY[status]} | _headers(status)
        for status in sorted({413, 500, *statuses})
    }


def _headers(status: int) -> dict[str, Any]:
    return {"headers": RETRY_AFTER} if status == 503 else {}
