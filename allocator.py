"""Splits one order over the asks that several venues display at one instant: no clock, no file, no network.

    from allocator import Venue, allocate
    venues = [Venue(226.80, 3000, 0.003, 0.002), Venue(226.81, 4000, 0.003, 0.002)]
    split, cost = allocate(5000, venues, lambda_over=0.4, lambda_under=0.6, theta_queue=0.3)

`allocate` sorts the venues and gives the answer of the trial's exhaustive search (`allocate_exhaustive`) wherever that
search finds one; where it finds none (odd lots, too little displayed), the generalisation described at `plan`.

The search never asks a venue for more than it displays and wants the split to add up to the order exactly, so all that
it compares executes at once and costs sum(shares * (ask + fee)). `lambda_over`, `lambda_under`, `theta_queue` and the
rebates therefore never change a split that the search can find. They are charged only where too little is displayed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, NamedTuple

from sor.errors import AllocationError

# Prices and fees have at most six decimals: sums of them that differ by less than a tick differ by float rounding only.
TICKS_PER_USD = 1e9


class Venue(NamedTuple):
    """What one venue displays on the ask side, and what it charges.

    Parameters
    ----------
    ask : float
        Best ask, USD/share. A venue whose ask is not above 0 (or is NaN) has no offer and is skipped.
    ask_size : int
        Shares displayed at `ask`. 0 or NaN: skipped. Of a fraction only the whole shares count.
    fee : float
        Taker fee, USD/share, added to the ask; negative where the venue pays for taking.
    rebate : float
        Maker rebate, USD/share, received for a posted share that fills; negative where posting costs.
    """

    ask: float
    ask_size: int
    fee: float
    rebate: float


@dataclass(frozen=True)
class Allocation:
    """The full account of one order; `split` and `posted` have one entry per venue, in the caller's order.

    Attributes
    ----------
    split : tuple of int
        Shares taken from each venue, never more than it displays.
    posted : tuple of int
        Shares posted at each venue because the order exceeds all displayed shares.
    executed : int
        sum(split), shares.
    shortfall : int
        Order size - executed, shares.
    cost : float
        USD: executed shares at ask + fee, and the charge on the shortfall (see `plan`).
    status : str
        "exact_lots": whole lots of `step` fill the order, as in the trial; "odd_lots": single shares were needed;
        "short": everything displayed was taken and a shortfall remains.
    """

    split: tuple[int, ...]
    posted: tuple[int, ...]
    executed: int
    shortfall: int
    cost: float
    status: Literal["exact_lots", "odd_lots", "short"]


def allocate(
    order_size: int,
    venues: Sequence[Venue],
    lambda_over: float,
    lambda_under: float,
    theta_queue: float,
    *,
    step: int = 100,
    reserve: float | None = None,
) -> tuple[list[int], float]:
    """Cheapest split of an order over the displayed asks, and its cost; O(K log K).

    Parameters and errors are those of `plan`.

    Returns
    -------
    split : list of int
        Shares to take at each venue.
    cost : float
        USD; equal to the last bit to that of `allocate_exhaustive` for the same split.
    """
    account = plan(order_size, venues, lambda_over, lambda_under, theta_queue, step=step, reserve=reserve)
    return list(account.split), account.cost


def plan(
    order_size: int,
    venues: Sequence[Venue],
    lambda_over: float,
    lambda_under: float,
    theta_queue: float,
    *,
    step: int = 100,
    reserve: float | None = None,
) -> Allocation:
    """Cheapest split of an order over the displayed asks, with what is taken, posted, missing and charged.

    Whole lots are taken in order of ask + fee; of equal prices the later venue is filled first, because the search
    keeps the first of equally cheap splits. If lots cannot fill the order, single shares are used. If even these
    cannot, everything displayed is taken, and the shortfall is posted at the venue with the largest rebate (of equals
    the first) and charged shortfall * (reserve + theta_queue + lambda_under - rebate).

    Parameters
    ----------
    order_size : int
        Shares to buy, a whole number. 0 or less: nothing to do, all zeros.
    venues : sequence of Venue
        K venues; those without an offer (ask or ask_size 0 or NaN) get nothing.
    lambda_over, lambda_under : float
        Penalty per share bought too much, too little, USD/share. A plan never buys too much: `lambda_over` is checked
        but never charged.
    theta_queue : float
        Penalty for queue risk per share missed, USD/share.
    step : int
        Lot, shares.
    reserve : float, optional
        Price at which a missing share is thought to be bought later, USD/share. Default: the dearest ask + fee
        displayed; if no venue has an offer either, the price is unknown and the cost infinite.
        Displayed shares are taken first even if they cost more than `reserve`.

    Raises
    ------
    AllocationError
        An argument or a venue has an impossible value (not finite, not whole, negative size).
    """
    order_sz, step_sz = _whole("order_size", order_size), _whole("step", step)
    if step_sz < 1:
        raise AllocationError(f"step is {step!r}; it must be at least 1 share")
    _check_finite(
        lambda_over=lambda_over,
        lambda_under=lambda_under,
        theta_queue=theta_queue,
        reserve=0.0 if reserve is None else reserve,
    )
    ranking = _cheapest_first(venues)
    split, shortfall = _fill_lots(order_sz, venues, ranking, step_sz)
    status = "exact_lots"
    if shortfall:
        split, shortfall = _fill_lots(order_sz, venues, ranking, 1)
        status = "short" if shortfall else "odd_lots"
    posted, charge = [0] * len(split), 0.0
    if shortfall:
        posted, charge = _post(shortfall, venues, ranking, theta_queue + lambda_under, reserve)
    return Allocation(tuple(split), tuple(posted), sum(split), shortfall, _cash(split, venues) + charge, status)


def allocate_exhaustive(
    order_size: int,
    venues: Sequence[Venue],
    lambda_over: float,
    lambda_under: float,
    theta_queue: float,
    *,
    step: int = 100,
) -> tuple[list[int], float]:
    """The trial's pseudocode: tries every split in lots of `step`. The reference of the tests and benchmarks.

    Time and memory grow with the product of (ask_size / step + 1) over the venues. Inputs are not checked.

    Returns
    -------
    split : list of int
        The first of the cheapest splits that add up to `order_size`, shares per venue; empty if there is none.
    cost : float
        Its cost, USD; infinite if there is none.
    """
    best_split, best_cost = [], inf
    for split in _all_splits(order_size, venues, step):
        if sum(split) == order_size:
            cost = split_cost(split, order_size, venues, lambda_over, lambda_under, theta_queue)
            if cost < best_cost:
                best_split, best_cost = split, cost
    return best_split, best_cost


def split_cost(
    split: Sequence[int],
    order_size: int,
    venues: Sequence[Venue],
    lambda_over: float,
    lambda_under: float,
    theta_queue: float,
) -> float:
    """The trial's cost of a split, USD: cash for what executes, less rebates on the rest, plus the penalties."""
    executed, cash = 0, 0.0
    for quantity, venue in zip(split, venues, strict=True):
        taken = min(quantity, venue.ask_size)
        executed += taken
        cash += taken * (venue.ask + venue.fee)
        cash -= max(quantity - taken, 0) * venue.rebate
    underfill = max(order_size - executed, 0)
    overfill = max(executed - order_size, 0)
    risk_penalty = theta_queue * (underfill + overfill)
    misfit_penalty = lambda_under * underfill + lambda_over * overfill
    return cash + risk_penalty + misfit_penalty


