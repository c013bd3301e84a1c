"""A lower bound on the cost: the trader may refuse fills, which makes the problem a linear program (MATH 1.3, 1.4).

On a box low <= x <= high of x = (M, L_1..L_K) every fill z_kn may lie anywhere between min(c, L) and the chord of that
concave function over the box. The program has one variable per fill and per scenario, but they can be eliminated: a
step of the interior point method (Mehrotra's predictor and corrector) is one linear system of K + 1 unknowns.

Entries with c <= low are constants and those with c >= high are L itself; scenarios that are short, or not short, for
every x of the box have a known price of a share. What remains is held in flat arrays, so a small box costs little.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sor.placement.objective import FAST

S, T, Q, DS, DT, DQ = range(6)  # rows of `entry`: slacks L - z, c - z, z - chord, and their prices
INV_H, PHI, RHO, DZ, STEP_DS, STEP_DT, STEP_DQ = range(7)  # rows of `work`
U, G, DU, DG = range(4)  # rows of `line`: shortfall, its slack, and their prices (DG: what one more share is worth)
XL, XH, DXL, DXH = range(4)  # rows of `side`: slacks to the box and their prices
SIGN = np.int64(-(2**63))
EDGE = 1e-12  # of a box: a fill that close to its side counts as on it
TINY = 1e-18  # slacks and prices stay above it, whatever rounding does to them
BACK = 0.9  # of the step to the boundary: closer, and the products of slack and price spread too far


@njit(cache=True, error_model="numpy")
def lower_bound(c, low, high, market, theta, fill, short, over, tol, rounds, rival, share):
    """Minimise the relaxation over a box.

    Parameters
    ----------
    c : float (K, N)
        Fillable flow in units of the order.
    low, high : float (K + 1,)
        The box of (M, L_1..L_K), low < high.
    market, theta, short, over : float
        See `costs.Canonical`; short >= 0.
    theta, fill : float (K,)
        Cost per share posted and per share filled, by venue.
    tol : float
        Stop when the duality gap is below it.
    rounds : int
        Most iterations.
    rival, share : float
        Stop also when the duality gap is below `share` of the distance from the bound to `rival`, the cost of a known
        point: where the relaxation is not tight, more digits of it say nothing. Infinite rival: never.

    Returns
    -------
    x : float (K + 1,)
        Best point of the relaxation.
    bound : float
        No x of the box costs less. It holds whether or not the iterations converged.
    primal : float
        Cost of x in the relaxation.
    refused : float (K,)
        Mean fill refused at x by venue: where the relaxation is loose.
    used : int
        Iterations.
    """
    venues, n_all = c.shape
    line_of, lines, known_short, known_need = sort_lines(c, low, high)
    starts, flow, slope, line_at, linked, need, price_l, constant = collect(
        c, low, high, line_of, lines, theta, fill, short
    )
    constant += short * known_need - n_all * over
    price_m = n_all * market - short * known_short
    entry = np.empty((6, len(flow)))
    work = np.empty((7, len(flow)))
    line = np.zeros((4, lines + 2))
    side = np.empty((4, venues + 1))
    x = 0.5 * (low + high)
    start_point(
        x, low, high, starts, flow, slope, line_at, linked, need, fill, short, price_l, price_m, entry, line, side
    )
    phi = np.zeros((venues + 1, lines))
    scaled = np.empty((venues + 1, lines))
    normal = np.empty((venues + 1, venues + 1))
    pairs = 3 * len(flow) + 2 * lines + 2 * (venues + 1)
    used = 0
    gap = complementarity(entry, line, side, lines)
    while used < rounds and gap > tol * n_all:
        used += 1
        mu = gap / pairs
        inverse, rhs, residual = assemble(
            starts, slope, line_at, linked, lines, entry, line, side, work, phi, scaled, normal
        )
        if not factor(normal):
            break
        dx, dy, du, dg, ratio_p, ratio_d, products = predict(
            starts, slope, line_at, linked, lines, entry, line, side, work, phi, normal, inverse, rhs, residual
        )
        if not np.isfinite(dx).all():
            break
        alpha_p, alpha_d = 1.0 / max(1.0, ratio_p), 1.0 / max(1.0, ratio_d)
        affine = gap + alpha_p * products[0] - alpha_d * (gap + products[0]) + alpha_p * alpha_d * products[1]
        target = mu * min(1.0, max(affine, 0.0) / gap) ** 3
        if not correct(
            starts,
            slope,
            line_at,
            linked,
            lines,
            entry,
            line,
            side,
            work,
            phi,
            normal,
            inverse,
            dx,
            dy,
            du,
            dg,
            target,
            x,
        ):
            break
        gap = complementarity(entry, line, side, lines)
        if not gap < 1e30:  # also where it is no number
            break
        if rival < np.inf and gap < 0.1 * (abs(rival) + abs(over)) * n_all:
            dual = dual_value(
                low, high, starts, flow, slope, line_at, linked, need, fill, short, price_l, price_m, entry, line
            )
            if gap < share * (rival * n_all - dual - constant):
                break
    bound = dual_value(
        low, high, starts, flow, slope, line_at, linked, need, fill, short, price_l, price_m, entry, line
    )
    bound = (bound + constant) / n_all
    if not bound > -np.inf:
        bound = -np.inf
    x = np.minimum(np.maximum(x, low), high)
    return x, bound, bound + gap / n_all, refusals(starts, entry) / n_all, used


@njit(cache=True, error_model="numpy")
def sort_lines(c, low, high):
    """Number the scenarios whose shortfall is open on the box: the others are short, or not short, throughout."""
    venues, n_all = c.shape
    least, most = np.full(n_all, low[0]), np.full(n_all, high[0])
    for k in range(venues):
        for n in range(n_all):
            least[n] += min(c[k, n], low[k + 1])
            most[n] += min(c[k, n], high[k + 1])
    line_of = np.empty(n_all, np.int64)
    lines, known_short = 0, 0
    for n in range(n_all):
        if most[n] <= 1.0:
            line_of[n] = -2
            known_short += 1
        elif least[n] >= 1.0:
            line_of[n] = -1
        else:
            line_of[n] = lines
            lines += 1
    return line_of, lines, known_short, float(known_short)


@njit(cache=True, error_model="numpy")
def collect(c, low, high, line_of, lines, theta, fill, short):
    """Flat arrays of the open entries; constants and entries equal to L go into `need`, `linked` and the prices."""
    venues, n_all = c.shape
    margin = EDGE * (high - low) + TINY
    total = 0
    for k in range(venues):
        for n in range(n_all):
            total += low[k + 1] + margin[k + 1] < c[k, n] < high[k + 1] - margin[k + 1]
    starts = np.zeros(venues + 1, np.int64)
    flow, slope = np.empty(total), np.empty(total)
    line_at = np.empty(total, np.int64)
    linked = np.zeros((venues, lines))
    need = np.ones(lines)
    price_l = np.empty(venues)
    constant = 0.0
    j = 0
    for k in range(venues):
        lowest, highest = low[k + 1], high[k + 1]
        per_width = 1.0 / (highest - lowest)
        price = n_all * theta[k]
        for n in range(n_all):
            at, got = line_of[n], c[k, n]
            if not got > lowest + margin[k + 1]:
                constant += fill[k] * got - (short * got if at == -2 else 0.0)
                if at >= 0:
                    need[at] -= got
            elif not got < highest - margin[k + 1]:
                price += fill[k] - (short if at == -2 else 0.0)
                if at >= 0:
                    linked[k, at] = 1.0
            else:
                flow[j], slope[j] = got, (got - lowest) * per_width
                line_at[j] = at if at >= 0 else lines - 1 - at  # lines: never short, lines + 1: always
                j += 1
        price_l[k] = price
        starts[k + 1] = j
    return starts, flow, slope, line_at, linked, need, price_l, constant


@njit(cache=True, error_model="numpy")
def start_point(
    x, low, high, starts, flow, slope, line_at, linked, need, fill, short, price_l, price_m, entry, line, side
):
    """A strictly feasible point of both sides, so that every iterate's dual value is a bound."""
    venues, lines = linked.shape
    spare = 0.05 * (high - low).sum()
    price = 0.5 * short
    small = 0.1 * short + 1e-3
    line[DG, :lines] = price
    line[DG, lines], line[DG, lines + 1] = 0.0, short
    line[DU, :lines] = short - price
    bought = np.zeros(lines + 2)
    reduced = np.empty(venues + 1)
    reduced[0] = price_m - price * lines
    for k in range(venues):
        limit, total = x[k + 1], price_l[k]
        for n in range(lines):
            bought[n] += linked[k, n] * limit
            total -= linked[k, n] * price
        for j in range(starts[k], starts[k + 1]):
            chord = low[k + 1] + slope[j] * (limit - low[k + 1])
            z = 0.5 * (chord + min(flow[j], limit))
            bought[line_at[j]] += z
            entry[S, j], entry[T, j], entry[Q, j] = limit - z, flow[j] - z, z - chord
            wanted = line[DG, line_at[j]] - fill[k] - small
            entry[DS, j], entry[DT, j], entry[DQ, j] = small, small + max(wanted, 0.0), small + max(-wanted, 0.0)
            total += slope[j] * entry[DQ, j] - small
        reduced[k + 1] = total
    for n in range(lines):
        missing = need[n] - x[0] - bought[n]
        line[U, n] = spare + max(missing, 0.0)
        line[G, n] = line[U, n] - missing
    weight = small * (1 + lines)
    for i in range(venues + 1):
        side[XL, i], side[XH, i] = x[i] - low[i], high[i] - x[i]
        side[DXL, i], side[DXH, i] = weight + max(reduced[i], 0.0), weight + max(-reduced[i], 0.0)


