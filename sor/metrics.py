"""What a result is measured by. Positive shortfall is a cost; positive savings are in favour of the strategy."""

from __future__ import annotations

BPS = 1e4


def shortfall_bps(total_cash: float, size: int, arrival_mid_px: float) -> float:
    """Implementation shortfall: 1e4 (total_cash - size arrival_mid) / (size arrival_mid). Positive: dearer than the mid at arrival."""
    notional = size * arrival_mid_px
    return BPS * (total_cash - notional) / notional


def shortfall_cents_per_share(total_cash: float, size: int, arrival_mid_px: float) -> float:
    """Implementation shortfall: 100 (total_cash / size - arrival_mid), cents per share."""
    return 100 * (total_cash / size - arrival_mid_px)


def savings_bps(total_cash: float, baseline_cash: float, size: int, arrival_mid_px: float) -> float:
    """Saved against a baseline of equal size: 1e4 (baseline_cash - total_cash) / (size arrival_mid). Positive: cheaper."""
    return BPS * (baseline_cash - total_cash) / (size * arrival_mid_px)