def _all_splits(order_size: int, venues: Iterable[Venue], step: int) -> list[list[int]]:
    """Every way to ask the venues for lots within their size and the order, in lexicographic order."""
    splits = [[]]
    for venue in venues:
        longer = []
        for split in splits:
            most = min(order_size - sum(split), venue.ask_size)
            longer.extend([*split, quantity] for quantity in range(0, most + 1, step))
        splits = longer
    return splits


def _cheapest_first(venues: Sequence[Venue]) -> list[int]:
    """Indices of the venues that have an offer, by ask + fee in ticks; of equals the later first."""
    ticks = {}
    for i in reversed(range(len(venues))):
        try:
            venue = venues[i]
            ask, ask_size = venue.ask, venue.ask_size
            if ask_size > 0 and ask > 0:
                ticks[i] = round((ask + venue.fee) * TICKS_PER_USD)  # refuses NaN and infinity
                sound = isfinite(venue.rebate)
            else:
                sound = not ask_size < 0
        except (AttributeError, OverflowError, TypeError, ValueError):
            sound = False
        if not sound:
            raise AllocationError(
                f"venues[{i}] is {venues[i]!r}; ask, fee and rebate must be finite USD/share and ask_size >= 0"
            )
    return sorted(ticks, key=ticks.__getitem__)  # stable: equals stay in reversed order


def _fill_lots(order_sz: int, venues: Sequence[Venue], ranking: list[int], lot_sz: int) -> tuple[list[int], int]:
    """Take whole lots in the order of `ranking`: shares per venue, and the shares still missing."""
    split, missing = [0] * len(venues), max(order_sz, 0)
    for i in ranking:
        if not missing:
            break
        split[i] = int(min(missing, venues[i].ask_size)) // lot_sz * lot_sz
        missing -= split[i]
    return split, missing


def _cash(split: list[int], venues: Sequence[Venue]) -> float:
    """USD paid for `split`, summed by venue index as `split_cost` does: equal to it to the last bit."""
    cash = 0.0
    for quantity, venue in zip(split, venues, strict=True):
        if quantity:
            cash += quantity * (venue.ask + venue.fee)
    return float(cash)


def _post(
    shortfall: int, venues: Sequence[Venue], ranking: list[int], penalty: float, reserve: float | None
) -> tuple[list[int], float]:
    """The shortfall posted at the venue with the largest rebate: shares per venue, and the charge, USD."""
    posted, rebate = [0] * len(venues), 0.0
    if ranking:
        best = max(sorted(ranking), key=lambda i: venues[i].rebate)
        posted[best], rebate = shortfall, venues[best].rebate
    if reserve is None:
        reserve = max((venues[i].ask + venues[i].fee for i in ranking), default=inf)
    return posted, float(shortfall * (reserve + penalty - rebate))


def _whole(name: str, number: float) -> int:
    """`number` as an int if it is a whole number of shares."""
    try:
        whole = int(number)
        if whole == number:
            return whole
    except (OverflowError, TypeError, ValueError):
        pass
    raise AllocationError(f"{name} is {number!r}; it must be a whole number of shares")


def _check_finite(**numbers: float) -> None:
    """Refuse the first of `numbers` that is not a finite number."""
    for name, number in numbers.items():
        try:
            sound = isfinite(number)
        except TypeError:
            sound = False
        if not sound:
            raise AllocationError(f"{name} is {number!r}; it must be a finite number of USD/share")