@njit(cache=True, error_model="numpy", fastmath=FAST)
def complementarity(entry, line, side, lines):
    """Sum of slack times price: the duality gap, as long as both sides stay feasible."""
    gap = 0.0
    for p in range(3):
        slack, price = entry[p], entry[p + 3]
        for j in range(len(slack)):
            gap += slack[j] * price[j]
    for n in range(lines):
        gap += line[U, n] * line[DU, n] + line[G, n] * line[DG, n]
    for i in range(side.shape[1]):
        gap += side[XL, i] * side[DXL, i] + side[XH, i] * side[DXH, i]
    return gap


@njit(cache=True, error_model="numpy")
def assemble(starts, slope, line_at, linked, lines, entry, line, side, work, phi, scaled, normal):
    """Eliminate fills, shortfalls and their prices: the system of (M, L), and its right side for the predictor."""
    venues = linked.shape[0]
    inverse, residual = np.zeros(lines + 2), np.zeros(lines + 2)
    rhs = np.zeros(venues + 1)
    normal[:] = 0.0
    phi[0] = 1.0
    for k in range(venues):
        phi[k + 1] = linked[k]
        a, b = starts[k], starts[k + 1]
        normal[k + 1, k + 1], rhs[k + 1] = eliminate(
            entry[S, a:b], entry[T, a:b], entry[Q, a:b], entry[DS, a:b], entry[DT, a:b], entry[DQ, a:b], slope[a:b],
            work[INV_H, a:b], work[PHI, a:b], work[RHO, a:b],
        )  # fmt: skip
        scatter(line_at[a:b], work[INV_H, a:b], work[PHI, a:b], work[RHO, a:b], inverse, residual, phi[k + 1], lines)
    for n in range(lines):
        inverse[n] = 1.0 / (line[G, n] / line[DG, n] + line[U, n] / line[DU, n] + inverse[n])
        residual[n] += line[U, n] - line[G, n]
    inverse[lines:], residual[lines:] = 0.0, 0.0
    finish_rhs(phi, inverse, residual, rhs, lines)
    for i in range(venues + 1):
        rhs[i] += side[DXH, i] - side[DXL, i]
        normal[i, i] += side[DXL, i] / side[XL, i] + side[DXH, i] / side[XH, i]
    gram(phi, inverse, scaled, normal)
    return inverse, rhs, residual


