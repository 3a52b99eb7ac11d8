"""Losses of the slow half: from log-probabilities and advantages to a scalar, one weight a problem.

With y_i an answer under prompt phi_i to problem x, and rho_it its token's ratio pi_theta / pi_old under the same phi_i,

    cispo  -(1/n) sum_x [ 1 / sum_i |y_i| ] sum_i sum_t sg(min(rho_it, tau)) A_i log pi_theta(y_it)
    grpo   -(1/n) sum_x [ 1 / sum_i |y_i| ] sum_i sum_t min(rho_it A_i, clip(rho_it, 1 - low, 1 + high) A_i)
    raft   -(1/n) sum_x [ 1 / |y_b| ] sum_t log pi_theta(y_bt),     b the best answer to x

sg stops the gradient: a token beyond tau keeps its gradient and loses only weight, and there is no lower bound. Tokens
of one problem are averaged over all its answers, so long problems weigh what short ones do.

CISPO: MiniMax 2025, arXiv 2506.13585, section 3; its form with one weight a problem: Tiwari et al. 2026, arXiv
2605.12484, equation 4, and Khatri et al. 2025, arXiv 2510.13786. GRPO: Shao et al. 2024, arXiv 2402.03300. RAFT: Dong
et al. 2023, arXiv 2304.06767, with ties broken at random: the first of equal ones would depend on the order of
sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SlowLoss = Literal["cispo", "grpo", "raft"]
"""The losses by name."""


def problem_mean(values: Tensor, mask: Tensor, groups: Tensor, n: int) -> Tensor:
    """The mean over n problems of the mean over all tokens of a problem's answers, a scalar.

    Args:
        values: one a token, [N, L].
        mask: which places hold a token, bool [N, L].
        groups: the problem of each answer, int64 [N], from 0.
        n: what the sum over problems is divided by.

    >>> float(problem_mean(torch.tensor([[1.0, 3.0], [8.0, 0.0]]), torch.tensor([[True, True], [True, False]]),
    ...                    torch.tensor([0, 1]), 2))
    5.0
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    empty = values.new_zeros(n_groups)
    sums = empty.index_add(0, groups, torch.where(mask, values, torch.zeros_like(values)).sum(1))
    tokens = empty.index_add(0, groups, mask.sum(1).to(values.dtype))
    return (sums / tokens.clamp(min=1)).sum() / n


def cispo(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, groups: Tensor, n: int, *,
          truncation: float) -> Tensor:
    """CISPO's loss, a scalar.

    Args:
        log_probs: of the policy that learns, [N, L], with gradients.
        old: of the policy that answered, [N, L].
        advantages: of each answer, [N], or of each token, [N, L].
        mask, groups, n: as in `problem_mean`.
        truncation: tau, the largest ratio.
    """
    weight = (log_probs.detach() - old).exp().clamp(max=truncation)
    return -problem_mean(weight * by_token(advantages) * log_probs, mask, groups, n)


def grpo(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, groups: Tensor, n: int, *, low: float,
         high: float) -> Tensor:
    """The clipped loss, a scalar; a token whose ratio has left [1 - low, 1 + high] has no gradient.

    Arguments as in `cispo`.
    """
    ratio, each = (log_probs - old).exp(), by_token(advantages)
    return -problem_mean(torch.minimum(ratio * each, ratio.clamp(1 - low, 1 + high) * each), mask, groups, n)


def raft(log_probs: Tensor, is_best: Tensor, mask: Tensor, groups: Tensor, n: int) -> Tensor:
    """Mean negative log-likelihood of the best answer to each problem, a scalar.

    Args:
        log_probs, mask, groups, n: as in `cispo`.
        is_best: which answers are learned, bool [N]; see `best_answers`.
    """
    return -problem_mean(log_probs, mask & is_best.unsqueeze(1), groups, n)


def best_answers(rewards: Tensor, generator: torch.Generator) -> Tensor:
    """The best answer of each group of rewards [B, G], bool [B, G]; of equal ones any, of a group without success none.

    >>> best_answers(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.Generator())
    tensor([[False,  True],
            [False, False]])
    """
    is_top = (rewards == rewards.amax(1, keepdim=True)) & (rewards > 0)
    draws = torch.rand(rewards.shape, generator=generator, dtype=torch.float64).to(rewards.device)
    chosen = torch.where(is_top, draws, -torch.ones_like(draws)).argmax(1, keepdim=True)
    return torch.zeros_like(is_top).scatter(1, chosen, True) & is_top


def truncated_share(log_probs: Tensor, old: Tensor, mask: Tensor, truncation: float) -> float:
    """The share of tokens whose ratio is above `truncation`."""
    is_above = ((log_probs.detach() - old).exp() > truncation) & mask
    return float(is_above.sum() / mask.sum().clamp(min=1))


def by_token(values: Tensor) -> Tensor:
    """Values of answers [N] as a column, [N, 1]; values of tokens [N, L] as they are."""
    return values.unsqueeze(1) if values.dim() == 1 else values
