"""The API: prices over HTTP, fetched when they are not fresh, and polling jobs. Kafka is never touched by a request.

    uvicorn app.main:app --reload        for development; stops with exit code 2 on a bad setting
    python -m app.main                   the same on API_HOST and API_PORT, without reloading

Exit codes of the latter: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 a bad setting or a taken port, 130 and 143 at the
second signal.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import database, logs, problems
from app.api import operations, polling, prices
from app.api.dependencies import Services
from app.connections import Connections
from app.errors import SettingsError
from app.fetching import Fetcher, Providers
from app.middleware import Limited, Watched
from app.providers.process import ProviderProcess
from app.reads import LatestReads
from app.settings import Settings, load
from app.single_flight import SingleFlight

NAME = "market-data-api"
VERSION = "1.0.0"
OTHER_CONNECTIONS = 6  # besides one for each fetch, and that of the reads
GRACE_S = 6
SHUTDOWN_S = 9.0

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, providers: Providers | None = None) -> FastAPI:
    """The application; nothing is read, opened or started before it starts up.

    Parameters
    ----------
    settings
        None: those of the environment and of .env.
    providers
        Whom prices are asked of. None: a child process of its own.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        given = settings or _settings_or_exit()
        logs.to_stderr(NAME, given.log_level, replace=False)  # uvicorn's command has set up its own lines only
        async with _running(given, providers) as services:
            app.state.services = services
            gc.collect()
            gc.freeze()  # else each look through all modules' objects stops the answers for 40 ms
            yield

    app = FastAPI(
        title="Market data", version=VERSION, description=__doc__.split("\n")[0], lifespan=lifespan,
        redirect_slashes=False, redoc_url=None,
    )  # fmt: skip
    for router in (prices.quick, prices.router, polling.router, operations.router):
        app.include_router(router)
    problems.install(app)
    app.add_middleware(Limited)
    app.add_middleware(Watched)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _running(settings: Settings, providers: Providers | None) -> AsyncIterator[Services]:
    """What the application has while it runs; closed in the other order."""
    connect = partial(database.connect_async, settings, NAME)
    asked = providers or ProviderProcess(settings)
    connections = Connections(connect, settings.provider_max_concurrency + OTHER_CONNECTIONS)
    services = Services(
        settings, connections, LatestReads(connect), Fetcher(settings, connections, asked), SingleFlight()
    )
    try:
        yield services
    finally:
        await services.surveys.close()
        await services.fetcher.close()
        await asked.close()
        await services.reads.close()
        await connections.close()


def _settings_or_exit() -> Settings:
    """The settings; a wrong one ends the process with 2 at once: an exception would be uvicorn's traceback and its 3."""
    try:
        return load()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without two things that FastAPI says: that errors are application/json, that a query can be null."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operations_of_path in document["paths"].values():
            for operation in operations_of_path.values():
                _correct(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _correct(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if int(status) >= 400:
            response["content"] = {problems.MEDIA_TYPE: next(iter(response["content"].values()))}
    for parameter in operation.get("parameters", []):
        choices = parameter["schema"].pop("anyOf", [])
        parameter["schema"].update(*(each for each in choices if each != {"type": "null"}))


class _Server(uvicorn.Server):
    """Ends with 0 after the first signal, at once after the second, and in any case within SHUTDOWN_S."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the address, which uvicorn keeps to itself where it is given a socket."""
        await super().startup(sockets)
        for each in sockets or ():
            log.info("serving on http://%s:%d", *each.getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal is not raised again after the shutdown, as uvicorn does."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True
        late = threading.Timer(SHUTDOWN_S, os._exit, (1,))
        late.daemon = True
        late.start()


def main() -> int:
    """Serve until a signal comes."""
    try:
        settings = load()
        listener = _listen(settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logs.to_stderr(NAME, settings.log_level, replace=False)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=settings.log_level == "DEBUG",
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
    )
    with listener:
        server = _Server(config)
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _listen(settings: Settings) -> socket.socket:
    """A socket on API_HOST and API_PORT. Raises SettingsError where that cannot be had."""
    address = settings.api_host, settings.api_port
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(f"API_PORT: {address[0]}:{address[1]} cannot be listened on: {why}") from None


app = create_app()

if __name__ == "__main__":
    sys.exit(main())