@njit(cache=True, error_model="numpy", fastmath=FAST)
def eliminate(s, t, q, ds, dt, dq, slope, inv_h, ratio, rho):
    """One venue's fills: 1/H, psi/H and the predictor's residual into the last three; its diagonal and right side.

    One array is written per loop: with more, the compiler cannot tell that they do not overlap, and does not vectorise.
    """
    diagonal, right = 0.0, 0.0
    for j in range(len(s)):
        inv_h[j] = s[j] * t[j] * q[j] / (t[j] * (ds[j] * q[j] + dq[j] * s[j]) + dt[j] * s[j] * q[j])
    for j in range(len(s)):
        ratio[j] = (ds[j] * q[j] + dq[j] * s[j] * slope[j]) * inv_h[j] / (s[j] * q[j])
    for j in range(len(s)):
        rho[j] = dq[j] - ds[j] - dt[j]
    for j in range(len(s)):
        p = slope[j]
        curve = dt[j] * (ds[j] * q[j] + dq[j] * s[j] * p * p) + ds[j] * dq[j] * t[j] * (1.0 - p) * (1.0 - p)
        diagonal += curve * inv_h[j] / (s[j] * t[j] * q[j])
        right += p * dq[j] - ds[j] - ratio[j] * rho[j]
    return diagonal, right


