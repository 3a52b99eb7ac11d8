"""Covariances as points of Wasserstein space: their distance, their barycenter, and the metric that one defines.

The squared 2-Wasserstein distance of two centred Gaussians with covariances A and B (Bures distance) is

    d^2(A, B) = tr A + tr B - 2 tr (A^{1/2} B A^{1/2})^{1/2},

and the barycenter of B_1, ..., B_m with weights w, argmin_B sum_i w_i d^2(B, B_i), is the fixed point of

    B <- B^{-1/2} (sum_i w_i (B^{1/2} B_i B^{1/2})^{1/2})^2 B^{-1/2}

(Alvarez-Esteban, del Barrio, Cuesta-Albertos, Matran, J. Math. Anal. Appl. 441, 2016, arXiv 1511.05355).

Every function has a `floor` eps. At 0 it computes these formulas: the root of B^{1/2} B_i B^{1/2} comes from the
singular values of B_i^{1/2} B^{1/2}, which are not squared, so that small eigenvalues keep their digits. Above 0 it
computes what the released program of GCWM (arXiv 2605.09608) does: eigenvalues under every root are raised to eps, and
eps I is added to each covariance and each iterate of a barycenter. Eigenvalues of B^{1/2} B_i B^{1/2} are products of
two, so small covariances then look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def power(matrix: Tensor, exponent: float, floor: float = 0.0) -> Tensor:
    """A symmetric matrix [q, q] to a power, its eigenvalues raised to at least `floor`.

    A negative exponent needs eigenvalues or a floor above 0.

    >>> power(torch.diag(torch.tensor([4.0, 9.0])), 0.5)
    tensor([[2., 0.],
            [0., 3.]])
    """
    result, = powers(matrix, (exponent,), floor)
    return result


def powers(matrix: Tensor, exponents: Sequence[float], floor: float = 0.0) -> list[Tensor]:
    """Several powers of a symmetric matrix [q, q], from one decomposition; see `power`."""
    values, vectors = torch.linalg.eigh(matrix)
    return [(vectors * values.clamp_min(floor) ** exponent) @ vectors.mT for exponent in exponents]


def bures_distance(a: Tensor, b: Tensor, floor: float = 0.0) -> Tensor:
    """d^2(A, B) of two covariances [q, q], a scalar; rounding below 0 becomes 0.

    >>> bures_distance(torch.eye(2), 4 * torch.eye(2))
    tensor(2.)
    """
    cross = _cross_root(power(a, 0.5, floor), _prepared(b, floor), floor)
    return (a.trace() + b.trace() - 2 * cross.trace()).clamp_min(0)


def barycenter(covariances: Sequence[Tensor], weights: Sequence[float], *, floor: float = 0.0, n_steps: int = 50,
               tolerance: float = 1e-5, damping: float = 1.0) -> Tensor:
    """argmin_B sum_i w_i d^2(B, B_i), [q, q].

    Args:
        covariances: B_1, ..., B_m, each [q, q]; positive definite where `floor` is 0.
        weights: w, not negative; they are divided by their sum.
        floor: see the module.
        n_steps: at most so many iterations.
        tolerance: stop when a step changes B by less than this share of its Frobenius norm.
        damping: share of the new iterate, in (0, 1].

    >>> barycenter([torch.eye(2), 9 * torch.eye(2)], [1.0, 1.0])
    tensor([[4., 0.],
            [0., 4.]])
    """
    ridge: Tensor = floor * torch.eye(len(covariances[0])).to(covariances[0])
    shares = [weight / sum(weights) for weight in weights]
    inputs = [_symmetric(covariance) + ridge for covariance in covariances]
    mean = sum((share * covariance for share, covariance in zip(shares, inputs, strict=True)), ridge)
    prepared = [_prepared(covariance, floor) for covariance in inputs]
    current: Tensor = mean
    for _ in range(n_steps):
        root, inverse = powers(current, (0.5, -0.5), floor)
        step = sum((share * _cross_root(root, each, floor)
                    for share, each in zip(shares, prepared, strict=True) if share > 0), torch.zeros_like(mean))
        new = _symmetric(inverse @ step @ step @ inverse) + ridge
        new = torch.lerp(current, new, damping)
        change = torch.linalg.matrix_norm(new - current) / (torch.linalg.matrix_norm(current) + floor)
        current = new
        if change < tolerance:
            break
    return current


def _prepared(covariance: Tensor, floor: float) -> Tensor:
    """What `_cross_root` takes of a covariance C: its root C^{1/2}, and C itself where there is a floor."""
    return covariance if floor > 0 else power(covariance, 0.5)


def _cross_root(root: Tensor, prepared: Tensor, floor: float) -> Tensor:
    """(R C R)^{1/2} of a root R [q, q] and a covariance C that `_prepared` has seen."""
    if floor > 0:
        return power(_symmetric(root @ prepared @ root), 0.5, floor)
    _, values, vectors = torch.linalg.svd(prepared @ root)
    result: Tensor = (vectors.mT * values) @ vectors
    return result


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric on rows of d numbers: B in a subspace, a constant lambda outside it,

        B_full = Q B Q^T + lambda (I - Q Q^T)        (GCWM, arXiv 2605.09608, equation 15).

    Attributes:
        basis: Q, orthonormal columns [d, q].
        root, inverse: B^{1/2} and B^{-1/2}, [q, q].
        outside: lambda > 0.
    """

    basis: Tensor
    root: Tensor
    inverse: Tensor
    outside: float

    @classmethod
    def of(cls, covariance: Tensor, basis: Tensor, outside: float, floor: float = 0.0) -> Metric:
        """The metric of B = `covariance` [q, q] in the columns of `basis` [d, q]."""
        root, inverse = powers(covariance, (0.5, -0.5), floor)
        return cls(basis=basis, root=root, inverse=inverse, outside=outside)

    @property
    def trace(self) -> Tensor:
        """tr B_full, a scalar."""
        d, q = self.basis.shape
        return self.root.square().sum() + self.outside * (d - q)

    def whitened(self, x: Tensor) -> Tensor:
        """X B_full^{-1/2} of X [..., d]."""
        return self._transformed(x, self.inverse, self.outside**-0.5)

    def recoloured(self, x: Tensor) -> Tensor:
        """X B_full^{1/2} of X [..., d]; undoes `whitened`."""
        return self._transformed(x, self.root, self.outside**0.5)

    def norm(self, x: Tensor) -> Tensor:
        """||X||_B = tr(X B_full X^T)^{1/2} of a matrix X [p, d], a scalar."""
        size: Tensor = torch.linalg.matrix_norm(self.recoloured(x))
        return size

    def _transformed(self, x: Tensor, inside: Tensor, outside: float) -> Tensor:
        """X Q M Q^T + c (X - X Q Q^T)."""
        coordinates: Tensor = x @ self.basis
        return coordinates @ (inside @ self.basis.mT) + outside * (x - coordinates @ self.basis.mT)
