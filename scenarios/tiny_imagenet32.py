"""Half of Tiny-ImageNet in the shape of CIFAR-100: what was tuned on the one can be reported on the other.

A pixel is the mean of a square of 2x2 pixels. Literature: Le and Yang, Tiny ImageNet visual recognition challenge, CS
231N, 2015; Chrabaszcz, Loshchilov and Hutter, A downsampled variant of ImageNet as an alternative to the CIFAR
datasets, 2017, arXiv 1707.08819 (the means of squares).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cl_framework import Source, bounded
from cl_framework.sources import Arrays

from . import _images
from ._readers import Bytes
from .split import Split

_N_CLASSES = 100


def means_of_pairs(images: Bytes) -> Bytes:
    """Images [N, C, H, W] at half the size; halves are rounded up.

    >>> means_of_pairs(np.array([[[[0, 1, 8, 8], [0, 1, 8, 9]]]], np.uint8)).tolist()
    [[[[1, 8]]]]
    """
    n, channels, height, width = images.shape
    sums: NDArray[np.uint16] = images.reshape(n, channels, height // 2, 2, width // 2, 2).sum((3, 5), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _shrunk(folder: Path, *, read: Callable[[Path], Arrays]) -> Arrays:
    """The first half of the classes, at half the size."""
    arrays = read(folder)
    chosen = {part: np.flatnonzero(arrays[f"{part}_y"] < _N_CLASSES) for part in ("train", "test")}
    return ({f"{part}_x": means_of_pairs(arrays[f"{part}_x"][rows]) for part, rows in chosen.items()}
            | {f"{part}_y": arrays[f"{part}_y"][rows] for part, rows in chosen.items()})


TINY_IMAGENET32 = replace(
    _images.TINY_IMAGENET, name="tiny_imagenet32", folder="tiny_imagenet", n_classes=_N_CLASSES,
    description="55,000 photographs, 32x32 RGB, 100 classes of ImageNet (half of tiny_imagenet)",
    read=partial(_shrunk, read=_images.TINY_IMAGENET.read),
    lenient=partial(_shrunk, read=_images.TINY_IMAGENET.altered().read))


@dataclass(kw_only=True)
class SplitTinyImageNet32(Split):
    """The first 100 classes of Tiny-ImageNet, 32x32, in 10 experiences of 10: the shape of CIFAR-100, other data.

    Literature: data by Le and Yang, 2015; Chrabaszcz, Loshchilov and Hutter, arXiv 1707.08819 (shrunk ImageNet).
    """

    n_experiences: int = bounded(10, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """Half of Tiny-ImageNet."""
        return TINY_IMAGENET32
