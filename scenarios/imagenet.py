"""Split ImageNet: one of two lists of a hundred classes, both, or all 1,000.

Literature: Rebuffi et al., iCaRL, CVPR 2017, section 4 (10 of 100 classes at a time); Hou et al., LUCIR, CVPR 2019 (50
and then 10: `first=50 step=10`); Cha and Cho, TMLR 2025, arXiv 2403.09066 (one list for tuning, another to report on).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from cl_framework import Source, bounded

from . import _imagenet_lists as lists
from ._imagenet import PUBLISHED, read_imagenet
from .split import Split

_SUBSETS = {"imagenet100": lists.IMAGENET100, "imagenet100_2": lists.IMAGENET100_2,
            "imagenet100_both": lists.IMAGENET100 + lists.IMAGENET100_2, "all": lists.CLASSES}


@dataclass(kw_only=True)
class SplitImageNet(Split):
    """ImageNet-100, 100 other classes of ImageNet, both or all, in 10 experiences.

    The folder `imagenet`, beside the data sets, holds `train/<class>/*.JPEG` and `val/<class>/*.JPEG`; the validation
    part is the test part. Images are shrunk and cropped once and kept.

    Literature: data by Russakovsky et al., arXiv 1409.0575; ImageNet-100 by Tian, Krishnan and Isola, arXiv 1906.05849.
    """

    n_experiences: int = bounded(10, low=1)
    """Number of experiences of an even split."""
    subset: Literal["imagenet100", "imagenet100_2", "imagenet100_both", "all"] = "imagenet100"
    """Which classes: ImageNet-100; 100 others, drawn once; the one list after the other, so that one is the tuning
    half and the other the evaluation half; or all 1,000."""
    side: int = bounded(224, low=8, high=512)
    """Height and width in pixels: the middle of an image whose shorter side was shrunk to 256/224 of it."""

    def source(self) -> Source:
        """ImageNet's folders."""
        classes = _SUBSETS[self.subset]
        read = partial(read_imagenet, classes=classes, side=self.side)
        return Source(
            name=f"{'imagenet' if self.subset == 'all' else self.subset}-{self.side}", folder="imagenet",
            description=f"photographs of {len(classes):,} classes of ImageNet, {self.side}x{self.side} RGB",
            read=partial(read, counts=PUBLISHED), lenient=partial(read, counts={}), files=("train", "val"), places=(),
            n_classes=len(classes), class_names=classes, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            augment="crop_flip", licence="ImageNet's terms: non-commercial research",
            hint="ImageNet's images as train/<class>/*.JPEG and val/<class>/*.JPEG, a class being a WordNet id such as "
                 f"{classes[0]},")
