"""Advantages against closed forms and float64 brute force (S2, S3 of fast-slow training; the Beta advantage)."""

import math

import pytest
import torch

from cl_framework.advantages import (
    ADVANTAGES,
    advantages,
    beta_parameters,
    beta_weighted,
    is_informative,
    unlikely,
)

HALF = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def _rewards(seed=0, n=6, size=8):
    return torch.rand(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_group_has_mean_0_and_deviation_1():
    found = advantages(_rewards(), "group", eps=0.0)
    assert torch.allclose(found.mean(1), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found.std(1, correction=0), torch.ones(6, dtype=torch.float64))


def test_prompts_are_pooled():
    """Prompt A always right and prompt B never: +1 and -1; each prompt by itself would learn nothing."""
    assert torch.allclose(advantages(HALF, "group", eps=0.0), 2 * HALF - 1)
    apart = HALF.view(2, 4)
    assert not advantages(apart, "group").any()


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.1, 0.7)])
def test_affine_maps_of_rewards_change_nothing(scale, shift):
    plain = advantages(_rewards(), "group", eps=1e-6)
    assert torch.allclose(advantages(scale * _rewards() + shift, "group", eps=1e-6), plain, atol=1e-3)


@pytest.mark.parametrize("rule", ADVANTAGES)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
def test_a_group_of_equal_rewards_has_none(rule, value):
    rewards = torch.full((3, 7), value)
    rewards[1, 0] = 0.9
    found = advantages(rewards, rule, likelihood=torch.rand(3, 7))
    assert not found[0].any() and not found[2].any() and found[1].any()
    assert is_informative(rewards).tolist() == [False, True, False]


def test_batch_divides_by_one_deviation_for_all():
    rewards = _rewards()
    expected = torch.tensor([[(r - sum(row) / len(row)) for r in row] for row in rewards.tolist()],
                            dtype=torch.float64) / rewards.flatten().std(correction=0)
    assert torch.allclose(advantages(rewards, "batch", eps=0.0), expected)


def test_unlikely_reverses_the_order_of_likelihood_among_right_ones():
    rewards, likelihood = torch.tensor([[1.0, 1.0, 0.0, 1.0]]), torch.tensor([[-1.0, -3.0, -2.0, -2.5]])
    shaped = unlikely(rewards, likelihood, 0.25)
    assert shaped[0, 2] == 0, "wrong answers stay 0"
    ranks = {0: 0, 1: 3, 3: 2}
    for place, rank in ranks.items():
        assert shaped[0, place] == pytest.approx(1 - 0.25 * (4 - rank) / 4)
    assert shaped[0, 1] > shaped[0, 3] > shaped[0, 0]


def test_unlikely_of_strength_0_is_the_group_to_the_bit():
    rewards = (_rewards() > 0.5).float()
    shaped = advantages(rewards, "unlikely", likelihood=_rewards(1), strength=0.0)
    assert torch.equal(shaped, advantages(rewards, "group"))


def test_equally_likely_answers_are_rewarded_alike():
    shaped = unlikely(torch.ones(1, 4), torch.tensor([[-1.0, -1.0, -2.0, -2.0]]), 0.5)
    assert shaped[0, 0] == shaped[0, 1] == pytest.approx(1 - 0.5 * (4 - 0.5) / 4)
    assert shaped[0, 2] == shaped[0, 3] == pytest.approx(1 - 0.5 * (4 - 2.5) / 4)


def test_unlikely_is_filtered_before_it_is_shaped():
    """Shaped first, a group of right answers would have advantages from -1.4 to 1.4."""
    likelihood = torch.arange(8.0).view(1, 8)
    assert not advantages(torch.ones(1, 8), "unlikely", likelihood=likelihood).any()
    shaped = unlikely(torch.ones(1, 8, dtype=torch.float64), likelihood, 0.25)
    spread = (shaped - shaped.mean()) / shaped.std(correction=0)
    assert spread.abs().max() == pytest.approx(3.5 / math.sqrt(63 / 12))


def test_beta_of_1_is_the_plain_baseline_and_of_three_halves_the_group_times_an_eighth_of_pi():
    rewards = (_rewards(2, 5, 8) > 0.4).double()
    centred = rewards - rewards.mean(1, keepdim=True)
    assert torch.allclose(beta_weighted(rewards, 1.0, 1.0), centred)
    grpo = centred / rewards.std(1, correction=0, keepdim=True)
    assert torch.allclose(beta_weighted(rewards, 1.5, 1.5), grpo * math.pi / 8)


def test_beta_parameters_are_those_of_the_moments():
    means = torch.tensor([0.2, 0.35, 0.5, 0.4], dtype=torch.float64)
    m, v = 0.3625, torch.tensor([0.2, 0.35, 0.5, 0.4], dtype=torch.float64).var().item()
    a, b = (m * (1 - m) / v - 1) * m, (m * (1 - m) / v - 1) * (1 - m)
    assert beta_parameters(means) == pytest.approx((1 + a / 3, 1 + b / 3))


def test_the_weights_of_beta_have_the_least_variance():
    """f ~ (f_D p (1 - p))^(1/3) minimises the integral of f_D p (1 - p) / f^2 over densities."""
    p = torch.linspace(1e-4, 1 - 1e-4, 20001, dtype=torch.float64)

    def density(alpha, beta):
        return torch.exp(torch.distributions.Beta(alpha, beta).log_prob(p))

    a, b = torch.tensor(2.0, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    best = (density(a, b) * p * (1 - p)) ** (1 / 3)
    best = best / torch.trapezoid(best, p)
    assert torch.allclose(best, density(1 + a / 3, 1 + b / 3), atol=1e-3)

    def variance(f):
        return torch.trapezoid(density(a, b) * p * (1 - p) / f**2, p)

    for alpha, beta in ((1.5, 1.5), (1.8, 2.4), (1.4, 3.0)):
        others = density(torch.tensor(alpha, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64))
        assert variance(best) < variance(others)


@pytest.mark.parametrize("rewards", [torch.zeros(1, 4), torch.ones(3, 4), torch.eye(4), torch.zeros(4, 8),
                                     torch.tensor([[0.0, 1.0]]), torch.cat([torch.zeros(2, 4), torch.ones(2, 4)]),
                                     torch.cat([torch.eye(4), torch.ones(1, 4)])])
@pytest.mark.parametrize("rule", ADVANTAGES)
def test_every_degenerate_batch_is_finite(rewards, rule):
    found = advantages(rewards, rule, likelihood=torch.zeros_like(rewards))
    assert found.isfinite().all()
    is_flat = rewards.amax(1) == rewards.amin(1)
    assert not found[is_flat].any()


def test_equal_means_fall_back_to_the_plain_baseline():
    assert beta_parameters(torch.full((4,), 0.25)) == (1.0, 1.0)
    assert beta_parameters(torch.tensor([0.5])) == (1.0, 1.0)
    assert beta_parameters(torch.zeros(4)) == (1.0, 1.0)
