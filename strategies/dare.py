"""DARE: drop most of what an expert learned, rescale the rest, and add it up.

With m_i of independent zeros (probability p) and ones,

    Delta'_i = m_i * Delta_i / (1 - p),        theta = theta_0 + lambda sum_i Delta'_i.

Sparse updates seldom meet in one entry, and the rescaling keeps the expectation. No expert is kept. Yu et al.,
"Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024, arXiv
2311.03099, section 3, with task arithmetic as the merge.

Choices:

- The entries dropped depend on the run's seed, the expert's number and the tensor's name alone.
- p is 0.9, which the paper found harmless for language models. Updates of small networks that began with random weights
  are neither small nor redundant, and bear less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cl_framework.fields import tunable
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.merging_rules import dropped, mask_generator, running_sum

from ._experts import Experts


@dataclass(kw_only=True, eq=False)
class DARE(Experts):
    """A share of the sum of thinned updates."""

    drop_rate: float = tunable(0.9, 0.2, 0.5, 0.9, 0.99, low=0.0, high=0.999)
    """p, the probability that an entry of an update is dropped."""
    is_rescaled: bool = True
    """Divide what is left by 1 - p."""
    coefficient: float = tunable(0.3, 0.1, 0.2, 0.3, 0.5, 1.0, low=0.0)
    """lambda, the share of the sum."""

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The running sum, and the new update thinned."""
        draw = mask_generator(totals.seed, totals.n_experts, layer.name)
        return Merged(running_sum([*updates[:-1], dropped(updates[-1], self.drop_rate, draw, self.is_rescaled)]))

    def factor(self, totals: Totals) -> float:
        """lambda."""
        return self.coefficient