@njit(cache=True, error_model="numpy")
def scatter(line_at, inv_h, ratio, rho, inverse, residual, row, lines):
    """Add one venue's fills to the scenarios they belong to."""
    for j in range(len(line_at)):
        at = line_at[j]
        inverse[at] += inv_h[j]
        residual[at] += rho[j] * inv_h[j]
        if at < lines:
            row[at] += ratio[j]


@njit(cache=True, error_model="numpy", fastmath=FAST)
def finish_rhs(phi, inverse, residual, rhs, lines):
    """Add the scenarios' part to the right sides."""
    for i in range(phi.shape[0]):
        total = 0.0
        row = phi[i]
        for n in range(lines):
            total += row[n] * residual[n] * inverse[n]
        rhs[i] += total


@njit(cache=True, error_model="numpy", fastmath=FAST)
def gram(phi, inverse, scaled, normal):
    """normal += phi diag(inverse) phi^T, lower triangle."""
    size, lines = phi.shape
    for i in range(size):
        for n in range(lines):
            scaled[i, n] = phi[i, n] * inverse[n]
        left = scaled[i]
        for m in range(i + 1):
            total = 0.0
            right = phi[m]
            for n in range(lines):
                total += left[n] * right[n]
            normal[i, m] += total


@njit(cache=True, error_model="numpy")
def factor(normal):
    """Cholesky factor in place, lower triangle; false if a pivot is not a positive number."""
    size = normal.shape[0]
    for i in range(size):
        for m in range(i + 1):
            total = normal[i, m]
            for p in range(m):
                total -= normal[i, p] * normal[m, p]
            if m < i:
                normal[i, m] = total / normal[m, m]
            elif total > 1e-300:
                normal[i, i] = np.sqrt(total)
            else:
                return False
    return True


@njit(cache=True, error_model="numpy")
def solve(normal, rhs):
    """Solution of the factored system."""
    size = normal.shape[0]
    x = rhs.copy()
    for i in range(size):
        for p in range(i):
            x[i] -= normal[i, p] * x[p]
        x[i] /= normal[i, i]
    for i in range(size - 1, -1, -1):
        for p in range(i + 1, size):
            x[i] -= normal[p, i] * x[p]
        x[i] /= normal[i, i]
    return x


@njit(cache=True, error_model="numpy", fastmath=FAST)
def line_step(phi, inverse, residual, dx, lines):
    """Change of the scenarios' prices that goes with dx."""
    dy = np.zeros(lines + 2)
    for i in range(phi.shape[0]):
        row, move = phi[i], dx[i]
        for n in range(lines):
            dy[n] -= row[n] * move
    for n in range(lines):
        dy[n] = (dy[n] + residual[n]) * inverse[n]
    return dy


@njit(cache=True, error_model="numpy", fastmath=FAST)
def fill_step(line_at, price_step, ratio, inv_h, rho, move, gathered, dz):
    """Changes of one venue's fills that go with the changes of its limit order and of the scenarios' prices."""
    for j in range(len(line_at)):
        gathered[j] = price_step[line_at[j]]
    for j in range(len(dz)):
        dz[j] = ratio[j] * move + (gathered[j] - rho[j]) * inv_h[j]


