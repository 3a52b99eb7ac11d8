"""What directions an update of a linear layer reads: leading right singular vectors, in float64.

With Delta = U diag(S) V^T of shape [d_out, d_in], the geometry Delta^T Delta = V diag(S^2) V^T is kept by its leading V
and S. They come from the eigenvectors of the smaller of Delta Delta^T and Delta^T Delta (V = Delta^T U / S in the first
case), at a cost of min(d_out, d_in)^3: several times cheaper than a singular value decomposition, and exact for what
carries energy. Wang et al., "Geometry Conflict", 2026, arXiv 2605.09608, section 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NULL = 1e-7
"""Singular values below this share of the largest are rounding: a Gram matrix has the squares of them."""


class Spectrum(NamedTuple):
    """Leading right singular vectors and values; what was cut off is 0.

    Attributes:
        values: S, falling, [..., r].
        vectors: V, orthonormal columns [..., d, r].
    """

    values: Tensor
    vectors: Tensor

    @property
    def factor(self) -> Tensor:
        """F = diag(S) V^T, [..., r, d]."""
        return self.values.unsqueeze(-1) * self.vectors.mT


def leading_spectrum(updates: Tensor, rank: int | None = None, energy: float = 1.0) -> Spectrum:
    """The leading right singular pairs of each update, in float64.

    Args:
        updates: [..., p, d]; leading dimensions are layers and experts of one shape.
        rank: keep at most so many; None keeps min(p, d).
        energy: keep the fewest whose squares make up this share of the squared Frobenius norm, at least one.

    >>> leading_spectrum(torch.diag(torch.tensor([1.0, 3.0])), rank=1).factor.abs()
    tensor([[0., 3.]], dtype=torch.float64)
    """
    updates = updates.double()
    is_wide = updates.shape[-2] < updates.shape[-1]
    gram = updates @ updates.mT if is_wide else updates.mT @ updates
    squares, vectors = torch.linalg.eigh(gram)
    n = gram.shape[-1] if rank is None else min(rank, gram.shape[-1])
    squares, vectors = squares.flip(-1)[..., :n].clamp_min(0), vectors.flip(-1)[..., :n]
    total = gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    is_wanted = squares.cumsum(-1) - squares < energy * total
    is_wanted[..., 0] = True
    is_kept = is_wanted & (squares > _NULL**2 * squares[..., :1])
    values = squares.sqrt() * is_kept
    if is_wide:
        vectors = updates.mT @ (vectors / torch.where(is_kept, values, 1.0).unsqueeze(-2))
    return Spectrum(values, vectors * is_kept.unsqueeze(-2))


def union_basis(spectra: Sequence[Spectrum], tolerance: float = 1e-8) -> Tensor:
    """Orthonormal columns Q [d, q] that span all vectors V_i of one layer.

    Directions whose singular value in [V_1 ... V_m] is below `tolerance` are left out. (A QR decomposition without
    pivoting may lose directions behind a dependent column.)
    """
    columns = torch.cat([spectrum.vectors[:, spectrum.values > 0] for spectrum in spectra], 1)
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    basis: Tensor = left[:, values > tolerance]
    return basis


def projected_covariance(factor: Tensor, basis: Tensor, ridge: float = 0.0) -> Tensor:
    """B = (F Q)^T (F Q) + ridge I, [q, q], of a factor F [p, d] and a basis Q [d, q].

    F may be the truncated factor of an update (GCWM, algorithm 1) or the update itself (equation 3).
    """
    coordinates = factor @ basis
    return coordinates.mT @ coordinates + ridge * torch.eye(basis.shape[1]).to(basis)
