"""Any image set under the common corruptions, made here from its test images.

Literature: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and perturbations,
ICLR 2019, arXiv 1903.12261.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cl_framework import ConfigError, bounded
from cl_framework.sources import cache_folder

from ._corruption_streams import CorruptionStreams
from ._corruptions import RECIPE, corrupt
from ._cut import Labelled
from ._domains import registered
from ._kept import kept


@dataclass(kw_only=True)
class Corrupted(CorruptionStreams):
    """The test images of a data set under 15 corruptions (tuning: four others), unlabelled, in batches.

    The images are made at the first use, kept beside the data sets, and named `<data set>_csim`: simulated, not the
    published files. Held-out rows are the clean test images, for what is forgotten of the source.

    Literature: Hendrycks and Dietterich, arXiv 1903.12261; Wang et al., arXiv 2203.13591 (the streams).
    """

    dataset: str = "fashion_mnist"
    """A data set of images that `clf data` lists."""
    corruption_seed: int = bounded(0, low=0)
    """Decides the random numbers of the corruptions; `order_seed` decides the order."""

    def clean(self) -> Labelled:
        """The data set as it is."""
        data = registered(self.dataset)
        shape = tuple(data.images.test_x.shape[1:])
        if len(shape) != 3:
            raise ConfigError(f"scenario.dataset={self.dataset!r} holds rows of shape {shape}, not images; take one "
                              "such as fashion_mnist, mnist or emoji_google")
        return data

    def corrupted(self, data: Labelled, name: str, severity: int) -> tuple[Tensor, str]:
        """Test images under one corruption: from their file, or made and kept."""
        file = f"{self.title()}-{name}-{severity}-seed{self.corruption_seed}.safetensors"
        facts = {"images": data.images.digest, "corruption": name, "severity": str(severity),
                 "seed": str(self.corruption_seed), "recipe": RECIPE}
        return kept(cache_folder() / "corrupted" / file, facts,
                    lambda: corrupt(data.images.test_x, name, severity, self.corruption_seed))

    def title(self) -> str:
        """The data set's name, marked as simulated."""
        return f"{self.dataset}_csim"
