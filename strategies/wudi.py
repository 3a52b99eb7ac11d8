"""WUDI: merge the experts of linear layers so that they interfere least along their own inputs.

For each linear layer, Adam begins at X = sum_i Delta_i and takes a few hundred small steps on

    L(X) = sum_i ||(X - Delta_i) Delta_i^T||_F^2 / ||Delta_i||_F^2,        theta = theta_0 + c X,

where the rows of an update stand for the inputs that the expert reads, so that no data are needed. Cheng et al.,
"Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors", ICML 2025, arXiv
2503.08099; 300 steps of size 1e-5. Tensors that are no matrices are averaged. The operator is `cl_framework.wudi`.

All updates are kept and merged anew after each experience. Kernels of convolutions are merged as matrices over
patches, a reading of ours. A learning rate of 1e-5 fits the updates of a fine-tuned language model; where updates are
larger, only the relative one moves anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.merging import Layer, Merged, Totals
from cl_framework.wudi import wudi

from ._experts import Experts
from ._matrices import as_matrices, is_matrix


@dataclass(kw_only=True, eq=False)
class WUDI(Experts):
    """Merges linear layers by descending on their interference."""

    coefficient: float = tunable(1.0, 0.3, 0.5, 1.0, low=0.0)
    """The factor c."""
    n_steps: int = bounded(300, low=0)
    """Steps of Adam a layer; 0 is task arithmetic in linear layers."""
    lr: float = tunable(1e-5, 1e-6, 1e-5, 1e-4, 1e-3, low=0.0)
    """Learning rate of Adam: absolute, or as a share of the updates' root mean square."""
    lr_mode: Literal["absolute", "relative"] = "absolute"
    """What `lr` is measured in. The relative one makes the merge independent of the updates' scale."""

    @property
    def n_kept(self) -> None:
        """All updates."""
        return None

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The operator on matrices, the mean of other tensors."""
        if not is_matrix(layer):
            return Merged(torch.stack([*updates]).mean(0))
        stacked = torch.stack([as_matrices(layer, update) for update in updates])
        merged = wudi(stacked, n_steps=self.n_steps, lr=self.lr, is_relative=self.lr_mode == "relative")
        return Merged(merged.view_as(updates[0]))

    def factor(self, totals: Totals) -> float:
        """c."""
        return self.coefficient
