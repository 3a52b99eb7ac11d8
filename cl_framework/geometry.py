"""The geometry of updates: which directions an update of a linear layer reads, and how far two of them disagree.

An update Delta = theta_t - theta_0 of a layer y = W x, [d_out, d_in], has the input geometry C = Delta^T Delta. The
conflict of two updates is the normalised squared Bures distance of their geometries,

    gamma_ij = d^2(C_i, C_j) / (tr C_i + tr C_j)
             = (||F_i||^2 + ||F_j||^2 - 2 ||F_i F_j^T||_*) / (||F_i||^2 + ||F_j||^2),      C = F^T F for a factor F,

||.||_* being the nuclear norm (Wang et al., "Geometry Conflict: Explaining and Controlling Forgetting in LLM Continual
Post-Training", 2026, arXiv 2605.09608, equation 4). It lies in [0, 1]: 0 for equal geometries, 1 for orthogonal ones.
The second line needs no common basis and no matrix root; its numerator is the smallest ||F_i - R F_j||^2 over all
orthogonal R (Procrustes). So the conflict does not see the output side: Delta and -Delta have none.

F is Delta itself, or the truncated factor diag(S) V^T of `spectra.leading_spectrum`. In this form a basis that holds
all V changes nothing, whether it is that of a pair or of all updates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from cl_framework.spectra import leading_spectrum


def conflict(a: Tensor, b: Tensor) -> Tensor:
    """gamma of two factors [..., p, d] and [..., q, d], in [0, 1]; 0 where both are 0.

    >>> conflict(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(0.4000)
    """
    a, b = _short(a), _short(b)
    total = a.square().sum((-2, -1)) + b.square().sum((-2, -1))
    distance = (total - 2 * torch.linalg.svdvals(a @ b.mT).sum(-1)).clamp_min(0)
    return torch.where(total > 0, distance / torch.where(total > 0, total, 1.0), 0.0)


def _short(factor: Tensor) -> Tensor:
    """A factor of the same geometry with at most d rows."""
    if factor.shape[-2] <= factor.shape[-1]:
        return factor
    triangle: Tensor = torch.linalg.qr(factor, mode="r").R
    return triangle


def conflicts(factors: Sequence[Tensor]) -> Tensor:
    """gamma_ij of n factors of one layer, [n, n], symmetric with zeros on the diagonal."""
    table = torch.zeros(len(factors), len(factors), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(factors)), 2):
        table[i, j] = table[j, i] = conflict(factors[i], factors[j]).cpu()
    return table


def layer_conflict(table: Tensor, weights: Sequence[float]) -> float:
    """g = sum_{i<j} w_i w_j gamma_ij / sum_{i<j} w_i w_j of a table [n, n] (equation 5); 0 for a single update.

    >>> layer_conflict(torch.tensor([[0.0, 0.5], [0.5, 0.0]]), [1.0, 1.0])
    0.5
    """
    pairs = list(itertools.combinations(range(len(weights)), 2))
    total = sum(weights[i] * weights[j] for i, j in pairs)
    return sum(weights[i] * weights[j] * float(table[i, j]) for i, j in pairs) / total if total > 0 else 0.0


def alignment(a: Tensor, b: Tensor, a_vectors: Tensor, b_vectors: Tensor) -> Tensor:
    """Subspace alignment ratio of two updates: how much of each lies in the leading inputs of the other, in [0, 1].

    (||A V_b||_F / ||A||_F + ||B V_a||_F / ||B||_F) / 2; an update of zeros counts 0.

    Args:
        a, b: updates [p, d].
        a_vectors, b_vectors: their leading right singular vectors, [d, r].
    """
    return (_share(a, b_vectors) + _share(b, a_vectors)) / 2


def _share(update: Tensor, vectors: Tensor) -> Tensor:
    size = torch.linalg.matrix_norm(update)
    return torch.where(size > 0, torch.linalg.matrix_norm(update @ vectors.to(update)) / size, 0.0)


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Conflicts of one step, each a mean over pairs and layers; NaN where there is no pair.

    Attributes:
        active: among the updates that were merged.
        state: between the merged state and each of these.
        overall: among all of them, the merged state included.
    """

    active: float
    state: float
    overall: float

    @property
    def state_gap(self) -> float:
        """state - active. The paper names the gaps without a formula; its figures plot signed differences."""
        return self.state - self.active

    @property
    def global_gap(self) -> float:
        """overall - active."""
        return self.overall - self.active


def signals(layers: Iterable[tuple[Sequence[Tensor], Tensor]], rank: int = 32, energy: float = 0.95) -> Signals:
    """The conflicts of a step (arXiv 2605.09608, section 3 and appendix E).

    Args:
        layers: for each layer the updates that were merged, each [p, d], and the merged state [p, d].
        rank, energy: what is kept of each, see `leading_spectrum`.
    """
    active, state = [], []
    for updates, merged in layers:
        table = conflicts([leading_spectrum(update, rank, energy).factor for update in [*updates, merged]])
        n = len(updates)
        active += [float(table[i, j]) for i, j in itertools.combinations(range(n), 2)]
        state += table[n, :n].tolist()
    return Signals(active=_mean(active), state=_mean(state), overall=_mean(active + state))


class GradientConflict(NamedTuple):
    """Cosines of task gradients over pairs and layers: mean, smallest, and the share below 0."""

    mean: float
    smallest: float
    negative: float


def gradient_conflict(layers: Iterable[Tensor]) -> GradientConflict:
    """How the gradients of several experiences' losses at one model agree (arXiv 2605.09608, appendix E).

    Args:
        layers: for each layer the gradients [n, ...], one an experience; a gradient of zeros has cosine 0.

    >>> gradient_conflict([torch.tensor([[1.0, 0.0], [-2.0, 0.0]])])
    GradientConflict(mean=-1.0, smallest=-1.0, negative=1.0)
    """
    cosines: list[float] = []
    for gradients in layers:
        unit = torch.nn.functional.normalize(gradients.flatten(1).double())
        rows, columns = torch.triu_indices(len(unit), len(unit), 1)
        cosines += (unit @ unit.mT)[rows, columns].tolist()
    return GradientConflict(_mean(cosines), min(cosines, default=math.nan), _mean([c < 0 for c in cosines]))


def update_norms(updates: Iterable[Tensor]) -> tuple[float, float]:
    """Size of an update over its layers in both definitions: (sum_l ||.||_F^2)^{1/2} of the paper, and the released
    program's sum_l ||.||_F.

    >>> update_norms([torch.tensor([3.0]), torch.tensor([4.0])])
    (5.0, 7.0)
    """
    norms = [float(torch.linalg.vector_norm(update.double())) for update in updates]
    return math.hypot(*norms), sum(norms)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
