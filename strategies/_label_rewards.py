"""CISPO on labels: a label drawn from the softmax is an answer of one token, rewarded where it is right.

For each row x, G / K labels are drawn under each of K contexts. All G are one group, whatever their contexts were:

    r_i = 1[y_i = y],   A_i = (r_i - mean r) / (deviation of r + eps),
    L = -(1/n) sum_x 1/G sum_i sg(min(rho_i, tau)) A_i log p(y_i | x, c_i)

over the n rows whose rewards differ. Loss and advantages are those that strategy=fst has, on answers of a single
token: Tiwari et al. 2026, arXiv 2605.12484, equation 4. eps is 1e-6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_framework.advantages import advantages, is_informative
from cl_framework.policy_losses import cispo


def drawn(log_probs: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """size / K labels of each row under each context, those of a row side by side, int64 [B, size].

    Args:
        log_probs: [K, B, C].
    """
    k, n_rows, n_classes = log_probs.shape
    probabilities = log_probs.detach().exp().cpu().view(-1, n_classes)
    labels = torch.multinomial(probabilities, size // k, replacement=True, generator=generator)
    return labels.view(k, n_rows, -1).transpose(0, 1).reshape(n_rows, size).to(log_probs.device)


def reinforced(log_probs: Tensor, y: Tensor, size: int, truncation: float, generator: torch.Generator) -> Tensor | None:
    """The loss of one step, a scalar; None where no row has two different rewards.

    Args:
        log_probs: of all classes seen under each context, [K, B, C], with gradients; K divides `size`.
        y: labels, [B].
        size: G.
        truncation: tau.
    """
    labels = drawn(log_probs, size, generator)
    rewards = (labels == y.unsqueeze(1)).to(log_probs.dtype)
    is_kept = is_informative(rewards)
    n = int(is_kept.sum())
    if n == 0:
        return None
    by_context = labels.unflatten(1, (len(log_probs), -1)).transpose(0, 1)
    own = log_probs.gather(2, by_context).transpose(0, 1).flatten(1)[is_kept].view(-1, 1)
    groups = torch.arange(n, device=y.device).repeat_interleave(size)
    return cispo(own, own.detach(), advantages(rewards, "group")[is_kept].flatten(),
                 torch.ones_like(own, dtype=torch.bool), groups, n, truncation=truncation)
