"""Split scenarios of well-known image data sets."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from cl_framework import bounded
from cl_framework.sources import Source

from . import _images
from ._split import Labelled
from ._split import Split as _Split


@dataclass(kw_only=True)
class Split(_Split):
    """A split of a data set that the framework knows how to obtain. Abstract: a final class names the source."""

    is_official: bool = True
    """Take the published files alone; false takes altered or generated ones of the same format from the data set's
    folder in CLF_DATA, unverified and cached apart. The digest of what was used is in environment.json."""

    @abstractmethod
    def source(self) -> Source:
        """Where the data set comes from."""

    def read(self) -> Labelled:
        """The data set, memory-mapped from the cache."""
        source = self.source() if self.is_official else self.source().altered()
        names = source.class_names or tuple(str(label) for label in range(source.n_classes))
        return Labelled(name=source.name, images=source.load(), class_names=names, mean=source.mean, std=source.std,
                        augment=source.augment)


@dataclass(kw_only=True)
class SplitDigits(Split):
    """scikit-learn's 1,797 digits, 8x8, in 5 experiences of 2. Needs no download.

    Literature: Alpaydin and Kaynak, Cascading classifiers, Kybernetika 1998.
    """

    def source(self) -> Source:
        """scikit-learn's digits."""
        return _images.DIGITS


@dataclass(kw_only=True)
class SplitMNIST(Split):
    """MNIST in 5 experiences of 2.

    Literature: Zenke, Poole and Ganguli, Continual learning through synaptic intelligence, ICML 2017; Hsu et al.,
    arXiv 1810.12488; data by LeCun, Bottou, Bengio and Haffner, 1998.
    """

    def source(self) -> Source:
        """MNIST."""
        return _images.MNIST


@dataclass(kw_only=True)
class SplitFashion(Split):
    """Fashion-MNIST in 5 experiences of 2.

    Literature: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
    """

    def source(self) -> Source:
        """Fashion-MNIST."""
        return _images.FASHION_MNIST


@dataclass(kw_only=True)
class SplitCIFAR10(Split):
    """CIFAR-10 in 5 experiences of 2.

    Literature: Buzzega et al., Dark experience for general continual learning, NeurIPS 2020, section 4; data by
    Krizhevsky, 2009.
    """

    def source(self) -> Source:
        """CIFAR-10."""
        return _images.CIFAR10


@dataclass(kw_only=True)
class SplitCIFAR100(Split):
    """CIFAR-100 in 10 experiences of 10.

    Literature: Rebuffi et al., iCaRL, CVPR 2017, section 4 (10 classes at a time); Hou et al., CVPR 2019 (50 and then
    10: `first=50 step=10`); data by Krizhevsky, 2009.
    """

    n_experiences: int = bounded(10, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """CIFAR-100."""
        return _images.CIFAR100


@dataclass(kw_only=True)
class SplitTinyImageNet(Split):
    """Tiny-ImageNet, 200 classes of 64x64, in 10 experiences of 20.

    Literature: Buzzega et al., Dark experience for general continual learning, NeurIPS 2020, section 4; data by Le
    and Yang, 2015.
    """

    n_experiences: int = bounded(10, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """Tiny-ImageNet."""
        return _images.TINY_IMAGENET
