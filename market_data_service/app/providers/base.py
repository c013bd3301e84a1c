"""What a provider of prices is: one that answers with quotes or raises a ProviderError (app/errors.py)."""

from __future__ import annotations

import contextvars
import datetime
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Protocol

from app.errors import BadPriceError

PLACES = Decimal("0.000001")
TOO_LARGE = Decimal(10) ** 12

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=math.inf)


@dataclass(frozen=True)
class Quote:
    """One price as a provider told it.

    Attributes
    ----------
    price
        As `checked` leaves it, in the currency of the symbol.
    ts
        The provider's time of the price, UTC.
    body
        What of the provider's response was used; JSON without NaN.
    status
        HTTP status of that response.
    """

    symbol: str
    provider: str
    price: Decimal
    ts: datetime.datetime
    body: dict[str, Any]
    status: int = 200

    def __post_init__(self) -> None:
        if self.ts.utcoffset() is None:
            raise ValueError(f"ts is {self.ts.isoformat()}; it must have an offset")
        object.__setattr__(self, "ts", self.ts.astimezone(datetime.timezone.utc))


class ProviderSettings(Protocol):
    """The settings that providers read; app.settings.Settings has them."""

    @property
    def replay_file(self) -> str: ...


class Provider(Protocol):
    """A source of prices. Its calls block, may run in several threads at once and raise ProviderError."""

    name: str

    def latest(self, symbol: str) -> Quote:
        """The newest price of the symbol."""

    def history(self, symbol: str, start: datetime.datetime) -> list[Quote]:
        """The prices since `start` (included), oldest first; none is an empty list."""


def checked(price: object, provider: str) -> Decimal:
    """The price as it is stored: six decimals, half to even.

    Raises
    ------
    BadPriceError
        If it is not a finite number above zero, rounds to zero, or has more than 12 digits before the point.
    """
    try:
        exact = Decimal(str(price))
    except InvalidOperation:
        raise BadPriceError(provider, f"its price is {price!r}; it must be a number") from None
    if not exact.is_finite() or not 0 < exact < TOO_LARGE:
        raise BadPriceError(provider, f"its price is {price}; it must be above zero and below 10^12")
    rounded = exact.quantize(PLACES, ROUND_HALF_EVEN)
    if not 0 < rounded < TOO_LARGE:
        raise BadPriceError(provider, f"its price is {price}, which six decimals cannot hold")
    return rounded


@contextmanager
def within(timeout_s: float) -> Iterator[None]:
    """A provider's call inside it is told by `remaining_s` how long it may still take."""
    token = _deadline.set(time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s() -> float:
    """Seconds left to the call that this thread is in; infinite outside of `within`."""
    return _deadline.get() - time.monotonic()
