"""Projection of an update away from another one: what OPCM does to the weight of a linear layer.

With the singular value decomposition D = U Sigma V^T of the merged update, an update T has the coefficients
C_ij = u_i^T T v_j. Some are set to 0, and T becomes U (M * C) V^T. Two readings:

    code   zero: C_ii for all i, and the leading block i, j < r,
           r = the number of leading singular values whose running sum is at most alpha sum_i sigma_i,
    paper  zero: C_ii for all i, and every C_ij with i < r or j < r,
           r_alpha = min{r : sum_{i<=r} sigma_i >= alpha sum_i sigma_i}; r is r_alpha - 1 where direction r_alpha stays.

Both need the k <= min(m, n) leading singular vectors alone, never the full basis of the larger side:

    code   P(T) = T - U_r (U_r^T T V_r) V_r^T - sum_{i >= r} C_ii u_i v_i^T,
    paper  P(T) = (I - U_r U_r^T) T (I - V_r V_r^T) - sum_{i >= r} C_ii u_i v_i^T.

P is an orthogonal projector in the Frobenius inner product, and <P(T), D> = 0. Tang et al., "Merging Models on the Fly
Without Retraining: A Sequential Approach to Scalable Continual Model Merging", NeurIPS 2025, arXiv 2501.09522,
section 4; "code" is what its release computes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reading = Literal["code", "paper"]
Scope = Literal["all", "numeric_rank"]

_BLOCK = 128
"""Rows of a Gram matrix that are multiplied at once."""


class Basis(NamedTuple):
    """The leading singular vectors of a merged update.

    Attributes:
        u: [m, k].
        sigma: [k], falling.
        v: [n, k].
    """

    u: Tensor
    sigma: Tensor
    v: Tensor


def basis_of(merged: Tensor, dtype: torch.dtype = torch.float32, scope: Scope = "numeric_rank") -> Basis:
    """The thin singular value decomposition of a matrix.

    Vectors of a singular value up to max(m, n) eps sigma_1 are arbitrary, and left out unless `scope` is "all". Without
    them, float32 allows a short way: the eigenvectors of D D^T in float64, sigma_i = sqrt(eigenvalue), v_i = D^T u_i /
    sigma_i. Squaring loses what lies below 1e-8 sigma_1, which is less than what is left out.

    Args:
        merged: D, [m, n].
        dtype: of the decomposition, float32 or float64.
        scope: directions that are kept. A zero matrix has none in either scope.
    """
    matrix = merged.to(dtype)
    least = max(matrix.shape) * torch.finfo(dtype).eps
    if scope == "numeric_rank" and dtype == torch.float32:
        return _from_gram(matrix, least)
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False, driver="gesvd" if matrix.is_cuda else None)
    k = int((sigma > least * sigma[:1]).sum())
    if scope == "all" and k:
        k = len(sigma)
    return Basis(u[:, :k], sigma[:k], vh[:k].mT)


def _from_gram(matrix: Tensor, least: float) -> Basis:
    if len(matrix) > matrix.shape[1]:
        v, sigma, u = _from_gram(matrix.mT, least)
        return Basis(u, sigma, v)
    wide = matrix.double()
    gram = wide.new_zeros(len(wide), len(wide))
    for start in range(0, len(wide), _BLOCK):  # eigh reads the lower triangle alone
        end = start + _BLOCK
        torch.mm(wide[start:end], wide[:end].mT, out=gram[start:end, :end])
    squares, u = torch.linalg.eigh(gram)
    sigma = squares.clamp(min=0).sqrt().flip(0)
    k = int((sigma > least * sigma[:1]).sum())
    sigma, u = sigma[:k], u.flip(1)[:, :k]
    return Basis(u.to(matrix), sigma.to(matrix), ((u / sigma).to(matrix).mT @ matrix).mT)


def cut_of(sigma: Tensor, alpha: float, reading: Reading = "code", keeps_r_alpha: bool = True) -> int:
    """How many leading directions r are cut.

    With `alpha` 1 it is all of them: the release's comparison is decided by rounding there.

    Args:
        sigma: singular values, falling, [k].
        alpha: share of their sum, 0 to 1.
        reading: "code" or "paper".
        keeps_r_alpha: of "paper": the direction that reaches the share stays.

    >>> sigma = torch.tensor([4.0, 3.0, 2.0, 1.0])
    >>> cut_of(sigma, 0.5), cut_of(sigma, 0.5, "paper"), cut_of(sigma, 0.5, "paper", keeps_r_alpha=False)
    (1, 1, 2)
    """
    if alpha >= 1 or not len(sigma):
        return len(sigma)
    share = sigma.double().cumsum(0) / sigma.double().sum()
    if reading == "code":
        return int((share <= alpha).sum())
    reaches = min(int((share < alpha).sum()) + 1, len(sigma)) if alpha > 0 else 0
    return max(reaches - 1, 0) if keeps_r_alpha else reaches


def projected(update: Tensor, basis: Basis, r: int, reading: Reading = "code") -> Tensor:
    """P(T), in the thin form.

    A basis without directions, as of a zero matrix, cuts nothing: P(T) = T.

    Args:
        update: T, [m, n].
        basis: of the merged update.
        r: leading directions to cut, 0 to k.
        reading: which coefficients they stand for.

    Returns:
        P(T), [m, n], in the type of the update.
    """
    u, _, v = basis
    matrix = update.to(u)
    if reading == "paper" and u.shape[1] == min(u.shape[0], v.shape[0]):
        rest = _bottom_right(matrix, u, v, r) if len(u) <= len(v) else _bottom_right(matrix.mT, v, u, r).mT
        return rest.to(update)
    left = u.mT @ matrix
    taken = torch.empty_like(left)
    taken[r:] = (left[r:] * v[:, r:].mT).sum(1, keepdim=True) * v[:, r:].mT
    if reading == "code":
        taken[:r] = left[:r] @ v[:, :r] @ v[:, :r].mT
        return torch.addmm(matrix, u, taken, alpha=-1).to(update)
    taken[:r] = left[:r]
    across = torch.addmm(matrix @ v[:, :r], u[:, :r], left[:r] @ v[:, :r], alpha=-1)
    rest = torch.addmm(matrix, u, taken, alpha=-1).addmm_(across, v[:, :r].mT, alpha=-1)
    return rest.to(update)


def _bottom_right(matrix: Tensor, u: Tensor, v: Tensor, r: int) -> Tensor:
    """The paper's form where U is square, so that T = U U^T T and the rows that are cut need not be computed:
    U_{>r} (U_{>r}^T T (I - V_r V_r^T) - the diagonal)."""
    left = u[:, r:].mT @ matrix
    diagonal = (left * v[:, r:].mT).sum(1, keepdim=True) * v[:, r:].mT
    return u[:, r:] @ left.sub_(diagonal).addmm_(left @ v[:, :r], v[:, :r].mT, alpha=-1)
