"""CIFAR-10-C and CIFAR-100-C: the published corrupted test images.

Literature: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and perturbations,
ICLR 2019, arXiv 1903.12261.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cl_framework import DataError, Source
from cl_framework.registry import load
from cl_framework.sources import cache_folder

from ._cifar_c import CifarC
from ._corruption_streams import CorruptionStreams
from ._cut import Labelled
from ._kept import digest_of


@dataclass(kw_only=True)
class PublishedCIFAR(CorruptionStreams):
    """The published files of a CIFAR data set. Abstract: a final class says which."""

    is_official: bool = True
    """The published files alone; false takes altered or generated ones of the same layout, unverified."""

    @abstractmethod
    def files(self) -> CifarC:
        """Where the files are, and how they are recognised."""

    @abstractmethod
    def clean_name(self) -> str:
        """The data set that the images come from."""

    def clean(self) -> Labelled:
        """The data set as it is; its test images are those that were corrupted, in the same order."""
        source: Source = load("dataset", self.clean_name())
        data = Labelled.of(source if self.is_official else source.altered())
        expected = data.images.test_y.numpy()
        if not np.array_equal(self.files().labels(), np.tile(expected, 5)):
            raise DataError(f"labels.npy of {self.files().inner} are not five times the labels of the test images of "
                            f"{data.name}; the two data sets do not belong together")
        return data

    def corrupted(self, data: Labelled, name: str, severity: int) -> tuple[Tensor, str]:
        """Test images under one corruption, memory-mapped."""
        array = self.files().images(name, severity, len(data.images.test_y))
        rows = torch.from_numpy(array).permute(0, 3, 1, 2)
        return rows, digest_of(rows)


@dataclass(kw_only=True)
class CIFAR10C(PublishedCIFAR):
    """CIFAR-10-C: the test images of CIFAR-10 under 15 corruptions (tuning: four others), unlabelled, in batches.

    Literature: Hendrycks and Dietterich, arXiv 1903.12261; Wang et al., arXiv 2203.13591 (the streams).
    """

    def files(self) -> CifarC:
        """Below `cifar10c`, in the folder of the data sets."""
        return CifarC(cache_folder() / "cifar10c", "CIFAR-10-C", "CIFAR-10-C.tar",
                      "56bf5dcef84df0e2308c6dcbcbbd8499" if self.is_official else "")

    def clean_name(self) -> str:
        """CIFAR-10."""
        return "cifar10"

    def title(self) -> str:
        """The published name."""
        return "cifar10c" if self.is_official else "cifar10c-altered"


@dataclass(kw_only=True)
class CIFAR100C(PublishedCIFAR):
    """CIFAR-100-C: the test images of CIFAR-100 under 15 corruptions (tuning: four others), unlabelled, in batches.

    Literature: Hendrycks and Dietterich, arXiv 1903.12261; Wang et al., arXiv 2203.13591 (the streams).
    """

    def files(self) -> CifarC:
        """Below `cifar100c`, in the folder of the data sets."""
        return CifarC(cache_folder() / "cifar100c", "CIFAR-100-C", "CIFAR-100-C.tar",
                      "11f0ed0f1191edbf9fa23466ae6021d3" if self.is_official else "")

    def clean_name(self) -> str:
        """CIFAR-100."""
        return "cifar100"

    def title(self) -> str:
        """The published name."""
        return "cifar100c" if self.is_official else "cifar100c-altered"
