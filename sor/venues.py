"""The venue table: which venue a Databento publisher id is, what it charges and pays per share, whether to route there.

    table = parse_venues(Path("sor/venues.toml").read_text(encoding="utf-8"))
    table.fees_e6([2, 3])  # array([3000,  700])

The layout of the table, field by field, is the header of `sor/venues.toml`. Fees become whole micro-dollars by decimal
arithmetic, never through a binary float, so that every sum of fees is exact.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from sor.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MICRO = Decimal("0.000001")  # USD: 0.0030 is 3000 of them; the finest rates published, 0.00285 and the like, fit
MAX_FEE = Decimal("0.01")  # USD: 3 times the 0.003 cap on access fees; rates in cents or per 100 shares do not fit
MAX_PUBLISHER_ID = 65_535  # Databento's field is an unsigned 16-bit integer


@dataclass(frozen=True)
class Venue:
    """One venue: its rates are those of the lowest tier for displayed orders in shares at 1.00 USD or more.

    `taker_fee_e6` is what a taker pays and `maker_rebate_e6` what a resting order receives when it fills, both in
    micro-dollars per share; negative turns the payment round. `as_of` and `source` say where they come from,
    `confirmed` whether both were read there. `routable` is False for prints that no order can be sent to.
    """

    publisher_id: int
    name: str
    taker_fee_e6: int
    maker_rebate_e6: int
    as_of: date
    source: str
    routable: bool = True
    confirmed: bool = True


@dataclass(frozen=True)
class VenueTable:
    """All venues that are known, in the order of the file, and the row that stands in for any other.

    The methods over `publisher_ids` take K ids in any order and give K values in that order.
    """

    venues: tuple[Venue, ...]
    default: Venue
    sha256: str = ""  # of the file it stands in, for the record

    def row(self, publisher_id: int) -> Venue:
        """The venue of this id; where it is not in the table the default row under the id, named like "PUB123"."""
        for venue in self.venues:
            if venue.publisher_id == publisher_id:
                return venue
        return replace(self.default, publisher_id=int(publisher_id), name=f"PUB{publisher_id}")

    def fees_e6(self, publisher_ids: Iterable[int]) -> np.ndarray:
        """What taking one share costs: int64 micro-dollars, shape (K,); negative where the venue pays the taker."""
        return np.array([self.row(each).taker_fee_e6 for each in publisher_ids], np.int64)

    def rebates_e6(self, publisher_ids: Iterable[int]) -> np.ndarray:
        """What a resting share receives when filled: int64 micro-dollars, shape (K,); negative where the maker pays."""
        return np.array([self.row(each).maker_rebate_e6 for each in publisher_ids], np.int64)

    def names(self, publisher_ids: Iterable[int]) -> tuple[str, ...]:
        """The market identifier codes, K of them."""
        return tuple(self.row(each).name for each in publisher_ids)

    def routable(self, publisher_ids: Iterable[int]) -> np.ndarray:
        """Whether an order may be sent there: bool, shape (K,)."""
        return np.array([self.row(each).routable for each in publisher_ids], np.bool_)


def parse_venues(toml_text: str) -> VenueTable:
    """Read a venue table.

    Parameters
    ----------
    toml_text : str
        The text of a file laid out like `sor/venues.toml`: one `[default]` and any number of `[[venue]]`.

    Returns
    -------
    VenueTable

    Raises
    ------
    UsageError
        The text is not TOML; an entry or field is missing, unknown, given twice or has a value that it must not have.
        The message names entry and field, what was found and what it must be.
    """
    tables = _toml(toml_text)
    _check_keys("the file", tables, required={"default"}, allowed={"default", "venue"})
    default = _default(_table("[default]", tables["default"]))
    entries = tables.get("venue", [])
    if not isinstance(entries, list):
        raise _wrong("the file", "venue", entries, "given as [[venue]], with double brackets")
    venues = tuple(_venue(_label(number, entry), entry) for number, entry in enumerate(entries, start=1))
    _check_unique(venues)
    return VenueTable(venues, default)


class _RefusedError(ValueError):
    """A value is not what its field must be; the text says what that is."""


def _publisher_id(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_PUBLISHER_ID:
        raise _RefusedError(f"a whole number from 0 to {MAX_PUBLISHER_ID}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise _RefusedError("a text that is not empty, of one line")
    return value


def _date(value: Any) -> date:
    if type(value) is not date:  # a datetime is a date too, but names an hour nobody published
        raise _RefusedError("a date without quotes, like 2024-08-01")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _RefusedError("true or false")
    return value


def _fee_e6(value: Any) -> int:
    if type(value) not in (int, Decimal) or not (fee := Decimal(value)).is_finite():
        raise _RefusedError("a finite number of USD per share")
    if not -MAX_FEE <= fee <= MAX_FEE:
        raise _RefusedError(f"USD per share between -{MAX_FEE} and {MAX_FEE}")
    micros = fee.quantize(MICRO)
    if micros != fee:
        raise _RefusedError(f"a multiple of {MICRO} USD per share")
    return int(micros.scaleb(6))


_Readers = dict[str, Callable[[Any], Any]]
_RATES: _Readers = {"taker_fee": _fee_e6, "maker_rebate": _fee_e6, "as_of": _date, "source": _text}
_IDENTITY: _Readers = {"publisher_id": _publisher_id, "name": _text}
_FLAGS: _Readers = {"routable": _flag, "confirmed": _flag}
_READ = _IDENTITY | _RATES | _FLAGS
_ATTRIBUTE = {"taker_fee": "taker_fee_e6", "maker_rebate": "maker_rebate_e6"}


def _venue(where: str, entry: Any) -> Venue:
    return Venue(**_fields(where, _table(where, entry), required=_IDENTITY.keys() | _RATES.keys()))


def _default(entry: dict[str, Any]) -> Venue:
    return Venue(publisher_id=-1, name="default", **_fields("[default]", entry, required=_RATES.keys()))


def _fields(where: str, entry: dict[str, Any], *, required: Iterable[str]) -> dict[str, Any]:
    """The arguments of `Venue` in one entry of the file."""
    required = set(required)
    _check_keys(where, entry, required=required, allowed=required | _FLAGS.keys())
    return {_ATTRIBUTE.get(name, name): _value(where, name, value) for name, value in entry.items()}


def _value(where: str, name: str, value: Any) -> Any:
    try:
        return _READ[name](value)
    except _RefusedError as refused:
        raise _wrong(where, name, value, str(refused)) from None


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"venue table: the text is not TOML, which it must be: {error}") from error
    except ArithmeticError as error:  # from Decimal, which takes any exponent a file could mean
        raise UsageError("venue table: the text holds a number out of all range, must hold fees like 0.0030") from error


def _table(where: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UsageError(f"venue table, {where}: is {_shown(entry)}, must be a table of fields")
    return entry


def _check_keys(where: str, entry: dict[str, Any], *, required: set[str], allowed: set[str]) -> None:
    if missing := sorted(required - entry.keys()):
        raise UsageError(f"venue table, {where}: {missing[0]} is missing, must be given")
    if unknown := sorted(entry.keys() - allowed):
        raise UsageError(
            f"venue table, {where}: {_key(unknown[0])} is unknown, must be one of {', '.join(sorted(allowed))}"
        )


def _check_unique(venues: tuple[Venue, ...]) -> None:
    first: dict[int, int] = {}
    for number, venue in enumerate(venues, start=1):
        if (earlier := first.setdefault(venue.publisher_id, number)) != number:
            must = f"different from that of entry {earlier}"
            raise _wrong(f"[[venue]] entry {number} ({venue.name})", "publisher_id", venue.publisher_id, must)


def _label(number: int, entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"[[venue]] entry {number}" + (f" ({name})" if isinstance(name, str) and name and name.isprintable() else "")


def _wrong(where: str, name: str, value: Any, must: str) -> UsageError:
    return UsageError(f"venue table, {where}: {name} is {_shown(value)}, must be {must}")


def _key(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _shown(value: Any) -> str:
    try:
        text = str(value) if isinstance(value, (Decimal, date)) else repr(value)
    except ValueError:  # TOML's hexadecimal numbers have no limit, Python's decimals have
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
