"""`/prices/poll`: jobs that have a symbol fetched every so often. The poller (scripts/poller.py) does their work."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from app import jobs, problems, schemas
from app.api.dependencies import Running, Services, answer, documented, iso, known_provider
from app.database import Steps
from app.jobs import Job
from app.schemas import JobId, PageQuestion, Poll, PollSeveral

Result = TypeVar("Result")


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body. Whatever is not JSON is a 422: NaN, bytes that are not UTF-8, brackets without end."""
        try:
            return msgspec.json.decode(await self.body())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise problems.invalid([{"loc": ("body",), "msg": f"it must be JSON: {error}"}]) from None


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            if self.body_field is not None:
                _must_be_json(request.headers.get("content-type", ""))
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


def _must_be_json(content_type: str) -> None:
    """A form that a foreign web page has a browser send is not taken for a wish of its user."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        found = content_type[:80] or "missing"
        message = f"its Content-Type is {found}; it must be application/json"
        raise problems.invalid([{"loc": ("body",), "msg": message}])


router = APIRouter(prefix="/prices/poll", tags=["polling"], route_class=_JsonRoute)


@router.post(
    "",
    status_code=202,
    response_model=schemas.PollAccepted | schemas.PollsAccepted,
    responses=documented(400, 422, 503),
)
async def schedule_jobs(wanted: Annotated[Poll, Body()], services: Running) -> Response:
    """Have a symbol, or several, fetched every `interval_minutes`. The same symbol and provider again changes its job."""
    steps = jobs.upsert(wanted.wanted, known_provider(wanted.provider), wanted.interval_minutes, wanted.backfill)
    made = await _run(services, steps)
    if isinstance(wanted, PollSeveral):
        message = "Polling jobs scheduled for symbols: " + ", ".join(job.symbol for job in made)
        return answer({"message": message, "jobs": [{"symbol": job.symbol} | _due(job) for job in made]}, 202)
    return answer({"message": f"Polling job scheduled for symbol: {made[0].symbol}"} | _due(made[0]), 202)


@router.get("", response_model=schemas.Jobs, responses=documented(422, 503))
async def list_jobs(question: Annotated[PageQuestion, Query()], services: Running) -> Response:
    """The jobs, in order of their ids, a page at a time."""
    found = await _run(services, jobs.listing(question.limit + 1, question.cursor))
    page = found[: question.limit]
    following = page[-1].id if len(found) > len(page) else None
    return answer({"jobs": [_all(job) for job in page], "next_cursor": following})


@router.get("/{job_id}", response_model=schemas.Job, responses=documented(404, 422, 503))
async def show_job(job_id: JobId, services: Running) -> Response:
    """A job."""
    return answer(_all(_found(await _run(services, jobs.get(job_id)), job_id)))


@router.delete("/{job_id}", status_code=204, response_class=Response, responses=documented(404, 422, 503))
async def remove_job(job_id: JobId, services: Running) -> Response:
    """Remove a job; prices that it fetched stay."""
    _found(await _run(services, jobs.remove(job_id)), job_id)
    return Response(status_code=204)


@router.post("/{job_id}/pause", response_model=schemas.Job, responses=documented(404, 422, 503))
async def pause_job(job_id: JobId, services: Running) -> Response:
    """Stop fetching for a job, until it is resumed."""
    return answer(_all(_found(await _run(services, jobs.set_status(job_id, "paused")), job_id)))


@router.post("/{job_id}/resume", response_model=schemas.Job, responses=documented(404, 422, 503))
async def resume_job(job_id: JobId, services: Running) -> Response:
    """Fetch for a paused job again."""
    return answer(_all(_found(await _run(services, jobs.set_status(job_id, "active")), job_id)))


async def _run(services: Services, steps: Steps[Result]) -> Result:
    async with services.connections.session() as session:
        return await session.run(steps)


def _found(result: Result | None, job_id: int) -> Result:
    """The result; raises the 404 where there is no such job."""
    if not result:
        raise problems.Problem(404, "unknown_job", f"there is no polling job {job_id}")
    return result


def _due(job: Job) -> dict[str, Any]:
    return {"job_id": job.id, "status": job.status, "next_run_at": iso(job.next_run_at)}


def _all(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "symbol": job.symbol,
        "provider": job.provider,
        "interval_minutes": job.interval_minutes,
        "status": job.status,
        "backfill": job.backfill,
        "next_run_at": iso(job.next_run_at),
        "last_run_at": job.last_run_at and iso(job.last_run_at),
        "last_error": job.last_error,
        "failures": job.failures,
        "created_at": iso(job.created_at),
    }
