"""MagMax: learn in sequence, and let each weight have the largest change that any experience gave it.

    M_j = Delta_{k,j},   k = argmax_i |Delta_{i,j}|,        theta = theta_0 + lambda M.

Every expert begins where the one before it ended (not at the merged model), and all updates are taken from theta_0.
Maxima can be folded in one by one, so beside the merged update only the last expert's weights are kept. Marczak et al.,
"MagMax: Leveraging Model Merging for Seamless Continual Learning", ECCV 2024, arXiv 2407.06322, section 4.

Choices:

- lambda is 0.5, as in the released scripts.
- `start=anchor` is the form with independent experts, which the paper compares with and Tang et al., NeurIPS 2025,
  arXiv 2501.09522, use as a baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from cl_framework.fields import tunable
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.merging_rules import largest

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class MagMax(Experts):
    """Each weight's largest change."""

    start: Literal["anchor", "previous", "merged"] = "previous"
    """Where an expert begins: at the anchor, where the expert before it ended, or at the merged model."""
    coefficient: float = tunable(0.5, 0.3, 0.5, 0.7, 1.0, low=0.0)
    """lambda, the share of the merged update."""

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The entries of largest magnitude."""
        return Merged(largest(updates))

    def factor(self, totals: Totals) -> float:
        """lambda."""
        return self.coefficient
