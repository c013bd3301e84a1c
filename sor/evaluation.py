"""What may be claimed: many orders over the day, tuned on the past, scored on the future, with intervals.

`replay_day` buys one order in every window of a day with every strategy; `section` pools days into the `evaluation` of
output.json. The strategy under test is scored walk-forward: its triple in a window comes from windows that ended before
(sor.statistics). Everything else (in-sample, fill models, sensitivities) stands beside it on the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from sor import market as markets
from sor import policies, routing, statistics
from sor.clairvoyant import clairvoyant
from sor.experiment import PARAMETERS, search
from sor.market import Market
from sor.orders import RESET, SHADOW, Order, Window
from sor.queue import Flows
from sor.statistics import NOT_SCORED, Scored

BASELINES = ("best_ask", "twap", "vwap", "equal", "limit_only", "allocate")
COMPARED = ("best_ask", "twap", "vwap")  # in the fill models and sensitivities
LATENCIES_MS = (0, 1, 5, 20)
FEE_FACTORS = (0.5, 1, 2)
ADVERSE_WEIGHTS = (0, 0.25, 0.5, 1)
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
MILLISECOND_NS = 10**6
MANY_PRICED = 0.02  # of a strategy's shares at the terminal price: worth a word
INTERVALS = (
    "intervals are of the path of triples that was chosen, about 5 points too narrow (look at the 99 % too), "
    "p_holm is as generous, and all of it is of this sample of days: no claim about others"
)
IN_SAMPLE = "the cheapest triple of the very windows it is scored on: what tuning alone can show, not a claim"


@dataclass(frozen=True)
class Protocol:
    """How a day is cut and judged; times in seconds."""

    window_s: float = 600.0
    stride_s: float = 600.0
    skip_s: float = 300.0  # at both ends of the session
    folds: int = statistics.FOLDS
    resamples: int = statistics.RESAMPLES
    seed: int = 1


@dataclass(frozen=True)
class Arms:
    """What the scored windows cost, W of them, micro-dollars: the strategy, B baselines and the floor."""

    policy_e6: np.ndarray  # int64 (W,)
    baseline_e6: np.ndarray  # int64 (W, B)
    clairvoyant_e6: np.ndarray  # int64 (W,)
    size: int  # shares bought in each window
    passive_sz: int = 0  # of all shares the strategy bought, filled in a queue
    posted_sz: int = 0  # shares of limit orders it sent
    surplus_sz: int = 0  # bought too many
    priced_sz: tuple[int, ...] = ()  # shares that were nowhere on the book: of the strategy, then of every baseline


@dataclass(frozen=True)
class DayResult:
    """One day: W windows, G triples, B baselines. Small, and all that `section` needs."""

    day: str
    starts_ns: np.ndarray  # int64 (W,)
    mid_e6: np.ndarray  # int64 (W,) micro-dollars per share at each start
    fold: np.ndarray  # int (W,)
    total_e6: np.ndarray  # int64 (W, G)
    chosen: np.ndarray  # int (W,) triple of each window, NOT_SCORED where there was no past
    default: int  # index of the default triple
    main: Arms  # scored windows, the strategy at the triple chosen for each
    variants: dict[str, dict[str, Arms]]  # {what was changed: {to what: scored windows}}


def default_triple(triples: Sequence[tuple[float, float, float]]) -> int:
    """Index of the triple made of the middle value of each parameter."""
    middle = [sorted(set(values))[len(set(values)) // 2] for values in zip(*triples, strict=True)]
    return next((i for i, triple in enumerate(triples) if list(triple) == middle), len(triples) // 2)


def variants(market: Market, order: Order) -> Iterator[tuple[str, str, Market, Order]]:
    """(what is changed, to what, market, order) of every fill model and sensitivity."""
    models = {
        "risk_averse": replace(order, rule=SHADOW, optimistic_cancels=False),
        "optimistic_cancels": replace(order, rule=SHADOW, optimistic_cancels=True),
        "reset": replace(order, rule=RESET, optimistic_cancels=False),
    }
    for name, changed in models.items():
        yield "fill_model", name, market, changed
    for latency_ms in LATENCIES_MS:
        latency_ns = np.full_like(market.latency_ns, latency_ms * MILLISECOND_NS)
        yield "latency_ms", f"{latency_ms}", replace(market, latency_ns=latency_ns), order
    for factor in FEE_FACTORS:
        scaled = {name: np.rint(getattr(market, name) * factor).astype(np.int64) for name in ("fees_e6", "rebates_e6")}
        yield "fees", f"{factor:g}", replace(market, **scaled), order
    for weight in ADVERSE_WEIGHTS:
        yield "adverse_weight", f"{weight:g}", market, replace(order, adverse_weight=weight)
    for size in SIZES:
        yield "order_size", f"{size}", market, replace(order, size=size)


def steps(market: Market, order: Order, protocol: Protocol) -> int:
    """How often `replay_day` calls `tick`."""
    return len(orders_of(market, order, protocol)) + sum(1 for _ in variants(market, order))


def orders_of(market: Market, order: Order, protocol: Protocol) -> list[Order]:
    """The day's orders: one in every window whose first book can be traded on."""
    window_ns = round(protocol.window_s * 1e9)
    starts_ns = statistics.window_starts(
        order.window.start_ns,
        order.window.end_ns,
        window_ns=window_ns,
        stride_ns=round(protocol.stride_s * 1e9),
        skip_ns=round(protocol.skip_s * 1e9),
    )
    known = market.updates.batches_by(starts_ns)
    usable = (known > 0) & market.usable[known - 1]
    return [replace(order, window=Window(start, start + window_ns)) for start in starts_ns[usable].tolist()]


