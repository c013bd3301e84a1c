"""The life of every child order of one lane, as lines for `--explain`: placed, queue ahead, fills, why it ended, cost.

The costs of all lines add up to `total_cash` of output.json, to the micro-dollar.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sor.market import Market
from sor.orders import (
    AT_DEADLINE,
    CHILD_DTYPE,
    DEADLINE,
    FILLED,
    LIMIT,
    REJECTED,
    SHORT,
    SLICE_COMPLETE,
    SLICE_OVER,
    TAKE,
    Order,
    Taken,
)

KINDS = {TAKE: "market", LIMIT: "limit", DEADLINE: "deadline sweep"}
ENDS = {
    FILLED: "filled",
    SLICE_OVER: "cancelled when its slice ended",
    SLICE_COMPLETE: "cancelled when its slice was complete",
    REJECTED: "refused on arrival: it would have locked the venue's book",
    AT_DEADLINE: "void at the deadline",
    SHORT: "the venue showed less, or became dearer, before it arrived",
}


def lines(taken: Taken, market: Market, order: Order) -> Iterator[dict[str, object]]:
    """One record for every child order of lane 0, in the order they were sent, then for what was priced or sold by rule.

    Sizes in shares, `px` in USD per share, `cost` in USD: cash and fee less rebate; times are ISO-8601 UTC.
    """
    children = taken.children if len(taken.children) else _children_of(taken.fills)
    for number, child in enumerate(np.sort(children, order=["sent_ns", "slice"], kind="stable")):
        yield {"child": number, **_child(child, market)}
    end = _utc(order.window.end_ns)
    if taken.priced_sz[0]:
        why = "nowhere on the book at the deadline: charged by rule"
        yield _by_rule("priced", end, taken.priced_sz[0], taken.priced_e6[0], why)
    if taken.surplus_sz[0]:
        why = "bought too many by limit orders that filled together: sold at the deadline by rule"
        yield _by_rule("surplus", end, taken.surplus_sz[0], -taken.surplus_e6[0], why)


def _by_rule(kind: str, end: str, sz: np.int64, cost_e6: np.int64, why: str) -> dict[str, object]:
    """The record of shares that no child order bought or sold."""
    return {"kind": kind, "ended": end, "shares": int(sz), "cost": int(cost_e6) / 1e6, "why": why}


def _children_of(fills: np.ndarray) -> np.ndarray:
    """Where nothing takes time, every fill is a child order that was filled when it was sent."""
    children = np.zeros(len(fills), CHILD_DTYPE)
    for name in ("kind", "venue", "px_e4", "sz"):
        children[name] = fills[name]
    children["filled_sz"] = fills["sz"]
    for name in ("sent_ns", "arrived_ns", "ended_ns"):
        children[name] = fills["ts_ns"]
    children["slice"] = np.cumsum(np.diff(fills["ts_ns"], prepend=fills["ts_ns"][:1] - 1) != 0)
    children["end"] = FILLED
    return children


def _child(child: np.void, market: Market) -> dict[str, object]:
    """The record of one child order."""
    kind, venue, filled_sz = int(child["kind"]), int(child["venue"]), int(child["filled_sz"])
    cash_e6 = filled_sz * int(child["px_e4"]) * 100
    fee_e6 = 0 if kind == LIMIT else filled_sz * int(market.fees_e6[venue])
    rebate_e6 = filled_sz * int(market.rebates_e6[venue]) if kind == LIMIT else 0
    return {
        "slice": int(child["slice"]),
        "kind": KINDS[kind],
        "venue": market.venue_names[venue],
        "px": int(child["px_e4"]) / 1e4,
        "shares": int(child["sz"]),
        "sent": _utc(child["sent_ns"]),
        "arrived": _utc(child["arrived_ns"]) if child["arrived_ns"] else None,
        "ended": _utc(child["ended_ns"]),
        "queue_ahead": int(child["ahead_sz"]) if kind == LIMIT else None,
        "queue_ahead_at_end": int(child["ahead_at_end_sz"]) if kind == LIMIT else None,
        "filled": filled_sz,
        "why": _why(child),
        "cash": cash_e6 / 1e6,
        "fee": fee_e6 / 1e6,
        "rebate": rebate_e6 / 1e6,
        "cost": (cash_e6 + fee_e6 - rebate_e6) / 1e6,
    }


def _why(child: np.void) -> str:
    """How it ended, and for a limit order that was not filled, what was missing."""
    end, missing_sz = int(child["end"]), int(child["sz"] - child["filled_sz"])
    if child["kind"] != LIMIT or end in (FILLED, REJECTED) or not child["arrived_ns"]:
        return ENDS[end]
    ahead_sz = int(child["ahead_at_end_sz"])
    where = (
        f"{ahead_sz} shares were still ahead of it"
        if ahead_sz
        else "nothing was ahead of it, and no more was sold there"
    )
    return f"{ENDS[end]}, {missing_sz} not filled: {where}"


def _utc(ns: int) -> str:
    return f"{np.datetime64(int(ns), 'ns')}Z"
