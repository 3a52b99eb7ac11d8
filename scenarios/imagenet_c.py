"""ImageNet-C: the published corrupted validation images, `<corruption>/<severity>/<class>/*.JPEG`.

Literature: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and perturbations,
ICLR 2019, arXiv 1903.12261; doi 10.5281/zenodo.2235448.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cl_framework import ConfigError, DataError, Need, bounded
from cl_framework.sources import ImageSet, cache_folder

from ._corruption_streams import CorruptionStreams
from ._cut import Labelled
from ._kept import kept
from ._picture_files import picture

_GROUPS = ("", "noise", "blur", "weather", "digital", "extra")
"""The archives of the publication unpack to such folders; the corruptions may lie in them or beside them."""
_SIDE, _SHRUNK = 224, 256
"""Side of the corrupted images: the middle of clean ones whose shorter side was shrunk to 256 pixels."""


@dataclass(kw_only=True)
class ImageNetC(CorruptionStreams):
    """ImageNet's validation images under 15 corruptions (tuning: four others), unlabelled, in batches.

    The folder `imagenetc`, beside the data sets, holds the corruptions, and the clean images as `val/<class>/*.JPEG`.
    Clean images are the held-out rows. There are no source rows: `source` is a file of weights. The chosen images are
    decoded once and kept.

    Literature: Hendrycks and Dietterich, arXiv 1903.12261; Wang et al., arXiv 2203.13591 (the streams).
    """

    offers: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})

    n_images: int = bounded(5000, low=0)
    """Images under each corruption, the same ones and equally many of each class; 0 takes all 50,000, 7.5 GB each."""

    def clean(self) -> Labelled:
        """The chosen validation images, cropped as the corrupted ones are."""
        if self.source == "train":
            raise ConfigError("scenario=imagenetc has no training rows; give the weights of a trained model with "
                              "scenario.source=FILE, or scenario.source=model with model=robustbench")
        val, chosen = cache_folder() / "imagenetc" / "val", self._chosen()
        classes = sorted(folder.name for folder in val.iterdir() if folder.is_dir())
        rows, digest = self._decoded("clean", val, chosen)
        y = torch.tensor([classes.index(name.partition("/")[0]) for name in chosen])
        images = ImageSet(train_x=rows[:0], train_y=y[:0], test_x=rows, test_y=y, digest=digest)
        return Labelled(name="imagenet_val", images=images, class_names=tuple(classes), mean=(0.485, 0.456, 0.406),
                        std=(0.229, 0.224, 0.225), augment="crop_flip")

    def corrupted(self, data: Labelled, name: str, severity: int) -> tuple[Tensor, str]:
        """The chosen images under one corruption."""
        return self._decoded(f"{name}-{severity}", self._folder(name, severity), self._chosen())

    def title(self) -> str:
        """The published name."""
        return "imagenetc"

    def _folder(self, name: str, severity: int) -> Path:
        root = cache_folder() / "imagenetc"
        for group in _GROUPS:
            if (root / group / name / str(severity)).is_dir():
                return root / group / name / str(severity)
        raise DataError(f"ImageNet-C's {name}/{severity} is not there; unpack the official archives into {root}, so "
                        f"that {root / name / str(severity)} holds one folder of .JPEG files a class")

    def _chosen(self) -> list[str]:
        """`<class>/<file>` of the chosen images: of each class the first ones by name, in turn."""
        val = cache_folder() / "imagenetc" / "val"
        ranked = sorted((rank, path.parent.name, path.name)
                        for folder in (sorted(val.iterdir()) if val.is_dir() else []) if folder.is_dir()
                        for rank, path in enumerate(sorted(folder.glob("*.JPEG"))))
        if not ranked:
            raise DataError(f"ImageNet's validation images are not there; put them into {val}, one folder of .JPEG "
                            "files a class, named as in ImageNet-C")
        return [f"{folder}/{name}" for _, folder, name in ranked[:self.n_images or None]]  # each batch has many classes

    def _decoded(self, what: str, folder: Path, names: list[str]) -> tuple[Tensor, str]:
        """The images of a folder as uint8 [N, 3, 224, 224], from their file or decoded and kept."""
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise DataError(f"{folder} lacks {missing[0]} and {len(missing) - 1} more of the {len(names)} chosen "
                            "images; unpack the official archives in full")
        sizes = "".join(f"{name} {(folder / name).stat().st_size}\n" for name in names)
        facts = {"folder": str(folder), "files": hashlib.sha256(sizes.encode()).hexdigest()}
        return kept(cache_folder() / "corrupted" / f"imagenetc-{what}-{len(names)}-by-rank.safetensors", facts,
                    lambda: torch.from_numpy(np.stack([_pixels(folder / name) for name in names])))


def _pixels(path: Path) -> np.ndarray:
    """An image as uint8 [3, 224, 224]; one of another size is shrunk and its middle cut out."""
    with picture(path, str(path)) as file:
        image = file.convert("RGB")
    if image.size != (_SIDE, _SIDE):
        scale = _SHRUNK / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - _SIDE) // 2, (image.height - _SIDE) // 2
        image = image.crop((left, top, left + _SIDE, top + _SIDE))
    return np.asarray(image).transpose(2, 0, 1)