def replay_day(
    market: Market,
    order: Order,
    policy: str,
    triples: routing.Triples,
    protocol: Protocol,
    *,
    day: str = "",
    tick: Callable[[], object] = lambda: None,
) -> DayResult:
    """Buy an order of the same size in every window of `order`'s, with every strategy and triple.

    Parameters
    ----------
    market : Market
    order : Order
        Its window is the session that is cut into windows.
    policy : str
        The strategy under test.
    triples : G parameter triples
    protocol : Protocol
    day : str
        Label of the day.
    tick : callable
        Called after each step of `steps`.
    """
    orders = orders_of(market, order, protocol)
    flows = routing.flows_of(market, order)
    total_e6 = np.zeros((len(orders), len(triples)), np.int64)
    for i, each in enumerate(orders):
        total_e6[i] = search(market, each, policy, triples, flows).total_e6
        tick()
    starts_ns = np.array([each.window.start_ns for each in orders], np.int64)
    fold = statistics.time_folds(starts_ns, order.window.start_ns, order.window.end_ns, protocol.folds)
    window_ns = round(protocol.window_s * 1e9)
    chosen = statistics.walk_forward(total_e6, starts_ns, window_ns, fold)
    scored = np.flatnonzero(chosen != NOT_SCORED)
    plan = [(orders[i], triples[chosen[i]]) for i in scored]
    changed: dict[str, dict[str, Arms]] = {}
    for what, to, its_market, its_order in variants(market, order):
        its_flows = flows if its_order.optimistic_cancels == order.optimistic_cancels else None
        its_plan = [(replace(its_order, window=each.window), triple) for each, triple in plan]
        changed.setdefault(what, {})[to] = _arms(its_market, its_order, policy, its_plan, its_flows, COMPARED)
        tick()
    mids_px = [markets.arrival_mid_px(market, each.window) for each in orders]
    return DayResult(
        day=day,
        starts_ns=starts_ns,
        mid_e6=np.rint(np.array(mids_px) * 1e6).astype(np.int64),
        fold=fold,
        total_e6=total_e6,
        chosen=chosen,
        default=default_triple(triples),
        main=_arms(market, order, policy, plan, flows, BASELINES),
        variants=changed,
    )


def _arms(
    market: Market,
    order: Order,
    policy: str,
    plan: list[tuple[Order, tuple[float, float, float]]],
    flows: Flows | None,
    baselines: Sequence[str],
) -> Arms:
    """What every planned order costs with its triple, with every baseline and at the floor."""
    flows = routing.flows_of(market, order) if flows is None else flows
    cost_e6 = np.zeros((len(plan), 1 + len(baselines)), np.int64)
    clairvoyant_e6 = np.zeros(len(plan), np.int64)
    passive_sz = posted_sz = surplus_sz = 0
    priced_sz = np.zeros(1 + len(baselines), np.int64)
    for i, (each, triple) in enumerate(plan):
        own = policies.run(policy, market, each, (triple,), flows=flows, record=False)
        others = (policies.run(name, market, each, flows=flows, record=False) for name in baselines)
        for b, taken in enumerate((own, *others)):
            cost_e6[i, b] = taken.total_e6[0]
            priced_sz[b] += taken.priced_sz[0]
        passive_sz += int(own.passive_sz[0])
        posted_sz += int(own.posted_sz[0])
        surplus_sz += int(own.surplus_sz[0])
        terminal = markets.terminal(market, each.window, each.penalty_px)
        clairvoyant_e6[i], _ = clairvoyant(market.updates, market.fees_e6, each.window, each.size, terminal, each.rule)
    return Arms(
        policy_e6=cost_e6[:, 0],
        baseline_e6=cost_e6[:, 1:],
        clairvoyant_e6=clairvoyant_e6,
        size=order.size,
        passive_sz=passive_sz,
        posted_sz=posted_sz,
        surplus_sz=surplus_sz,
        priced_sz=tuple(priced_sz.tolist()),
    )


