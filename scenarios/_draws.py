"""Random numbers for a block of images, those of each image from a generator of its own.

An image's numbers follow from (seed, corruption, severity, index) alone, so that neither the block nor the batch that
it is corrupted in changes a pixel of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl_framework.seeding import generator


class Draws:
    """Numbers for the images `first` to `first + n - 1`, in the order in which they are asked for.

    Args:
        seed: of the corruption.
        path: names the corruption and its severity.
        first: index of the first image in its data set.
        n: number of images.

    >>> torch.equal(Draws(0, ("snow", 1), 5, 1).uniform(3)[0], Draws(0, ("snow", 1), 0, 9).uniform(3)[5])
    True
    """

    def __init__(self, seed: int, path: tuple[int | str, ...], first: int, n: int) -> None:
        self._generators = [generator(seed, *path, index) for index in range(first, first + n)]

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers of [low, high), float64 [n, *shape]."""
        numbers = torch.empty((len(self), *shape), dtype=torch.float64)
        for row, own in zip(numbers, self._generators, strict=True):
            row.uniform_(low, high, generator=own)
        return numbers

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float64 [n, *shape]."""
        numbers = torch.empty((len(self), *shape), dtype=torch.float64)
        for row, own in zip(numbers, self._generators, strict=True):
            row.normal_(generator=own)
        return numbers

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Whole numbers of low, ..., high - 1, int64 [n, *shape]."""
        numbers = torch.empty((len(self), *shape), dtype=torch.int64)
        for row, own in zip(numbers, self._generators, strict=True):
            row.random_(low, high, generator=own)
        return numbers

    def poisson(self, rates: Tensor) -> Tensor:
        """Counts of the given rates, float64 [n, ...]."""
        return torch.stack([torch.poisson(row, generator=own)
                            for row, own in zip(rates, self._generators, strict=True)])
