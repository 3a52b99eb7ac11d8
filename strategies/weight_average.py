"""Weight averaging: the merged model is the mean of all experts.

    M_t = M_{t-1} + (Delta_t - M_{t-1}) / t,        theta = theta_0 + M_t.

A running mean, so that no expert is kept. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned
models improves accuracy without increasing inference time", ICML 2022, arXiv 2203.05482 (the uniform soup); as a
baseline of continual merging Tang et al., NeurIPS 2025, arXiv 2501.09522.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cl_framework.merging import Layer, Merged, Totals
from cl_framework.merging_rules import running_mean

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class WeightAverage(Experts):
    """The mean of all experts."""

    keeps_first: ClassVar[bool] = True

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The running mean."""
        return Merged(running_mean(updates, totals.n_experts))
