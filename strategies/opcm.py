"""OPCM: merge each expert with its update projected away from what was merged before.

    S_1 = Delta_1,   S_t = S_{t-1} + P_alpha(Delta_t; S_{t-1}),   theta_t = theta_0 + n_t S_t / ||S_t||,

P_alpha acting on the weight of each linear layer (`cl_framework.projection`) and being the identity elsewhere, and n_t
the mean of ||Delta_1||, ..., ||Delta_t||, so that the merged model is as far from theta_0 as an expert is on average.
Norms are those of all merged tensors together. It is the recursion of the paper with S_t = lambda_t (theta_t - theta_0)
and lambda_t = ||S_t|| / n_t, which stays near sqrt(t) where updates are orthogonal. Only S is kept. Tang et al.,
"Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model Merging", NeurIPS
2025, arXiv 2501.09522, algorithm 1 and section 4.

Choices:

- `projection=code` is what the release computes and its published numbers come from; `paper` is the text.
- Directions of singular value 0 are arbitrary. The release removes the diagonal there too (`diag_scope=all`), which
  makes its result depend on the linear algebra library where an update is not of full rank.
- Norms and rescaling are over the same set, the parameters; the release counts running statistics among the norms.
- Parameters that a module with further modules owns itself are merged like others; the release skips them after the
  first expert (`compat_skip_nonleaf`).
- With alpha 1 all directions are cut, and a merged update of 0 cuts none; the release leaves both to rounding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.fields import tunable
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.merging_rules import running_sum
from cl_framework.projection import basis_of, cut_of, projected

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class OPCM(Experts):
    """Projects, sums, and keeps the mean norm."""

    keeps_first: ClassVar[bool] = True

    alpha: float = tunable(0.5, 0.2, 0.4, 0.5, 0.6, 0.8, low=0.0, high=1.0)
    """Share of the singular values whose directions are cut."""
    projection: Literal["code", "paper"] = "code"
    """Which coefficients are cut: the leading block, or all that touch a leading direction."""
    paper_keep_ralpha: bool = True
    """Of `paper`: the direction that reaches the share stays; its text can be read either way."""
    diag_scope: Literal["numeric_rank", "all"] = "numeric_rank"
    """Directions whose diagonal is removed: those within the numeric rank, or all."""
    project_conv: bool = False
    """Also project kernels, as matrices [out, in * positions]; for networks that are mostly convolutions."""
    project_params: str = ""
    """A regular expression: parameters of two dimensions whose name it is found in are projected too."""
    compat_skip_nonleaf: bool = False
    """Skip what the release skips."""
    svd_dtype: Literal["float32", "float64"] = "float32"
    """The type that singular vectors are computed in, at least; a model in float64 keeps float64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.project_params)
        except re.error as error:
            raise ConfigError(f"OPCM.project_params must be a regular expression, got {self.project_params!r}: "
                              f"{error}") from None

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """S, and the projected update added to it."""
        if len(updates) == 1:
            return Merged(updates[0].clone())
        before, update = updates
        if self.compat_skip_nonleaf and not layer.is_leaf:
            return Merged(before / _scale(totals))
        if not self._is_projected(layer, update):
            return Merged(running_sum(updates))
        flat = update.flatten(1)
        dtype = torch.promote_types(update.dtype, torch.float64 if self.svd_dtype == "float64" else torch.float32)
        basis = basis_of(before.flatten(1), dtype, self.diag_scope)
        r = cut_of(basis.sigma, self.alpha, self.projection, self.paper_keep_ralpha)
        rest = projected(flat, basis, r, self.projection)
        return Merged(before + rest.view_as(before), _notes(before.flatten(1), flat, rest, r / min(flat.shape)))

    def factor(self, totals: Totals) -> float:
        """n / ||S||; 1 while there is nothing to scale."""
        return 1 / _scale(totals)

    def _is_projected(self, layer: Layer, update: Tensor) -> bool:
        if not update.numel():
            return False
        if layer.kind == "conv":
            return self.project_conv
        is_named = bool(self.project_params) and re.search(self.project_params, layer.name) is not None
        return update.dim() == 2 and (layer.kind == "linear" or is_named)


def _scale(totals: Totals) -> float:
    """lambda = ||S|| / n; 1 where either is 0."""
    return totals.norm / totals.mean_norm if totals.norm > 0 and totals.mean_norm > 0 else 1.0


def _notes(before: Tensor, update: Tensor, rest: Tensor, cut: float) -> dict[str, float]:
    """The share of directions that is cut, the share of the norm that is left, and the cosine with what was merged;
    none where an update is 0."""
    size, old = float(update.norm()), float(before.norm())
    if not math.isfinite(size * old) or size * old == 0:
        return {}
    cosine = float((update * before).sum()) / (size * old)
    return {"cut_fraction": cut, "retained_fraction": float(rest.norm()) / size, "cosine": cosine}
