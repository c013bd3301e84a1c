"""What requests must hold, and what the OpenAPI document says of the answers.

Answers are written by msgspec, with exact decimals; the models of answers only describe them, and tests hold the two together.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from app import providers
from app.jobs import Status

MOST_SYMBOLS = 100
MOST_MINUTES = 10_080
MOST_AGE_S = 31_536_000.0
MOST_ID = 2**63 - 1
MOST_WINDOW = 1_000

NOT_A_SYMBOL = "1 to 15 characters of A-Z, 0-9, '.', '^', '=' and '-'; small letters count as capital ones"

Symbol = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9.^=-]{1,15}$", min_length=1, max_length=15, description=NOT_A_SYMBOL, examples=["AAPL"]),
    AfterValidator(str.upper),
]
Provider = Annotated[
    str,
    Field(description="who is asked for prices", json_schema_extra={"enum": list(providers.names())}),
]
Number = Annotated[float, Field(gt=0, description="above zero, with at most six decimals, exact", examples=[196.45])]
JobId = Annotated[int, Field(ge=1, le=MOST_ID)]


class Question(BaseModel):
    """Query parameters that name the price of a symbol at a provider."""

    symbol: Symbol
    provider: Provider = providers.DEFAULT


class LatestQuestion(Question):
    """Those of `GET /prices/latest`."""

    max_age: Annotated[
        float | None,
        Field(ge=0, le=MOST_AGE_S, allow_inf_nan=False, description="seconds; instead of PRICE_MAX_AGE_SECONDS"),
    ] = None
    allow_stale: Annotated[bool, Field(description="the last stored price will do when the provider fails")] = False


def _time_text(value: Any) -> Any:
    """Of what pydantic takes for a time only RFC 3339's form: `20250615` is a number of seconds to it."""
    if isinstance(value, str) and not re.fullmatch(
        r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", value
    ):
        raise ValueError("it must be like 2025-06-15T20:30:27Z, or with an offset, whose + is %2B in a URL")
    return value


def _utc(time: datetime.datetime) -> datetime.datetime:
    """PostgreSQL takes offsets below 16 hours only."""
    try:
        return time.astimezone(datetime.timezone.utc)
    except OverflowError:
        raise ValueError("in UTC it must be of the years 1 to 9999") from None


Time = Annotated[AwareDatetime, BeforeValidator(_time_text), AfterValidator(_utc)]


class HistoryQuestion(Question):
    """Those of `GET /prices/history`."""

    model_config = ConfigDict(populate_by_name=True)

    from_ts: Annotated[Time | None, Field(alias="from", description="with offset; included")] = None
    to_ts: Annotated[Time | None, Field(alias="to", description="with offset; not included")] = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Annotated[str | None, Field(pattern=r"^-?[0-9]{1,17}$", description="next_cursor of the page before")] = (
        None
    )


class AverageQuestion(Question):
    """Those of `GET /prices/moving-average`."""

    window: Annotated[
        int | None, Field(ge=1, le=MOST_WINDOW, description="prices; MA_WINDOW where it is not given")
    ] = None


class PageQuestion(BaseModel):
    """Those of `GET /prices/poll`."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 100
    cursor: Annotated[int, Field(ge=0, le=MOST_ID, description="next_cursor of the page before")] = 0


def _whole(value: Any) -> Any:
    """60.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Poll(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    interval_minutes: Annotated[int, Field(ge=1, le=MOST_MINUTES, examples=[60]), BeforeValidator(_whole)]
    provider: Provider = providers.DEFAULT
    backfill: Annotated[bool, Field(description="after downtime, fetch also the prices that were missed")] = False


class PollOne(_Poll):
    """A symbol to fetch every so often."""

    symbol: Symbol

    @property
    def wanted(self) -> list[str]:
        """The symbols."""
        return [self.symbol]


class PollSeveral(_Poll):
    """Symbols to fetch every so often: all of them, or none where one is wrong."""

    symbols: Annotated[list[Symbol], Field(min_length=1, max_length=MOST_SYMBOLS)]

    @property
    def wanted(self) -> list[str]:
        """The symbols."""
        return self.symbols


def _form(body: Any) -> str:
    return "several" if isinstance(body, dict) and "symbols" in body else "one"


Poll = Annotated[
    Annotated[PollOne, Tag("one")] | Annotated[PollSeveral, Tag("several")],
    Discriminator(_form),
]


class Price(BaseModel):
    """The latest price of a symbol; `timestamp` is the provider's time of it."""

    model_config = ConfigDict(extra="forbid")

    symbol: str
    price: Number
    timestamp: AwareDatetime
    provider: str


class PastPrice(BaseModel):
    """A price of the history; `fetched_at` is when the provider told it."""

    model_config = ConfigDict(extra="forbid")

    price: Number
    timestamp: AwareDatetime
    fetched_at: AwareDatetime


class History(BaseModel):
    """Prices, newest first; `next_cursor` leads to older ones, null at the end."""

    model_config = ConfigDict(extra="forbid")

    symbol: str
    provider: str
    prices: list[PastPrice]
    next_cursor: str | None


class Average(BaseModel):
    """The mean of the `window` newest prices up to `timestamp`."""

    model_config = ConfigDict(extra="forbid")

    symbol: str
    provider: str
    window: int
    moving_average: Number
    timestamp: AwareDatetime


class Scheduled(BaseModel):
    """A job that will fetch a symbol."""

    model_config = ConfigDict(extra="forbid")

    job_id: int
    symbol: str
    status: Status
    next_run_at: AwareDatetime


class PollAccepted(BaseModel):
    """The answer to one symbol: its job's id, status and time are in the answer itself, too."""

    model_config = ConfigDict(extra="forbid")

    message: Annotated[str, Field(examples=["Polling job scheduled for symbol: AAPL"])]
    job_id: int
    status: Status
    next_run_at: AwareDatetime


class PollsAccepted(BaseModel):
    """The answer to several symbols."""

    model_config = ConfigDict(extra="forbid")

    message: Annotated[str, Field(examples=["Polling jobs scheduled for symbols: AAPL, MSFT"])]
    jobs: list[Scheduled]


class Job(Scheduled):
    """A polling job; `failures` counts those since the last price."""

    provider: str
    interval_minutes: int
    backfill: bool
    last_run_at: AwareDatetime | None
    last_error: str | None
    failures: int
    created_at: AwareDatetime


class Jobs(BaseModel):
    """Polling jobs in order of their ids; `next_cursor` leads to later ones, null at the end."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[Job]
    next_cursor: int | None


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Check(BaseModel):
    """One thing that the service needs."""

    model_config = ConfigDict(extra="allow")

    ok: bool
    detail: str


class Ready(BaseModel):
    """`degraded`: requests are answered, but something behind them is late or away."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]


class WrongField(BaseModel):
    """A field, and what is wrong with it."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457); `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[WrongField] = []
    providers: list[str] = []
    provider: str = ""
    checks: dict[str, Check] = {}