@njit(cache=True, error_model="numpy")
def predict(starts, slope, line_at, linked, lines, entry, line, side, work, phi, normal, inverse, rhs, residual):
    """The predictor (all products to 0): its step, the largest -change/value of both sides, and what the gap becomes.

    products[0] = sum of price * slack change, products[1] = sum of slack change * price change.
    """
    venues = linked.shape[0]
    dx = solve(normal, rhs)
    dy = line_step(phi, inverse, residual, dx, lines)
    du, dg = np.empty(lines), np.empty(lines)
    most = np.zeros(2)  # largest -change/value of a slack, and -change/value of a price
    products = np.zeros(2)
    for k in range(venues):
        a, b = starts[k], starts[k + 1]
        dz = work[DZ, a:b]
        move = dx[k + 1]
        fill_step(
            line_at[a:b], dy, work[PHI, a:b], work[INV_H, a:b], work[RHO, a:b], move, work[STEP_DS, a:b], dz
        )  # fmt: skip
        predicted(entry[S, a:b], entry[DS, a:b], dz, slope[a:b], move, -1.0, 0.0, most, products)
        predicted(entry[T, a:b], entry[DT, a:b], dz, slope[a:b], 0.0, -1.0, 0.0, most, products)
        predicted(entry[Q, a:b], entry[DQ, a:b], dz, slope[a:b], 0.0, 1.0, -move, most, products)
    for n in range(lines):
        du[n] = line[U, n] * (dy[n] / line[DU, n] - 1.0)
        dg[n] = -line[G, n] * (dy[n] / line[DG, n] + 1.0)
    none = np.zeros(lines)
    predicted(line[U, :lines], line[DU, :lines], du, none, 0.0, 1.0, 0.0, most, products)
    predicted(line[G, :lines], line[DG, :lines], dg, none, 0.0, 1.0, 0.0, most, products)
    predicted(side[XL], side[DXL], dx, dx, 0.0, 1.0, 0.0, most, products)
    predicted(side[XH], side[DXH], dx, dx, 0.0, -1.0, 0.0, most, products)
    return dx, dy, du, dg, most[0], most[1], products


@njit(cache=True, error_model="numpy", fastmath=FAST)
def predicted(slack, price, dz, slope, constant, factor, per_slope, most, products):
    """Fold pairs whose slack changes by constant + factor dz + per_slope slope into the extremes and the products."""
    first, second = 0.0, 0.0
    change = np.empty(len(slack))
    for j in range(len(slack)):
        change[j] = (constant + factor * dz[j] + per_slope * slope[j]) / slack[j]
    for j in range(len(slack)):
        pair = price[j] * slack[j] * change[j]
        first += pair
        second -= pair * (1.0 + change[j])
    products[0] += first
    products[1] += second
    fall, rise = extremes(change)
    most[0], most[1] = max(most[0], fall), max(most[1], 1.0 + rise)  # the price changes by -(1 + change) of itself


@njit(cache=True)
def extremes(change):
    """Largest fall and largest rise, at least 0: doubles above 0 are ordered as integers, which do vectorise."""
    bits = change.view(np.int64)
    fall, rise = np.int64(0), np.int64(0)
    for j in range(len(bits)):
        rise = max(rise, bits[j])
    for j in range(len(bits)):
        fall = max(fall, bits[j] ^ SIGN)
    both = np.empty(2, np.int64)
    both[0], both[1] = fall, rise
    out = both.view(np.float64)
    return out[0], out[1]


@njit(cache=True, error_model="numpy", fastmath=FAST)
def pull(slack, price, dz, slope, constant, factor, per_slope, target, out):
    """What the corrector asks of pairs: (target - product - product of the predictor's changes) / slack."""
    for j in range(len(slack)):
        change = constant + factor * dz[j] + per_slope * slope[j]
        inv = 1.0 / slack[j]
        out[j] = (target + change * price[j] * (1.0 + change * inv)) * inv - price[j]


@njit(cache=True, error_model="numpy", fastmath=FAST)
def combine(es, et, eq, ratio, slope, rho):
    """The corrector's residual of one venue's fills into `rho`; returns its right side."""
    right = 0.0
    for j in range(len(es)):
        rho[j] = es[j] + et[j] - eq[j]
    for j in range(len(es)):
        right += es[j] - slope[j] * eq[j] - ratio[j] * rho[j]
    return right


