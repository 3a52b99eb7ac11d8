"""What the groups of a slow step look like: reward, what can be learned from it, and how varied right answers are.

    pass@k = mean over groups of 1 - C(G - c, k) / C(G, k),   c of a group's G answers right

An answer is right where its reward is 1. Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv
2107.03374, equation 1. A policy that has narrowed to one answer has pass@k = pass@1 and few different right answers,
and little left to learn a new reward from: both are read as signs of plasticity (He et al. 2025, arXiv 2506.02355).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

from torch import Tensor

from cl_framework.advantages import is_informative

TRIES = (1, 4, 16)
"""The k of pass@k, as far as a group has as many answers."""


def pass_at(rewards: Tensor, k: int) -> float:
    """The chance that one of k answers drawn from a group is right, mean over groups.

    Args:
        rewards: [B, G], G at least k.
        k: how many are drawn, without putting back.

    >>> import torch
    >>> pass_at(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 2)
    0.5
    """
    size = rewards.shape[1]
    n_right = (rewards == 1).sum(1).tolist()
    return sum(1 - comb(size - n, k) / comb(size, k) for n in n_right) / len(n_right)


def distinct_right(rewards: Tensor, answers: Sequence[str]) -> float:
    """How many different right answers a group has, mean over groups.

    Args:
        rewards: [B, G].
        answers: B x G texts, those of a group side by side; blanks around one do not count.

    >>> import torch
    >>> distinct_right(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), ["a", "b", "a ", "c"])
    1.5
    """
    size = rewards.shape[1]
    rows = enumerate((rewards == 1).tolist())
    return sum(len({answers[group * size + at].strip() for at, is_right in enumerate(row) if is_right})
               for group, row in rows) / len(rewards)


def group_figures(rewards: Tensor, answers: Sequence[str]) -> Mapping[str, float]:
    """The figures of one step by name.

    Args:
        rewards: [B, G].
        answers: B x G texts, those of a group side by side.
    """
    return {"reward": float(rewards.mean()), "zero_variance": float((~is_informative(rewards)).float().mean()),
            "distinct_right": distinct_right(rewards, answers),
            **{f"pass_at_{k}": pass_at(rewards, k) for k in TRIES if k <= rewards.shape[1]}}
