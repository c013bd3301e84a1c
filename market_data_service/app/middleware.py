"""Around every request, in plain ASGI: it is measured, an unforeseen error is caught, a body over 64 KiB is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app import problems
from app.metrics import HTTP_DURATION

MOST_BODY = 64 * 1024
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN = "other"

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Watched:
    """Observes http_request_duration_seconds by method, route and status; an unforeseen error is logged, and a 500."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._observe: dict[tuple[str, str, int], Callable[[float], None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 0, time.perf_counter()

        async def send_and_look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_look)
        except Exception:
            if status:
                raise
            log.exception("%s %r", scope["method"], scope["path"])
            await problems.unforeseen().response()(scope, receive, send_and_look)
        finally:
            self._note(scope, status or 500, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"]
        key = method, getattr(scope.get("route"), "path", UNKNOWN), status
        observe = self._observe.get(key)
        if observe is None:
            labels = (method if method in METHODS else UNKNOWN, *key[1:])
            observe = self._observe[key] = HTTP_DURATION.labels(*labels).observe
        observe(seconds)


class Limited:
    """Refuses a body over MOST_BODY: by its announced length, else as soon as so much has come."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = _length(scope) if scope["type"] == "http" else 0
        if length is None:
            await self.app(scope, _counted(receive), send)
        elif length > MOST_BODY:
            await _too_large().response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _length(scope: Scope) -> int | None:
    """The announced length of the body; None where it is not announced."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
        if name == b"transfer-encoding":
            return None
    return 0


def _counted(receive: Receive) -> Receive:
    total = 0

    async def receive_some() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MOST_BODY:
            raise _too_large()
        return message

    return receive_some


def _too_large() -> problems.Problem:
    """The 413, after which the rest of the body is not read."""
    detail = f"the body is over {MOST_BODY} bytes"
    return problems.Problem(413, "body_too_large", detail, headers={"Connection": "close"})
