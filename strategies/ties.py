"""TIES: trim what changed little, elect a sign for each weight, and average the updates that agree with it.

    Delta^_i = Delta_i where |Delta_i| is among the largest `density` of its expert, else 0,
    gamma = sgn(sum_i Delta^_i),   M = mean of {Delta^_i : sgn(Delta^_i) = gamma},   theta = theta_0 + lambda M.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023, arXiv 2306.01708, algorithm 1.
It sees all experts at once, so the update of each is kept. `memory=current_anchor` is the continual form of Tang et
al., NeurIPS 2025, arXiv 2501.09522: only the merged update is kept, and

    M_1 = lambda Delta_1,   M_t = M_{t-1} + lambda TIES(M_{t-1}, Delta_t),   theta = theta_0 + M_t,

the old update being counted twice.

Choices:

- The share that stays is counted over all weights of an expert, as released, or in each layer (`scope`).
- Where the votes cancel exactly, nothing is taken; the release takes the sign of the majority of all weights.
- The continual form's release sums the agreeing updates (`reduction=sum`); TIES takes their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from cl_framework.fields import tunable
from cl_framework.merging import Layer, Merged, Totals, Update
from cl_framework.merging_rules import disjoint, running_sum, threshold_of, trimmed

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class TIES(Experts):
    """Trim, elect, and average."""

    density: float = tunable(0.2, 0.05, 0.1, 0.2, 0.5, 1.0, low=0.0, high=1.0)
    """The share of each update that stays."""
    coefficient: float = tunable(1.0, 0.3, 0.5, 1.0, low=0.0)
    """lambda; Tang et al. take 0.3 for 8 experiences and 0.1 for more in the continual form."""
    scope: Literal["model", "layer"] = "model"
    """What the share is counted over."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the updates that agree."""
    memory: Literal["all_history", "current_anchor"] = "all_history"
    """What is kept: the update of every expert, or the merged one alone."""

    @property
    def n_kept(self) -> int | None:
        """All, or none."""
        return None if self.memory == "all_history" else 0

    def survey(self, updates: Sequence[Update]) -> Mapping[str, Sequence[float]]:
        """The threshold of each update."""
        if self.scope == "layer":
            return {}
        return {"threshold": [threshold_of(update, self.density) for update in updates]}

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The agreeing updates; in the continual form added to the merged one."""
        if self.memory == "current_anchor" and totals.n_experts == 0:
            return Merged(self.coefficient * updates[0])
        thresholds = totals.numbers.get("threshold") or [threshold_of({"": each}, self.density) for each in updates]
        kept = [trimmed(each, threshold) for each, threshold in zip(updates, thresholds, strict=True)]
        agreed = disjoint(kept, self.reduction)
        if self.memory == "current_anchor":
            agreed = running_sum([updates[0], self.coefficient * agreed])
        return Merged(agreed)

    def factor(self, totals: Totals) -> float:
        """lambda; 1 in the continual form, whose merged update has it."""
        return self.coefficient if self.memory == "all_history" else 1.0
