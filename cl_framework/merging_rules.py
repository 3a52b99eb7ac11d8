"""Pure functions that merge the updates of one layer: means, sums, trimmed votes, random drops, largest magnitudes.

An update is an expert's weight minus the base's. All functions take tensors of one shape and change none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cl_framework.merging import Update
from cl_framework.order_statistics import order_statistic
from cl_framework.seeding import generator


def running_mean(updates: Sequence[Tensor], n: int) -> Tensor:
    """M + (Delta - M) / (n + 1): the mean of n + 1 updates from the mean of n and one more (Wortsman et al., ICML 2022,
    arXiv 2203.05482, the uniform soup).

    Args:
        updates: the mean of n updates and the new one; the new one alone where n is 0.
        n: how many the mean stands for.

    >>> running_mean([torch.tensor([2.0]), torch.tensor([5.0])], 2)
    tensor([3.])
    """
    first = updates[0]
    return first + (updates[1] - first) / (n + 1) if n else first.clone()


def running_sum(updates: Sequence[Tensor]) -> Tensor:
    """sum_i Delta_i: task arithmetic without its coefficient (Ilharco et al., ICLR 2023, arXiv 2212.04089, section 2).

    >>> running_sum([torch.tensor([2.0]), torch.tensor([5.0])])
    tensor([7.])
    """
    total = updates[0].clone()
    for update in updates[1:]:
        total += update
    return total


def largest(updates: Sequence[Tensor]) -> Tensor:
    """Delta_k with k = argmax_i |Delta_i|, entry by entry; the older one where magnitudes are equal (MagMax: Marczak
    et al., ECCV 2024, arXiv 2407.06322, section 4). Folding updates in one after the other gives the same.

    >>> largest([torch.tensor([1.0, -3.0]), torch.tensor([-2.0, 2.0])])
    tensor([-2., -3.])
    """
    chosen = updates[0].clone()
    for update in updates[1:]:
        chosen = torch.where(update.abs() > chosen.abs(), update, chosen)
    return chosen


def dropped(update: Tensor, rate: float, draw: torch.Generator, is_rescaled: bool = True) -> Tensor:
    """m / (1 - p) * Delta, m_j = 0 with probability p: drop and rescale (DARE: Yu et al., ICML 2024, arXiv 2311.03099,
    section 3). Its expectation is Delta. The draw is the same on any device.

    Args:
        update: any shape.
        rate: p, below 1.
        draw: generator on the CPU.
        is_rescaled: divide by 1 - p.
    """
    mask = torch.rand(update.shape, generator=draw).ge(rate).to(update.device)
    kept = update * mask
    return kept / (1 - rate) if is_rescaled else kept


def mask_generator(seed: int, expert: int, name: str) -> torch.Generator:
    """The generator of the entries that are dropped from one layer of one expert."""
    return generator(seed, "dare", expert, name)


def trimmed(update: Tensor, threshold: float) -> Tensor:
    """Entries whose magnitude, in float32, lies below the threshold become 0.

    >>> trimmed(torch.tensor([0.1, -3.0]), 1.0)
    tensor([ 0., -3.])
    """
    return update.where(update.float().abs() >= threshold, 0.0)


def disjoint(updates: Sequence[Tensor], reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """TIES without its trimming: elect a sign for each entry, then reduce the entries that have it.

    gamma = sgn(sum_i Delta_i),   M = mean of {Delta_i : sgn(Delta_i) = gamma}, 0 where gamma is 0 (Yadav et al.,
    NeurIPS 2023, arXiv 2306.01708, algorithm 1).

    >>> disjoint([torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 3.0])])
    tensor([3., 2.])
    """
    elected = running_sum(updates).sign()
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for update in updates:
        agrees = (update.sign() == elected) & (elected != 0)
        total += update.where(agrees, 0.0)
        count += agrees
    return total / count.clamp(min=1) if reduction == "mean" else total


def threshold_of(update: Update, density: float) -> float:
    """The magnitude above or at which the largest entries of a whole update lie: floor(density * n) of its n entries,
    exactly, and more only where several equal the last.

    It holds one layer at a time.

    Args:
        update: by name; entries are compared in float32.
        density: the share that stays, 0 to 1.

    Returns:
        The threshold; infinity where none stays.

    >>> threshold_of({"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([3.0, 2.0])}, 0.5)
    3.0
    """
    n = sum(value.numel() for value in update.values())
    wanted = int(density * n)
    if wanted == 0:
        return float("inf")
    return order_statistic(lambda: (value.float().abs() for value in update.values()), n - wanted)
