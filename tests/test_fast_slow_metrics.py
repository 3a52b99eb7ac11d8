"""Metrics of fast and slow weights, against curves that are known (S13)."""

import math
import random

import pytest

from cl_framework.fast_slow_metrics import (
    Channels,
    Saturation,
    channels,
    continual,
    efficiency,
    plasticity,
    reached_at,
    running_peak,
    saturation,
)


@pytest.mark.parametrize("known", [Saturation(0.45, 0.1, 300.0, 1.2), Saturation(0.9, 0.0, 2000.0, 2.5),
                                   Saturation(0.3, 0.2, 50.0, 0.8)])
def test_a_curve_is_recovered(known):
    costs = [10 * 1.25**k for k in range(30)]
    found = saturation([(cost, known.at(cost)) for cost in costs])
    assert found.asymptote == pytest.approx(known.asymptote, abs=2e-3)
    assert found.start == pytest.approx(known.start, abs=2e-3)
    assert found.midpoint == pytest.approx(known.midpoint, rel=2e-2)
    assert found.exponent == pytest.approx(known.exponent, rel=2e-2)


def test_a_noisy_curve_is_recovered_roughly():
    draws, known = random.Random(0), Saturation(0.5, 0.1, 400.0, 1.5)
    curve = [(cost, known.at(cost) + draws.gauss(0, 0.005)) for cost in range(50, 5000, 50)]
    assert saturation(curve).asymptote == pytest.approx(0.5, abs=0.01)


def test_a_curve_that_says_nothing_has_no_fit():
    assert saturation([(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]) is None
    assert saturation([(cost, 0.25) for cost in range(1, 20)]) is None
    assert saturation([(0, 0.1)] * 9) is None


def test_a_saturation_begins_at_its_start_and_passes_the_middle():
    curve = Saturation(0.8, 0.2, 100.0, 2.0)
    assert curve.at(0) == 0.2 and curve.at(100) == pytest.approx(0.5) and curve.at(1e9) == pytest.approx(0.8)


def test_efficiency_is_a_ratio_of_samples():
    baseline = [(100 * k, min(k, 6) / 10) for k in range(10)]
    method = [(100 * k, min(3 * k, 9) / 10) for k in range(10)]
    assert efficiency(method, baseline) == pytest.approx(3.0)
    assert efficiency(baseline, baseline) == pytest.approx(1.0)


def test_a_peak_that_is_never_reached():
    assert efficiency([(100, 0.1), (200, 0.2)], [(100, 0.5)]) == 0.0
    assert reached_at([(100, 0.1)], 0.5) == math.inf


def test_a_value_is_reached_between_two_points_also_after_a_dip():
    curve = [(0, 0.0), (10, 0.4), (20, 0.1), (30, 0.5)]
    assert reached_at(running_peak(curve), 0.45) == pytest.approx(25.0)
    assert reached_at([(5, 0.7), (10, 0.9)], 0.7) == 5.0
    assert efficiency([(0, 0.9)], [(10, 0.5)]) == math.inf


def test_channels_take_a_gain_apart():
    measured = {(False, False): 0.02, (False, True): 0.106, (True, False): 0.116, (True, True): 0.212}
    table = channels(lambda is_trained, is_evolved: measured[is_trained, is_evolved])
    assert table == Channels(base_seed=0.02, base_evolved=0.106, trained_seed=0.116, trained_evolved=0.212)
    assert table.slow == pytest.approx(0.096) and table.fast == pytest.approx(0.086)
    assert table.slow + table.fast + table.together == pytest.approx(0.212 - 0.02)


def test_normalised_accuracy_may_fall_below_its_start():
    assert continual(0.5, 0.2, peak=0.5) == pytest.approx(100.0)
    assert continual(0.1, 0.15, peak=0.5) == pytest.approx(100 * -0.05 / 0.35)
    assert math.isnan(continual(0.1, 0.1, peak=0.1))


def test_plasticity_is_what_fresh_runs_reach():
    found = plasticity({"base": [(0, 0.1), (10, 0.5), (20, 0.4)], "rl": [(0, 0.0), (20, 0.0)]})
    assert (found["base"].final, found["base"].peak) == (0.4, 0.5) and found["rl"].peak == 0.0
