"""How an update turns and stretches a weight, and what other updates leave of it: pure functions, in float64.

With W_0 the weight before, W_+ after, Delta = W_+ - W_0, and the singular value decomposition W = U diag(sigma) V^T:

    subspace rotation           cos theta_i = sigma_i(U_{0,k}^T U_{+,k}), the same for V
    normalised spectral shift   ||sigma(W_+) - sigma(W_0)|| / ||sigma(W_0)||
    rank                        singular values of Delta above rounding, a share of min(p, d)

(Zhu et al., "The Path Not Taken: RLVR Provably Learns Off the Principals", 2025, arXiv 2511.08567; the rank: Mukherjee
et al., "Reinforcement Learning Finetunes Small Subnetworks in Large Language Models", NeurIPS 2025, arXiv 2505.11711).
With the updates Delta_1, ..., Delta_t of several experiences and the state S = theta - theta_0 that they left:

    lambda               ||sum_i Delta_i|| / mean_i ||Delta_i||, sqrt(t) for orthogonal updates of one norm
    retained fraction    ||P(Delta_t; S)|| / ||Delta_t||, P being the projection of OPCM
    held                 <S, Delta_i> / ||Delta_i||^2, what the state still holds of update i

(Tang et al., "Merging Models on the Fly Without Retraining", NeurIPS 2025, arXiv 2501.09522, section 4). Conflict,
alignment and cosines of updates are in `geometry.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from cl_framework.projection import basis_of, cut_of, projected
from cl_framework.spectra import leading_spectrum

_DEGENERATE = 1e-6
"""A gap below this share of sigma_1 does not tell the directions on both sides of it apart."""


class Singular(NamedTuple):
    """Singular values and vectors of a weight [p, d], with r = min(p, d); below 1e-7 of the largest they are 0.

    Attributes:
        left: U, [p, r].
        values: sigma, falling, [r].
        right: V, [d, r].
    """

    left: Tensor
    values: Tensor
    right: Tensor


def singular(weight: Tensor) -> Singular:
    """The thin singular value decomposition, from the eigenvectors of the smaller Gram matrix.

    >>> singular(torch.diag(torch.tensor([1.0, 3.0]))).values
    tensor([3., 1.], dtype=torch.float64)
    """
    values, right = leading_spectrum(weight)
    left = weight.double() @ right / torch.where(values > 0, values, 1.0)
    return Singular(left, values, right)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """The angles between the spans of two sets of k orthonormal columns [n, k], in radians, rising, [k].

    Small angles come from their sines, as a cosine near 1 has lost their digits (Knyazev and Argentati, SIAM J. Sci.
    Comput. 23(6), 2002).

    >>> principal_angles(torch.eye(3)[:, :1], torch.eye(3)[:, 1:2]) / math.pi
    tensor([0.5000], dtype=torch.float64)
    """
    a, b = a.double(), b.double()
    inside = a.mT @ b
    cosines = torch.linalg.svdvals(inside).clamp(0, 1)
    sines = torch.linalg.svdvals(b - a @ inside).flip(0).clamp(0, 1)
    angles: Tensor = torch.where(cosines.square() < 0.5, cosines.arccos(), sines.arcsin())
    return angles


class Rotation(NamedTuple):
    """How far the k leading directions turned, in radians.

    Attributes:
        left_max, left_mean: angles of the outputs, U.
        right_max, right_mean: angles of the inputs, V.
        gap: (sigma_k - sigma_{k+1}) / sigma_1 of the weight before; 0 for a weight of zeros.
    """

    left_max: float
    left_mean: float
    right_max: float
    right_mean: float
    gap: float

    @property
    def is_degenerate(self) -> bool:
        """The cut after direction k is arbitrary, and so are the angles."""
        return self.gap < _DEGENERATE


def n_leading(weight: Tensor) -> int:
    """How many directions count as leading: a tenth of min(p, d), at least 8 where there are so many.

    The paper does not say its k; this is our choice.

    >>> n_leading(torch.zeros(50, 200)), n_leading(torch.zeros(400, 300)), n_leading(torch.zeros(5, 9))
    (8, 30, 5)
    """
    smaller = min(weight.shape)
    return min(max(8, math.ceil(0.1 * smaller)), smaller)


def rotation(before: Singular, after: Singular, k: int) -> Rotation:
    """The rotation of the k leading directions between two weights [p, d], 1 <= k <= min(p, d)."""
    left, right = (principal_angles(a[:, :k], b[:, :k])
                   for a, b in ((before.left, after.left), (before.right, after.right)))
    values = before.values
    below = values[k] if k < len(values) else torch.zeros(()).to(values)
    gap = float((values[k - 1] - below) / values[0]) if float(values[0]) > 0 else 0.0
    return Rotation(float(left.max()), float(left.mean()), float(right.max()), float(right.mean()), gap)


def spectral_shift(before: Tensor, after: Tensor) -> float:
    """||sigma(W_+) - sigma(W_0)|| / ||sigma(W_0)|| of falling singular values [r]; NaN for a weight of zeros.

    At most ||Delta||_F / ||W_0||_F (Mirsky, Quarterly J. Math. 11, 1960).

    >>> spectral_shift(torch.tensor([4.0, 3.0]), torch.tensor([8.0, 6.0]))
    1.0
    """
    size = float(torch.linalg.vector_norm(before.double()))
    return float(torch.linalg.vector_norm(after.double() - before.double())) / size if size > 0 else math.nan


def update_rank(values: Tensor, noise: float = 0.0) -> float:
    """The numerical rank over min(p, d), in [0, 1], of an update with singular values [r].

    Args:
        values: of the update; those that are 0 were rounding already, see `singular`.
        noise: the largest singular value that rounding of the weights can have. Weights of type float32 are rounded
            by a share of eps / 2 each, in all at most eps ||W_+||_F.

    >>> update_rank(torch.tensor([5.0, 1e-3, 0.0, 0.0]), noise=1e-2)
    0.25
    """
    return float((values > noise).double().mean())


def sum_ratio(sum_norm: float, norms: Iterable[float]) -> float:
    """lambda = ||sum_i Delta_i|| / mean_i ||Delta_i||; NaN where every update is zero.

    It is the factor that OPCM divides by, before any projection: sqrt(t) for t orthogonal updates of one norm, t for
    equal ones, 0 for those that cancel.

    >>> sum_ratio(5.0, [3.0, 4.0])
    1.4285714285714286
    """
    found = list(norms)
    mean = math.fsum(found) / len(found)
    return sum_norm / mean if mean > 0 else math.nan


def retained_fraction(update: Tensor, state: Tensor, alpha: float = 0.5) -> float:
    """||P(Delta; S)|| / ||Delta||, in [0, 1]: what OPCM's projection leaves of an update [p, d]; NaN for zeros.

    1 where the state is zero or reads and writes other directions, 0 for a multiple of the state.

    Args:
        update: Delta.
        state: S, of type float32 or float64, which the projection is computed in.
        alpha: see `projection.cut_of`.
    """
    size = float(torch.linalg.matrix_norm(update.double()))
    if size == 0:
        return math.nan
    basis = basis_of(state, state.dtype)
    left = projected(update.to(state), basis, cut_of(basis.sigma, alpha))
    return float(torch.linalg.matrix_norm(left.double())) / size


def held_fraction(state: Tensor, update: Tensor) -> float:
    """<S, Delta> / ||Delta||^2: 1 where the state holds the update whole, 0 where nothing of it is left.

    NaN for an update of zeros. Below 0 the state goes the other way, above 1 it went further.

    >>> held_fraction(torch.tensor([[2.0, 7.0]]), torch.tensor([[4.0, 0.0]]))
    0.5
    """
    state, update = state.double(), update.double()
    size = float(update.square().sum())
    return float((state * update).sum()) / size if size > 0 else math.nan
