"""`GET /health`, `/ready` and `/metrics`: for those who run the service."""

from __future__ import annotations

import asyncio

import prometheus_client
from fastapi import APIRouter
from fastapi.responses import Response

from app import problems, schemas, survey
from app.api.dependencies import Running, Services, answer, documented
from app.problems import DATABASE_ERRORS
from app.survey import Check, Survey

router = APIRouter(tags=["operations"])


@router.get("/health", response_model=schemas.Health, responses=documented())
async def health() -> Response:
    """The process answers. It asks nothing of anybody."""
    return answer({"status": "ok"})


@router.get("/ready", response_model=schemas.Ready, responses=documented(503))
async def ready(services: Running) -> Response:
    """Whether requests can be answered: 503 without the database, else 200, `degraded` where events or averages are late."""
    broker, found = await asyncio.gather(
        survey.broker(services.settings.kafka_bootstrap_servers), _survey(services), return_exceptions=True
    )
    if isinstance(broker, BaseException):
        raise broker
    if isinstance(found, BaseException):
        raise _not_ready(found, broker)
    checks = {"database": Check(True, "answers", {}), "broker": broker, **found.checks()}
    status = "ready" if all(check.ok for check in checks.values()) else "degraded"
    return answer({"status": status, "checks": {name: check.document for name, check in checks.items()}})


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "metrics in Prometheus' text format", "content": {"text/plain": {}}},
        **documented(),
    },
)
async def metrics(services: Running) -> Response:
    """This process's metrics; those of the outbox, the consumer and the poller come from the database, NaN without it."""
    try:
        (await _survey(services)).measure()
    except DATABASE_ERRORS:
        survey.forget()
    return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)


async def _survey(services: Services) -> Survey:
    """The survey that is under way, or a new one: many requests at once cost one."""

    async def look() -> Survey:
        async with services.connections.session() as session:
            return await survey.survey(session)

    return await services.surveys.do("survey", look)


def _not_ready(error: BaseException, broker: Check) -> BaseException:
    """The 503 with what is known, for an error of the database."""
    if not isinstance(error, DATABASE_ERRORS):
        return error
    problem = problems.database_failed(error)
    problem.extra["checks"] = {"database": Check(False, problem.detail, {}).document, "broker": broker.document}
    return problem
