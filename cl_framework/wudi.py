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
and the sum stays as it is. Delta_i enters through Delta_i^T Delta_i = F_i^T F_i alone, F_i being Delta_i itself or, of
an adapter's update, one of few rows (`short_factor`). Where all F_i have less than d_in / 2 rows, H is applied through
them.

The learning rate is absolute, as published, and so the result depends on the scale of the updates; or it is a share of
their root mean square, and then L's steps scale with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_framework.seeding import generator

_BETAS = (0.9, 0.999)
_EPS = 1e-8
_MOST_ROWS = 64
"""Of a short factor: adapters have ranks of 4 to 64."""


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
        m, d = len(updates), updates.shape[-1]
        factors = [short_factor(update, min((d - 1) // (2 * m), _MOST_ROWS)) for update in updates]
        self._is_low_rank = 2 * sum(factor.shape[-2] for factor in factors) < d
        if self._is_low_rank:
            self._stacked = torch.cat([share.sqrt() * factor for factor, share in zip(factors, shares, strict=True)],
                                      -2)
            for update, factor, share in zip(updates, factors, shares, strict=True):
                self.constant += ((total - update) @ factor.mT) @ (share * factor)
            return
        self._hessian = updates.new_zeros(*updates.shape[1:-2], d, d)
        for update, factor, share in zip(updates, factors, shares, strict=True):
            own = factor.mT @ (share * factor)
            self.constant += (total - update) @ own
            self._hessian += own

    def gradient(self, offset: Tensor) -> Tensor:
        """dL/dX at sum_i Delta_i + `offset`, [..., p, d]."""
        if self._is_low_rank:
            return ((offset @ self._stacked.mT) @ self._stacked).add_(self.constant)
        return (offset @ self._hessian).add_(self.constant)


def short_factor(update: Tensor, n_rows: int) -> Tensor:
    """F of at most n rows with F^T F = Delta^T Delta to rounding; the update itself where it has no such factor.

    With an orthonormal basis Q of Delta times n random columns, F = Q^T Delta, and
    ||Delta^T Delta - F^T F|| <= ||Delta - Q F||_F^2 (Halko, Martinsson and Tropp, SIAM Review 53(2), 2011, arXiv
    0909.4061, section 4.3). Rows are turned to the principal axes of F, and the least left out. F is taken where what
    is missed in all is at most eps ||Delta||_F^2, so that rounding of an update of low rank does not hide its rank. The
    random columns are the same at every call.

    Args:
        update: Delta, [..., p, d].
        n_rows: n.

    Returns:
        [..., r, d] with r <= n, or [..., p, d].

    >>> short_factor(torch.ones(3, 4), 1).abs()
    tensor([[1.7321, 1.7321, 1.7321, 1.7321]])
    """
    p, d = update.shape[-2:]
    if not 0 < n_rows < p:
        return update
    columns = torch.randn(d, n_rows, dtype=update.dtype, generator=generator(0, "short factor")).to(update.device)
    basis = torch.linalg.qr(update @ columns).Q
    factor: Tensor = basis.mT @ update
    missed, whole = (each.double().square().sum((-2, -1)) for each in (update - basis @ factor, update))
    squares, axes = torch.linalg.eigh(factor.double() @ factor.double().mT)
    missed = torch.cat([missed.unsqueeze(-1), squares.clamp_min(0)], -1).cumsum(-1)
    n_left_out = int((missed <= torch.finfo(update.dtype).eps * whole.unsqueeze(-1)).sum(-1).min()) - 1
    return update if n_left_out < 0 else (axes.to(factor).mT @ factor)[..., n_left_out:, :]


def interference_loss(merged: Tensor, updates: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """L(X) of merged updates [..., p, d] and updates [m, ..., p, d], one number a layer [...]."""
    squares = updates.square().sum((-2, -1))
    products = ((merged - updates) @ updates.mT).square().sum((-2, -1))
    shares = _as(updates, [1.0] * len(updates) if weights is None else weights)[..., 0, 0]
    return (shares * products / torch.where(squares > 0, squares, 1.0)).sum(0)


def _as(updates: Tensor, weights: Sequence[float]) -> Tensor:
    """The weights beside updates [m, ..., p, d]."""
    return updates.new_tensor(weights).view(-1, *[1] * (updates.dim() - 1))
