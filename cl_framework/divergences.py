"""How far a policy has moved from a reference: estimates from its own samples, and the exact divergence.

With d = log pi_ref(y) - log pi(y) of a token y that pi drew,

    reverse, KL(pi || ref):   k1 = -d          k2 = d^2 / 2     k3 = e^d - d - 1
    forward, KL(ref || pi):   k1 = e^d d       k2 = d^2 / 2     k3 = e^d d - e^d + 1

k1 and k3 have the divergence as their mean, k3 is never negative and varies less; k2 is right to second order
(Schulman, "Approximating KL Divergence", 2020). As a loss the reverse k1 has no gradient in the mean; it belongs into
the reward.

`mixed` references: strength (s KL(. , base) + (1 - s) KL(. , previous)), previous being the policy when the experience
began; with schedule `decay`, s = max(1 - 0.1 ceil(max(step - 50, 0) / 10), 0.5) (ReMix, 2025, arXiv 2507.06892).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
"""Estimates of a divergence by name."""
Direction = Literal["reverse", "forward"]
"""KL(policy || reference), or KL(reference || policy)."""
Anchor = Literal["base", "previous", "mixed"]
"""What the policy is held to: where the stream began, where the experience began, or both."""
Schedule = Literal["constant", "decay"]
"""How the share of the base changes over the steps of a stream."""


def estimate(log_probs: Tensor, reference: Tensor, estimator: Estimator, direction: Direction = "reverse") -> Tensor:
    """An estimate of the divergence at each token, of the shape of both log-probabilities.

    Args:
        log_probs: of the policy that drew the tokens.
        reference: of the reference, under the same context.

    >>> estimate(torch.tensor([-1.0]), torch.tensor([-1.0]), "k3")
    tensor([0.])
    """
    d = reference - log_probs
    if estimator == "k2":
        return d.square() / 2
    if direction == "reverse":
        return -d if estimator == "k1" else torch.expm1(d) - d
    return d.exp() * d if estimator == "k1" else d.exp() * d - torch.expm1(d)


def exact(logits: Tensor, reference: Tensor, direction: Direction = "reverse") -> Tensor:
    """The divergence over the whole vocabulary, [...], of logits [..., V]."""
    own, other = F.log_softmax(logits, -1), F.log_softmax(reference, -1)
    if direction == "forward":
        own, other = other, own
    return (own.exp() * (own - other)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, [...], of logits [..., V]."""
    log_probs = F.log_softmax(logits, -1)
    return -(log_probs.exp() * log_probs).sum(-1)


def base_share(anchor: Anchor, share: float, schedule: Schedule, step: int) -> float:
    """The weight of the base among both references; 1 - it is that of the previous policy.

    Args:
        share: of the base under a constant `mixed`.
        step: optimizer steps since the stream began.

    >>> [base_share("mixed", 0.5, "decay", step) for step in (50, 61)], base_share("base", 0.5, "decay", 61)
    ([1.0, 0.8], 1.0)
    """
    if anchor != "mixed":
        return 1.0 if anchor == "base" else 0.0
    if schedule == "constant":
        return share
    return max((10 - math.ceil(max(step - 50, 0) / 10)) / 10, 0.5)
