"""Order placement of Cont and Kukanov (arXiv 1210.1625): how much to market, how much to post at each venue.

import numpy as np
from sor.placement import Costs, place, simulate_flows
c = np.maximum(simulate_flows(K=3, N=1000) - 2000, 0)           # shares, (venues, scenarios)
costs = Costs(0.02, 0.003, [0.002] * 3, 0.0005, 0.05, 0.05)     # USD per share
answer = place(c, 1000, costs)
answer.market_sz, answer.limit_sz, answer.per_share_cents, answer.certified
many_market_sz, many_limit_sz = place_many(c, [1000, 500], 0.02, 0.003, [0.002] * 3, [(0.05, 0.05, 0.0005)] * 2)
"""

from sor.placement.costs import AssumptionWarning, Costs
from sor.placement.flows import simulate_flows
from sor.placement.many import place_many
from sor.placement.objective import Evaluation, evaluate
from sor.placement.single import place_single
from sor.placement.solver import Placement, place, whole_shares

__all__ = [
    "AssumptionWarning",
    "Costs",
    "Evaluation",
    "Placement",
    "evaluate",
    "place",
    "place_many",
    "place_single",
    "simulate_flows",
    "whole_shares",
]