# --- the section of output.json ----------------------------------------------------------------------------------------


def section(days: Sequence[DayResult], policy: str, triples: routing.Triples, protocol: Protocol) -> dict[str, object]:
    """`evaluation` of output.json: the strategy walk-forward against every baseline, and what stands beside it."""
    scored = [each.chosen != NOT_SCORED for each in days]
    label = np.repeat(np.arange(len(days)), [int(which.sum()) for which in scored])
    mid_e6 = np.concatenate([each.mid_e6[which] for each, which in zip(days, scored, strict=True)])
    total_e6 = np.concatenate([each.total_e6[which] for each, which in zip(days, scored, strict=True)])
    judge = _Judge(protocol, mid_e6, label if len(days) > 1 else None, policy)
    main = _pooled([each.main for each in days])
    default = days[0].default
    best = statistics.in_sample_best(total_e6) if len(total_e6) else default
    at_best, at_default = (replace(main, policy_e6=total_e6[:, each]) for each in (best, default))
    return {
        "policy": policy,
        "order_size": main.size,
        "days": len(days),
        "windows": sum(len(each.starts_ns) for each in days),
        "scored_windows": len(mid_e6),
        "protocol": {**asdict(protocol), "embargo_s": protocol.window_s, "block_windows": judge.block},
        "walk_forward": _walk_forward(days, policy, triples, judge, main),
        "in_sample": {
            **_fixed(triples[best], judge, at_best),
            "note": IN_SAMPLE if len(total_e6) else "no window was scored: the default triple",
        },
        "default_parameters": _fixed(triples[default], judge, at_default),
        "strategies": {
            **{name: judge.arm(main.baseline_e6[:, b], main.size) for b, name in enumerate(BASELINES)},
            "clairvoyant": judge.arm(main.clairvoyant_e6, main.size),
        },
        **_varied(days, policy, judge),
        "note": judge.note(main),
    }


def _walk_forward(
    days: Sequence[DayResult], policy: str, triples: routing.Triples, judge: _Judge, main: Arms
) -> dict[str, object]:
    """The strategy at the triples chosen on earlier windows: what may be claimed."""
    return {
        **judge.arm(main.policy_e6, main.size),
        "chosen": _chosen(days, triples),
        "passive_share": _share(main.passive_sz, main.size * len(main.policy_e6)),
        "queue_fill_rate": _share(main.passive_sz, main.posted_sz),
        "surplus_shares": main.surplus_sz,
        "priced_beyond_book_share": judge.priced(main, BASELINES),
        "savings": judge.savings(main, BASELINES),
    }


def _fixed(triple: tuple[float, float, float], judge: _Judge, arms: Arms) -> dict[str, object]:
    """The strategy at one triple in every scored window."""
    return {
        **_named(triple),
        **judge.arm(arms.policy_e6, arms.size),
        "savings": judge.savings(arms, BASELINES),
    }


def _varied(days: Sequence[DayResult], policy: str, judge: _Judge) -> dict[str, object]:
    """Fill models and sensitivities: the strategy at the triples chosen above, and what it saves."""
    rows: dict[str, dict[str, object]] = {}
    for what, by_value in days[0].variants.items():
        for to in by_value:
            arms = _pooled([each.variants[what][to] for each in days])
            rows.setdefault(what, {})[to] = {
                **judge.arm(arms.policy_e6, arms.size),
                "passive_share": _share(arms.passive_sz, arms.size * len(arms.policy_e6)),
                "priced_beyond_book_share": judge.priced(arms, COMPARED),
                "savings": judge.savings(arms, COMPARED),
            }
    return {"fill_models": rows.pop("fill_model"), "sensitivity": rows}


