"""The event of a price: typed record <-> bytes and headers of a Kafka message. docs/price-event.schema.json says the same.

value    {"symbol", "price", "timestamp", "provider", "raw_response_id"}   price a number, timestamp with offset
key      provider:symbol
headers  event_id, schema_version, traceparent (where the request had one)
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal, get_args

import msgspec

from app.errors import ServiceError

SCHEMA_VERSION = "1"
NAMESPACE = uuid.UUID("0c3d1f0e-58a1-5d55-9f0b-2b1b0a6a7c11")
MOST_AHEAD = datetime.timedelta(minutes=5)
SIX_PLACES = Decimal("0.000001")
MOST_PRICE = Decimal(10) ** 12
EVENT_ID, VERSION, TRACEPARENT = "event_id", "schema_version", "traceparent"

Reason = Literal["empty", "not_utf8", "not_json", "schema", "unknown_version", "future_timestamp", "unknown_price"]
REASONS: tuple[str, ...] = get_args(Reason)
Headers = Sequence[tuple[str, "bytes | None"]]

_END = r"(?!\n)$"  # in Python a `$` alone stands before a last line feed, too
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
Symbol = Annotated[str, msgspec.Meta(pattern=rf"^[A-Z0-9.^=-]{{1,15}}{_END}")]
Provider = Annotated[str, msgspec.Meta(pattern=rf"^[a-z0-9_]{{1,32}}{_END}")]
Digits = Annotated[str, msgspec.Meta(pattern=rf"^[0-9]{{1,19}}{_END}")]
Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
TimeText = Annotated[str, msgspec.Meta(pattern=rf"^(?!0000)[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_CLOCK}{_END}")]


class BadEventError(ServiceError):
    """A message that is no event of a price: `reason` is one of REASONS, `detail` says what was and what must be."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class PriceEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price that is new or was corrected; `price` has at most six decimals, `timestamp` an offset."""

    symbol: Symbol
    price: Decimal
    timestamp: Time
    provider: Provider
    raw_response_id: Digits

    @property
    def key(self) -> str:
        """The message's key: events of one key keep their order."""
        return key_of(self.provider, self.symbol)

    @property
    def event_id(self) -> uuid.UUID:
        """The same for the same provider, symbol, timestamp and price, whoever makes it."""
        time = self.timestamp.astimezone(datetime.timezone.utc).isoformat(timespec="microseconds")
        return uuid.uuid5(NAMESPACE, f"{self.provider}|{self.symbol}|{time}|{self.price:.6f}")


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    """A PriceEvent as it stands in JSON: msgspec takes a price in quotes and times of other forms, and a float is not exact."""

    symbol: Symbol
    price: msgspec.Raw
    timestamp: TimeText
    provider: Provider
    raw_response_id: Digits


_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(_Wire)


def key_of(provider: str, symbol: str) -> str:
    """The key of a symbol's messages."""
    return f"{provider}:{symbol}"


def plain(price: Decimal) -> Decimal:
    """The price without trailing zeros, never with an exponent: 196.45, 200. Raises BadEventError if it is not finite."""
    if not price.is_finite():
        raise BadEventError("schema", f"price is {price}; it must be a number")
    short = price.normalize()
    return short if short.as_tuple().exponent <= 0 else short.quantize(Decimal(1))


def encode(event: PriceEvent) -> str:
    """The message's value, checked as its readers will; its bytes are this text in UTF-8. Raises BadEventError."""
    utc = event.timestamp.astimezone(datetime.timezone.utc)
    text = _encoder.encode(msgspec.structs.replace(event, price=plain(event.price), timestamp=utc))
    _parse(text)
    return text.decode()


def headers(event_id: uuid.UUID, traceparent: str | None) -> list[tuple[str, bytes]]:
    """The message's headers."""
    kept = [(EVENT_ID, str(event_id).encode()), (VERSION, SCHEMA_VERSION.encode())]
    return kept if traceparent is None else [*kept, (TRACEPARENT, traceparent.encode())]


def decode(value: bytes | None, headers: Headers, now: datetime.datetime) -> PriceEvent:
    """The event a message holds.

    Parameters
    ----------
    value, headers
        Of the message; a message without the header `schema_version` is taken for one of version 1.
    now
        The time now; an event may be at most MOST_AHEAD later.

    Raises
    ------
    BadEventError
        If it holds none.
    """
    version = next((text for name, text in headers if name == VERSION), SCHEMA_VERSION.encode())
    if version != SCHEMA_VERSION.encode():
        raise BadEventError(
            "unknown_version", f"schema_version is {(version or b'')[:20]!r}; it must be {SCHEMA_VERSION}"
        )
    if not value:
        raise BadEventError("empty", "the message has no value")
    event = _parse(value)
    if event.timestamp > now + MOST_AHEAD:
        raise BadEventError(
            "future_timestamp", f"timestamp is {event.timestamp.isoformat()}; now it is {now.isoformat()}"
        )
    return event


def _parse(value: bytes) -> PriceEvent:
    try:
        value.decode()
        wire = _decoder.decode(value)
        timestamp = msgspec.convert(wire.timestamp, Time).astimezone(datetime.timezone.utc)
    except UnicodeDecodeError as error:
        raise BadEventError("not_utf8", str(error)) from None
    except msgspec.ValidationError as error:
        raise BadEventError("schema", str(error)) from None
    except msgspec.DecodeError as error:
        raise BadEventError("not_json", str(error)) from None
    except RecursionError:
        raise BadEventError("schema", "brackets within brackets, too deep to be read") from None
    except OverflowError:
        raise BadEventError(
            "schema", f"timestamp is {wire.timestamp}; in UTC it must be of the years 1 to 9999"
        ) from None
    return PriceEvent(wire.symbol, _price(bytes(wire.price).decode()), timestamp, wire.provider, wire.raw_response_id)


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation:
        raise BadEventError("schema", f"price is {text[:40]}; it must be a number") from None
    if not 0 < price < MOST_PRICE or price != price.quantize(SIX_PLACES):
        must = f"above 0, below {MOST_PRICE:.0f}, with at most six decimals"
        raise BadEventError("schema", f"price is {text[:40]}; it must be {must}")
    return price
