"""simulate_flows: shape, seed, mean and correlation."""

import numpy as np
import pytest

from sor.placement import simulate_flows


def test_the_papers_flow_has_its_mean_spread_and_correlation() -> None:
    flows = simulate_flows(3, 50_000, 2_200, 0.6, seed=1)
    assert flows.shape == (3, 50_000)
    assert flows.mean() == pytest.approx(2_200, abs=1)
    assert flows.std(axis=1) == pytest.approx(np.sqrt((0.36 + 0.16) * 2_200), rel=0.02)  # 33.8, not Poisson's 46.9
    assert np.corrcoef(flows)[0, 1] == pytest.approx(0.36 / 0.52, abs=0.01)


def test_a_seed_is_a_sample() -> None:
    assert (simulate_flows(2, 10, seed=4) == simulate_flows(2, 10, seed=4)).all()
    assert (simulate_flows(2, 10, seed=4) != simulate_flows(2, 10, seed=5)).any()