@njit(cache=True, error_model="numpy")
def scatter_residual(line_at, inv_h, rho, residual):
    """Add one venue's residuals to the scenarios they belong to."""
    for j in range(len(line_at)):
        residual[line_at[j]] += rho[j] * inv_h[j]


@njit(cache=True, error_model="numpy", fastmath=FAST)
def price_change(slack, price, dz, slope, constant, factor, per_slope, wanted, most):
    """`wanted` becomes the change of the prices; the extremes of both sides go into `most`."""
    change = np.empty(len(slack))
    for j in range(len(slack)):
        change[j] = (constant + factor * dz[j] + per_slope * slope[j]) / slack[j]
    most[0] = max(most[0], extremes(change)[0])
    for j in range(len(slack)):
        wanted[j] -= price[j] * change[j]
    for j in range(len(slack)):
        change[j] = wanted[j] / price[j]
    most[1] = max(most[1], extremes(change)[0])


@njit(cache=True, error_model="numpy", fastmath=FAST)
def move_slack(slack, dz, slope, constant, factor, per_slope):
    """Take the step of the slacks; rounding may not make them 0."""
    for j in range(len(slack)):
        moved = slack[j] + (constant + factor * dz[j] + per_slope * slope[j])
        slack[j] = moved if moved > TINY else TINY


@njit(cache=True, error_model="numpy", fastmath=FAST)
def move_price(price, change, alpha):
    """Take the step of the prices."""
    for j in range(len(price)):
        moved = price[j] + alpha * change[j]
        price[j] = moved if moved > TINY else TINY


