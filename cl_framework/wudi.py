"""WUDI's operator: the update that interferes least with each expert along the inputs which that expert reads.

Of updates Delta_1, ..., Delta_m of one linear layer it makes the X that Adam reaches from sum_i Delta_i on

    L(X) = sum_i w_i ||(X - Delta_i) Delta_i^T||_F^2 / ||Delta_i||_F^2,

the rows of Delta_i standing for the inputs of expert i. Cheng et al., "Whoever Started the Interference Should End It:
Guiding Data-Free Model Merging via Task Vectors", ICML 2025, arXiv 2503.08099. Few small steps are part of the
operator: the minimiser, (sum_i w_i Delta_i Delta_i^T Delta_i / n_i) (sum_i w_i Delta_i^T Delta_i / n_i)^+ with
n_i = ||Delta_i||_F^2, lies far off.

With H = sum_i w_i Delta_i^T Delta_i / n_i and X = sum_i Delta_i + E the gradient is

    2 (E H + K),      K = sum_i w_i / n_i (sum_{j != i} Delta_j) Delta_i^T Delta_i,

so a step costs one product with H, whatever m, and nothing cancels: where the updates read orthogonal inputs K is 0,
and the sum stays as it is. Where m d_out is less than d_in / 2, H is applied through the stacked updates instead.

The learning rate is absolute, as published, and so the result depends on the scale of the updates; or it is a share of
their root mean square, and then L's steps scale with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-8


def wudi(updates: Tensor, weights: Sequence[float] | None = None, *, n_steps: int = 300, lr: float = 1e-5,
         is_relative: bool = False) -> Tensor:
    """The merged update of each layer, [..., p, d].

    Args:
        updates: [m, ..., p, d]; the dimensions between are layers of one shape, which are merged side by side.
        weights: w, one an update; None gives each 1.
        n_steps: steps of Adam (betas 0.9 and 0.999, eps 1e-8).
        lr: learning rate.
        is_relative: the learning rate is `lr` times the root mean square of a layer's updates, and Adam's eps 1e-8
            times that, so that wudi(c X) = c wudi(X).

    >>> wudi(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
    tensor([[1., 2.]])
    """
    total, scale = updates.sum(0), updates.square().mean((0, -2, -1)).sqrt()[..., None, None]
    interference = Interference(updates, [1.0] * len(updates) if weights is None else weights)
    if not interference.constant.any():
        return total
    rate, eps = (lr * scale, _EPS * lr * scale) if is_relative else (torch.full_like(scale, lr), scale.new_tensor(_EPS))
    eps = eps + torch.finfo(eps.dtype).tiny
    offset, mean, square = (torch.zeros_like(total) for _ in range(3))
    for step in range(1, n_steps + 1):
        gradient = interference.gradient(offset)
        mean.lerp_(gradient, 1 - _BETAS[0])
        square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        size = square.sqrt().div_(math.sqrt(1 - _BETAS[1] ** step)).add_(eps)
        offset.sub_(mean.div(size).mul_(rate / (1 - _BETAS[0] ** step)))
    return total.add_(offset)


class Interference:
    """The gradient of L, made ready once for many steps.

    Args:
        updates: [m, ..., p, d].
        weights: w.

    Attributes:
        constant: the gradient at sum_i Delta_i; 0 where no update disturbs another.
    """

    def __init__(self, updates: Tensor, weights: Sequence[float]) -> None:
        total = updates.sum(0)
        squares = updates.square().sum((-2, -1), keepdim=True)
        shares = torch.where(squares > 0, 2 * _as(updates, weights) / torch.where(squares > 0, squares, 1.0), 0.0)
        self.constant = torch.zeros_like(total)
        self._hessian = torch.zeros(())
        self._stacked = torch.zeros(())
        m, p, d = len(updates), *updates.shape[-2:]
        self._is_low_rank = 2 * m * p < d
        if self._is_low_rank:
            self._stacked = torch.cat([*(updates * shares.sqrt())], -2)
            for update, share in zip(updates, shares, strict=True):
                self.constant += ((total - update) @ update.mT) @ (share * update)
            return
        self._hessian = updates.new_zeros(*updates.shape[1:-2], d, d)
        for update, share in zip(updates, shares, strict=True):
            own = update.mT @ (share * update)
            self.constant += (total - update) @ own
            self._hessian += own

    def gradient(self, offset: Tensor) -> Tensor:
        """dL/dX at sum_i Delta_i + `offset`, [..., p, d]."""
        if self._is_low_rank:
            return ((offset @ self._stacked.mT) @ self._stacked).add_(self.constant)
        return (offset @ self._hessian).add_(self.constant)


def interference_loss(merged: Tensor, updates: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """L(X) of merged updates [..., p, d] and updates [m, ..., p, d], one number a layer [...]."""
    squares = updates.square().sum((-2, -1))
    products = ((merged - updates) @ updates.mT).square().sum((-2, -1))
    shares = _as(updates, [1.0] * len(updates) if weights is None else weights)[..., 0, 0]
    return (shares * products / torch.where(squares > 0, squares, 1.0)).sum(0)


def _as(updates: Tensor, weights: Sequence[float]) -> Tensor:
    """The weights beside updates [m, ..., p, d]."""
    return updates.new_tensor(weights).view(-1, *[1] * (updates.dim() - 1))
