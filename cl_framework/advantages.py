"""Advantages of rollouts: how much better each answer is than the others, from rewards alone.

G answers to one problem are a group, whatever prompts they were drawn under. With r_g the mean reward of a group and
sigma_g its population deviation,

    group     A_i = (r_i - r_g) / (sigma_g + eps)                 Shao et al. 2024, arXiv 2402.03300, section 4.1
    batch     A_i = (r_i - r_g) / (sigma of the batch + eps)      Khatri et al. 2025, arXiv 2510.13786, section 3
    unlikely  as group, of r_i (1 - s (G - rank_i) / G)           He et al. 2025, arXiv 2506.02355
    beta      A_i = (r_i - r_g) / Beta(r_g; 1 + a/3, 1 + b/3)     Xiao et al. 2025, arXiv 2506.02864

rank_i is 0 for the answer that was likeliest; (a, b) is the Beta distribution fitted to the batch's r_g by moments. A
group whose rewards are all equal says nothing: its advantages are exactly 0, before any reward is shaped.

Choices: likelihood is the mean log-probability of a token, so that answers of several prompts and lengths can be
ranked; equal likelihoods share their mean rank (the released code ranks them by position). Where the batch's r_g do
not vary, or are all 0 or all 1, no Beta distribution fits them, and a = b = 0, which is the plain baseline.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Advantage = Literal["group", "batch", "unlikely", "beta"]
"""The advantages by name."""
ADVANTAGES: tuple[str, ...] = get_args(Advantage)
_LARGEST = 1e6
"""The largest weight 1/f of a group, as released."""


def is_informative(rewards: Tensor) -> Tensor:
    """Which groups of rewards [B, G] hold two different ones, bool [B].

    >>> is_informative(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([ True, False])
    """
    return rewards.amax(1) > rewards.amin(1)


def advantages(rewards: Tensor, rule: Advantage, *, likelihood: Tensor | None = None, strength: float = 0.25,
               eps: float = 1e-6) -> Tensor:
    """The advantage of each answer, [B, G].

    Args:
        rewards: [B, G].
        rule: the name of an advantage.
        likelihood: the mean log-probability of a token of each answer, [B, G]; `unlikely` alone needs it.
        strength: how much of its reward the likeliest answer loses under `unlikely`.
        eps: added to a deviation.

    >>> advantages(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), "group", eps=0.0)
    tensor([[ 1.,  1., -1., -1.]])
    """
    if rule == "beta":
        alpha, beta = beta_parameters(rewards.mean(1))
        found = beta_weighted(rewards, alpha, beta)
    elif rule == "batch":
        found = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(correction=0) + eps)
    else:
        assert rule == "group" or likelihood is not None, "advantage=unlikely ranks answers by their likelihood"
        shaped = rewards if likelihood is None or rule == "group" else unlikely(rewards, likelihood, strength)
        found = (shaped - shaped.mean(1, keepdim=True)) / (shaped.std(1, correction=0, keepdim=True) + eps)
    return torch.where(is_informative(rewards).unsqueeze(1), found, torch.zeros_like(found))


def unlikely(rewards: Tensor, likelihood: Tensor, strength: float) -> Tensor:
    """Rewards [B, G] of which likely answers lose more: r (1 - s (G - rank) / G); 0 stays 0.

    >>> unlikely(torch.ones(1, 2), torch.tensor([[-1.0, -3.0]]), 0.5)
    tensor([[0.5000, 0.7500]])
    """
    own, other = likelihood.unsqueeze(2), likelihood.unsqueeze(1)
    rank = (other > own).sum(2) + ((other == own).sum(2) - 1) / 2
    size = rewards.shape[1]
    return rewards * (1 - strength * (size - rank) / size)


def beta_parameters(means: Tensor) -> tuple[float, float]:
    """alpha and beta of the weights, from the mean rewards of B groups, [B]; (1, 1) where no distribution fits.

    With (a, b) the Beta distribution of the batch's mean and unbiased variance, f ~ (Beta(a, b) p (1 - p))^(1/3) has
    the least variance of the gradient, which is a Beta density of 1 + a/3 and 1 + b/3.
    """
    mean = float(means.double().mean())
    variance = float(means.double().var()) if len(means) > 1 else 0.0
    if variance < 1e-12 or not 0 < mean < 1:
        return 1.0, 1.0
    common = mean * (1 - mean) / variance - 1
    return 1 + max(common * mean, 0.0) / 3, 1 + max(common * (1 - mean), 0.0) / 3


def beta_weighted(rewards: Tensor, alpha: float, beta: float) -> Tensor:
    """(r_i - p) / f(p) with p the mean of its group and f the Beta density of alpha and beta, [B, G].

    alpha = beta = 1 is the plain baseline; 3/2 is division by sigma_g, times pi/8.
    """
    p = rewards.mean(1, keepdim=True)
    a, b = (rewards.new_tensor(value) for value in (alpha, beta))
    log_density = (torch.xlogy(a - 1, p) + torch.xlogy(b - 1, 1 - p)
                   + torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b))
    return (rewards - p) * torch.exp(-log_density).clamp(0, _LARGEST)
