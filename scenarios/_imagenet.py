"""Reader of ImageNet's folders, `train/<class>/*.JPEG` and `val/<class>/*.JPEG`: its images in one size.

An image is shrunk until its shorter side is round(256 s / 224) pixels, and the middle of s x s pixels is kept; for
s = 224 that is the usual test view. Literature: Russakovsky et al., ImageNet large scale visual recognition challenge,
IJCV 2015, arXiv 1409.0575; He et al., Deep residual learning for image recognition, CVPR 2016, section 3.4 (the view).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cl_framework import DataError
from cl_framework.sources import cache_folder

from ._picture_files import picture
from ._readers import Bytes

PUBLISHED = {"train": (732, 1300), "val": (50, 50)}
"""The fewest and the most images of a class in each part, as published."""
_SIDE, _SHRUNK = 224, 256


def read_imagenet(folder: Path, *, classes: Sequence[str],
                  side: int, counts: Mapping[str, tuple[int, int]]) -> dict[str, NDArray[Any]]:
    """Some classes of ImageNet; the official validation part is the test part.

    Rows are decoded one after the other into a file without a name and mapped from there: they may be larger than the
    memory. Label i is the i-th of `classes`; within a class files are in the order of their names.

    Args:
        folder: holds `train` and `val`.
        classes: WordNet ids, the names of the folders.
        side: height and width of an image in pixels.
        counts: the fewest and the most images of a class in each part; a part that is not named needs one.

    Raises:
        DataError: a class has no or too few or too many images, or one cannot be read.
        OSError: the disk is full.
    """
    found = {part: _paths(folder / part, classes, counts.get(part)) for part in ("train", "val")}
    arrays: dict[str, NDArray[Any]] = {}
    for split, part in (("train", "train"), ("test", "val")):
        arrays[f"{split}_x"] = _decoded([path for paths in found[part] for path in paths], side)
        arrays[f"{split}_y"] = np.repeat(np.arange(len(classes)), [len(paths) for paths in found[part]])
    return arrays


def middle(image: Image.Image, side: int) -> Bytes:
    """The image in its usual view as uint8 [3, side, side].

    >>> middle(Image.new("L", (300, 200), 7), 32).shape
    (3, 32, 32)
    """
    shorter = round(_SHRUNK * side / _SIDE)
    width, height = (int(shorter * edge / min(image.size)) for edge in image.size)
    shrunk = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(shrunk.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _paths(root: Path, classes: Sequence[str], counts: tuple[int, int] | None) -> list[list[Path]]:
    """The files of each class."""
    found = [sorted((root / wnid).glob("*.JPEG")) for wnid in classes]
    empty = [wnid for wnid, paths in zip(classes, found, strict=True) if not paths]
    if empty:
        raise DataError(f"{root} has no .JPEG files of {len(empty)} of the {len(classes)} classes, such as {empty[0]}; "
                        f"put them into {root / empty[0]}")
    for wnid, paths in zip(classes, found, strict=True):
        if counts is not None and not counts[0] <= len(paths) <= counts[1]:
            expected = str(counts[0]) if counts[0] == counts[1] else f"{counts[0]} to {counts[1]}"
            raise DataError(f"{root / wnid} holds {len(paths)} .JPEG files, the published classes hold {expected}; "
                            "unpack the official archives in full, or give scenario.is_official=false")
    return found


def _decoded(paths: Sequence[Path], side: int) -> Bytes:
    """The images as uint8 [N, 3, side, side], mapped from a file that ends with the array."""
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        for path in paths:
            with picture(path, str(path)) as image:
                pixels = middle(image, side)
            file.write(pixels.tobytes())
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(len(paths), 3, side, side))
