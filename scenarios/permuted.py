"""Permuted images: every experience shuffles the pixels of all images in its own way.

Literature: Goodfellow et al., An empirical investigation of catastrophic forgetting in gradient-based neural networks,
arXiv 1312.6211; Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from cl_framework import Phase, bounded
from cl_framework.seeding import generator

from ._cut import Labelled
from ._domains import Domains, registered_images
from ._pixels import permutations


@dataclass(kw_only=True)
class Permuted(Domains):
    """Any image set under one fixed permutation of pixel positions for each experience, the same for all channels.

    Every experience has all images; they are stored once and permuted when they are read. Tuning and evaluation have
    different permutations. Training rows are not augmented: neighbours mean nothing here.

    Literature: Goodfellow et al., arXiv 1312.6211; Kirkpatrick et al., PNAS 2017; van de Ven and Tolias,
    arXiv 1904.07734 (the three settings); Buzzega et al., NeurIPS 2020 (every experience permuted).
    """

    images: str = "mnist"
    """A data set of images that `clf data` lists."""
    n_experiences: int = bounded(10, low=1)
    """Number of experiences, each with a permutation of its own."""
    permutation_seed: int = bounded(0, low=0)
    """Decides the permutations; `order_seed` decides their order."""
    first_is_plain: bool = False
    """The first experience shows the images as they are, as in Goodfellow et al.; else it is permuted too."""

    def domains(self, phase: Phase) -> Mapping[str, Labelled]:
        """One permutation after the other."""
        data, shape = registered_images(self.images)
        n_pixels = shape[0] * shape[1]
        orders = [torch.randperm(n_pixels, generator=generator(self.permutation_seed, "permutation", phase, index))
                  for index in range(self.n_experiences)]
        if self.first_is_plain:
            orders[0] = torch.arange(n_pixels)
        views = permutations(orders, shape)
        return {f"permutation {index}": replace(data, views=views, view=index, augment="none")
                for index in range(self.n_experiences)}

    def keeps_first(self) -> bool:
        """A plain first experience stays the first."""
        return self.first_is_plain
