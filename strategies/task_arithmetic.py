"""Task arithmetic: add up what the experts learned, and take a share of it.

    theta = theta_0 + lambda sum_i Delta_i.

Folded in one by one, theta_t = theta_{t-1} + lambda Delta_t, so that no expert is kept. Ilharco et al., "Editing Models
with Task Arithmetic", ICLR 2023, arXiv 2212.04089, section 2. Tang et al., NeurIPS 2025, arXiv 2501.09522, take lambda
0.3 for 8 experiences and 0.1 for 14 and 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cl_framework.fields import tunable
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.merging_rules import running_sum

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class TaskArithmetic(Experts):
    """A share of the sum of all updates."""

    coefficient: float = tunable(0.3, 0.1, 0.2, 0.3, 0.5, 1.0, low=0.0)
    """lambda, the share of the sum."""

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The running sum."""
        return Merged(running_sum(updates))

    def factor(self, totals: Totals) -> float:
        """lambda."""
        return self.coefficient