@njit(cache=True, error_model="numpy")
def correct(
    starts, slope, line_at, linked, lines, entry, line, side, work, phi, normal, inverse, dx, dy, du, dg, target, x
):
    """The corrector towards products equal to `target`: solves with the same factor, and takes the step, if there is one."""
    venues = linked.shape[0]
    residual, rhs = np.zeros(lines + 2), np.zeros(venues + 1)
    for k in range(venues):
        a, b = starts[k], starts[k + 1]
        move, dz, part, rho = dx[k + 1], work[DZ, a:b], slope[a:b], work[RHO, a:b]
        pull(entry[S, a:b], entry[DS, a:b], dz, part, move, -1.0, 0.0, target, work[STEP_DS, a:b])
        pull(entry[T, a:b], entry[DT, a:b], dz, part, 0.0, -1.0, 0.0, target, work[STEP_DT, a:b])
        pull(entry[Q, a:b], entry[DQ, a:b], dz, part, 0.0, 1.0, -move, target, work[STEP_DQ, a:b])
        rhs[k + 1] = combine(
            work[STEP_DS, a:b], work[STEP_DT, a:b], work[STEP_DQ, a:b], work[PHI, a:b], part, rho
        )  # fmt: skip
        scatter_residual(line_at[a:b], work[INV_H, a:b], rho, residual)
    eu, eg, none = np.empty(lines), np.empty(lines), np.zeros(lines)
    pull(line[U, :lines], line[DU, :lines], du, none, 0.0, 1.0, 0.0, target, eu)
    pull(line[G, :lines], line[DG, :lines], dg, none, 0.0, 1.0, 0.0, target, eg)
    for n in range(lines):
        residual[n] += eg[n] * line[G, n] / line[DG, n] - eu[n] * line[U, n] / line[DU, n]
    residual[lines:] = 0.0
    finish_rhs(phi, inverse, residual, rhs, lines)
    el, eh = np.empty(venues + 1), np.empty(venues + 1)
    pull(side[XL], side[DXL], dx, dx, 0.0, 1.0, 0.0, target, el)
    pull(side[XH], side[DXH], dx, dx, 0.0, -1.0, 0.0, target, eh)
    rhs += el - eh
    step = solve(normal, rhs)
    if not np.isfinite(step).all():
        return False
    price_step = line_step(phi, inverse, residual, step, lines)
    most, spare = np.zeros(2), np.empty(len(slope))
    for k in range(venues):
        a, b = starts[k], starts[k + 1]
        move, dz, part = step[k + 1], work[DZ, a:b], slope[a:b]
        fill_step(line_at[a:b], price_step, work[PHI, a:b], work[INV_H, a:b], work[RHO, a:b], move, spare[: b - a], dz)
        price_change(entry[S, a:b], entry[DS, a:b], dz, part, move, -1.0, 0.0, work[STEP_DS, a:b], most)
        price_change(entry[T, a:b], entry[DT, a:b], dz, part, 0.0, -1.0, 0.0, work[STEP_DT, a:b], most)
        price_change(entry[Q, a:b], entry[DQ, a:b], dz, part, 0.0, 1.0, -move, work[STEP_DQ, a:b], most)
    for n in range(lines):
        du[n] = (eu[n] + price_step[n]) * line[U, n] / line[DU, n]
        dg[n] = (eg[n] - price_step[n]) * line[G, n] / line[DG, n]
    price_change(line[U, :lines], line[DU, :lines], du, none, 0.0, 1.0, 0.0, eu, most)
    price_change(line[G, :lines], line[DG, :lines], dg, none, 0.0, 1.0, 0.0, eg, most)
    price_change(side[XL], side[DXL], step, step, 0.0, 1.0, 0.0, el, most)
    price_change(side[XH], side[DXH], step, step, 0.0, -1.0, 0.0, eh, most)
    alpha_p, alpha_d = min(1.0, BACK / max(most[0], 1e-300)), min(1.0, BACK / max(most[1], 1e-300))
    for k in range(venues):
        a, b = starts[k], starts[k + 1]
        move, dz, part = alpha_p * step[k + 1], work[DZ, a:b], slope[a:b]
        move_slack(entry[S, a:b], dz, part, move, -alpha_p, 0.0)
        move_slack(entry[T, a:b], dz, part, 0.0, -alpha_p, 0.0)
        move_slack(entry[Q, a:b], dz, part, 0.0, alpha_p, -move)
    for p in range(3):
        move_price(entry[DS + p], work[STEP_DS + p], alpha_d)
    move_slack(line[U, :lines], du, none, 0.0, alpha_p, 0.0)
    move_slack(line[G, :lines], dg, none, 0.0, alpha_p, 0.0)
    move_price(line[DU, :lines], eu, alpha_d)
    move_price(line[DG, :lines], eg, alpha_d)
    move_slack(side[XL], step, step, 0.0, alpha_p, 0.0)
    move_slack(side[XH], step, step, 0.0, -alpha_p, 0.0)
    move_price(side[DXL], el, alpha_d)
    move_price(side[DXH], eh, alpha_d)
    x += alpha_p * step
    return True


@njit(cache=True, error_model="numpy")
def dual_value(low, high, starts, flow, slope, line_at, linked, need, fill, short, price_l, price_m, entry, line):
    """Value of the dual at prices made exactly feasible: a bound even where the iterations have drifted."""
    venues, lines = linked.shape
    value, market = 0.0, price_m
    price = np.empty(lines + 2)
    price[lines], price[lines + 1] = 0.0, short
    for n in range(lines):
        price[n] = min(max(line[DG, n], 0.0), short)
        value += price[n] * need[n]
        market -= price[n]
    value += min(market * low[0], market * high[0])
    for k in range(venues):
        reduced = price_l[k]
        for n in range(lines):
            reduced -= linked[k, n] * price[n]
        for j in range(starts[k], starts[k + 1]):
            ds, dq = max(entry[DS, j], 0.0), max(entry[DQ, j], 0.0)
            dt = price[line_at[j]] - fill[k] - ds + dq
            if dt < 0.0:
                dq, dt = dq - dt, 0.0
            value += dq * low[k + 1] * (1.0 - slope[j]) - dt * flow[j]
            reduced += slope[j] * dq - ds
        value += min(reduced * low[k + 1], reduced * high[k + 1])
    return value


@njit(cache=True, error_model="numpy")
def refusals(starts, entry):
    """Fill refused at the point reached, summed over the scenarios, by venue."""
    refused = np.zeros(len(starts) - 1)
    for k in range(len(starts) - 1):
        for j in range(starts[k], starts[k + 1]):
            refused[k] += min(entry[S, j], entry[T, j])
    return refused