def _pooled(parts: Sequence[Arms]) -> Arms:
    return Arms(
        policy_e6=np.concatenate([each.policy_e6 for each in parts]),
        baseline_e6=np.concatenate([each.baseline_e6 for each in parts]),
        clairvoyant_e6=np.concatenate([each.clairvoyant_e6 for each in parts]),
        size=parts[0].size,
        passive_sz=sum(each.passive_sz for each in parts),
        posted_sz=sum(each.posted_sz for each in parts),
        surplus_sz=sum(each.surplus_sz for each in parts),
        priced_sz=tuple(map(sum, zip(*(each.priced_sz for each in parts), strict=True))),
    )


@dataclass(frozen=True)
class _Judge:
    """Turns costs of the scored windows into measures with intervals."""

    protocol: Protocol
    mid_e6: np.ndarray  # int64 (W,)
    day: np.ndarray | None  # int (W,)
    policy: str = ""

    @property
    def block(self) -> int:
        """Windows in a block of the bootstrap."""
        return statistics.block_length(
            len(self.mid_e6), round(self.protocol.window_s * 1e9), round(self.protocol.stride_s * 1e9)
        )

    def arm(self, cost_e6: np.ndarray, size: int) -> dict[str, object]:
        """Shortfall of one strategy: bps of the value at arrival with intervals, cents per share."""
        notional_e6 = self.mid_e6 * size
        against = Scored(notional_e6, cost_e6[:, None], notional_e6, notional_e6, size, self.day)
        found = self._summary(against, ("shortfall",))["shortfall"]
        return {
            "shortfall_bps": _rounded(found.saved_bps),
            "shortfall_cents_per_share": _rounded(found.saved_cents_per_share),
            "ci95": _rounded(found.ci95),
            "ci99": _rounded(found.ci99),
        }

    def savings(self, arms: Arms, baselines: Sequence[str]) -> dict[str, dict[str, object]]:
        """What the strategy saved against each baseline but itself."""
        others = [b for b, name in enumerate(baselines) if name != self.policy]
        scored = self._scored(replace(arms, baseline_e6=arms.baseline_e6[:, others]))
        return {
            name: {key: _rounded(value) for key, value in asdict(saving).items() if key not in ("windows", "note")}
            for name, saving in self._summary(scored, [baselines[b] for b in others]).items()
        }

    def priced(self, arms: Arms, baselines: Sequence[str]) -> dict[str, float | None]:
        """Part of each strategy's shares that was nowhere on the book: where it is large, totals are that of a rule."""
        bought_sz = arms.size * len(self.mid_e6)
        return {
            name: _share(sz, bought_sz) for name, sz in zip((self.policy, *baselines), arms.priced_sz, strict=False)
        }

    def note(self, arms: Arms) -> str:
        """What the reader must know first: that totals are made by a rule, why there is no interval, what the intervals are."""
        most = max((share or 0.0 for share in self.priced(arms, BASELINES).values()), default=0.0)
        by_rule = (
            f"up to {most:.0%} of a strategy's shares were nowhere on the book and cost the terminal price: the savings say "
            "more about that rule than about trading; "
        )
        missing = self._summary(self._scored(arms), BASELINES)[BASELINES[0]].note
        return (by_rule if most > MANY_PRICED else "") + (missing or INTERVALS)

    def _scored(self, arms: Arms) -> Scored:
        notional_e6 = self.mid_e6 * arms.size
        return Scored(arms.policy_e6, arms.baseline_e6, arms.clairvoyant_e6, notional_e6, arms.size, self.day)

    def _summary(self, scored: Scored, names: Sequence[str]) -> dict[str, statistics.Saving]:
        return statistics.summary(
            scored, names, block=self.block, resamples=self.protocol.resamples, seed=self.protocol.seed
        )


def _chosen(days: Sequence[DayResult], triples: routing.Triples) -> list[dict[str, object]]:
    """The triple of every fold that was scored; folds are counted from 1."""
    rows = []
    for each in days:
        for fold in np.unique(each.fold[each.chosen != NOT_SCORED]):
            of_fold = (each.fold == fold) & (each.chosen != NOT_SCORED)
            triple = triples[int(each.chosen[of_fold][0])]
            rows.append({"day": each.day, "fold": int(fold) + 1, "windows": int(of_fold.sum()), **_named(triple)})
    return rows


def _named(triple: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(PARAMETERS, triple, strict=True))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _rounded(value: float | tuple[float, float] | None) -> float | list[float] | None:
    if isinstance(value, tuple):
        return [round(each, 6) for each in value]
    return None if value is None else round(value, 6)
