"""Which entries of a weight an update changed, and where these lie: pure functions of masks.

An entry w that became v counts as unchanged where |v - w| <= eta max(|w|, |v|). Two different numbers of type bfloat16
are further apart than eta = 1e-3 (< 2^-9), so that after a cast to bfloat16 this is equality of what would be stored
(Zhu et al., "The Path Not Taken: RLVR Provably Learns Off the Principals", 2025, arXiv 2511.08567). With I the changed
set of n entries, sparsity = 1 - |I| / n, and for the sets of two updates

    o_1 = |I_1 & I_2| / |I_1|,    o_2 = |I_1 & I_2| / |I_2|,    Jaccard = |I_1 & I_2| / |I_1 | I_2|

(Mukherjee et al., NeurIPS 2025, arXiv 2505.11711). Independent sets of densities p and q have o_1 = q, o_2 = p and
Jaccard pq / (p + q - pq). Masks are bool tensors of the weight's shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cl_framework.update_geometry import Singular

BFLOAT16_TOLERANCE = 1e-3
"""eta at which the rule is equality of bfloat16 numbers."""


def changed(before: Tensor, after: Tensor, tolerance: float) -> Tensor:
    """Entries with |v - w| > eta max(|w|, |v|), bool.

    >>> changed(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.02, 0.0]), 1e-2)
    tensor([False,  True, False])
    """
    return (after - before).abs() > tolerance * torch.maximum(before.abs(), after.abs())


def changed_in_bfloat16(before: Tensor, after: Tensor) -> Tensor:
    """Entries that would differ if the weights were stored as bfloat16, bool."""
    before, after = (weight.to(torch.bfloat16).float() for weight in (before, after))
    return changed(before, after, BFLOAT16_TOLERANCE)


def sparsity(mask: Tensor) -> float:
    """1 - |I| / n of a changed set.

    >>> sparsity(torch.tensor([True, False, False, False]))
    0.75
    """
    return 1 - density(mask)


def density(mask: Tensor) -> float:
    """|I| / n."""
    return int(mask.count_nonzero()) / mask.numel()


class Overlap(NamedTuple):
    """What two changed sets share, beside what independent sets of the same densities share; NaN of an empty set."""

    first: float
    second: float
    jaccard: float
    independent_first: float
    independent_second: float
    independent_jaccard: float


def overlap(first: Tensor, second: Tensor) -> Overlap:
    """o_1, o_2 and Jaccard of two masks.

    >>> overlap(torch.tensor([True, True, False, False]), torch.tensor([False, True, False, False]))[:3]
    (0.5, 1.0, 0.5)
    """
    both, either = (int(mask.count_nonzero()) for mask in (first & second, first | second))
    p, q = density(first), density(second)
    return Overlap(_share(both, int(first.count_nonzero())), _share(both, int(second.count_nonzero())),
                   _share(both, either), q, p, _share(p * q, p + q - p * q))


def principal_mask(weight: Singular, k: int, share: float) -> Tensor:
    """The floor(share n) largest entries of |W^(k)|, the reconstruction of rank k, bool [p, d]."""
    reconstruction = (weight.left[:, :k] * weight.values[:k]) @ weight.right[:, :k].mT
    return _extreme(reconstruction.abs(), share, largest=True)


def low_magnitude_mask(weight: Tensor, share: float) -> Tensor:
    """The floor(share n) smallest entries of |W|, bool.

    >>> low_magnitude_mask(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5)
    tensor([False,  True,  True, False])
    """
    return _extreme(weight.abs(), share, largest=False)


def coverage(mask: Tensor, changes: Tensor) -> float:
    """|M & I| / |I|: how much of a changed set I lies in a mask M; independent of it, the density of M. NaN for none.

    >>> coverage(torch.tensor([True, False]), torch.tensor([True, True]))
    0.5
    """
    return _share(int((mask & changes).count_nonzero()), int(changes.count_nonzero()))


def consensus(masks: Sequence[Tensor]) -> Tensor:
    """C, the share of several runs' changed sets that each entry is in, float64 (Zhu et al., arXiv 2511.08567).

    >>> consensus([torch.tensor([True, True]), torch.tensor([False, True])])
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return torch.stack([*masks]).double().mean(0)


def _extreme(sizes: Tensor, share: float, *, largest: bool) -> Tensor:
    n = math.floor(share * sizes.numel())
    chosen = sizes.flatten().topk(n, largest=largest, sorted=False).indices
    mask = torch.zeros(sizes.numel(), dtype=torch.bool, device=sizes.device)
    mask[chosen] = True
    return mask.view(sizes.shape)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
