"""Split scenarios of well-known image data sets."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

from cl_framework import ConfigError, bounded
from cl_framework.sources import Source

from . import _glyphs, _images, _letter
from ._cut import Labelled
from ._pixels import Padded
from ._split import Split as _Split


@dataclass(kw_only=True)
class Split(_Split):
    """A split of a data set that the framework knows how to obtain. Abstract: a final class names the source."""

    is_official: bool = True
    """Take the published files alone; false takes altered or generated ones of the same format from the data set's
    folder in CLF_DATA, unverified and cached apart. The digest of what was used is in environment.json."""
    pad: int = bounded(0, low=0, high=64)
    """Zero pixels on each side of an image, added when it is read; 2 makes 28x28 into 32x32."""
    augment: Literal["source", "none", "crop", "crop_flip"] = "source"
    """Of training images: what is usual for the data set, nothing, random crops after padding by 4, or these and
    flips."""
    normalise: bool = True
    """Subtract the mean of the data set and divide by its deviation; false leaves raw/255."""

    @abstractmethod
    def source(self) -> Source:
        """Where the data set comes from."""

    def read(self) -> Labelled:
        """The data set, memory-mapped from the cache, as its fields want it seen."""
        source = self.source() if self.is_official else self.source().altered()
        data = Labelled.of(source)
        if self.pad:
            data = _padded(data, Padded(self.pad))
        if self.augment != "source":
            if self.augment != "none" and data.images.train_x.dim() != 4:
                raise ConfigError(f"scenario.augment={self.augment} needs images, but {data.name} has vectors; "
                                  "leave scenario.augment out")
            data = replace(data, augment=self.augment)
        return data if self.normalise else replace(data, mean=(0.0,), std=(1.0,))


def _padded(data: Labelled, views: Padded) -> Labelled:
    """The same images with zeros around, their mean and deviation in closed form."""
    shape = data.images.train_x.shape
    if len(shape) != 4:
        raise ConfigError(f"scenario.pad={views.pixels} needs images, but {data.name} has rows of shape "
                          f"{tuple(shape[1:])}; leave scenario.pad out")
    assert data.mean is not None and data.std is not None
    mean, std = views.moments(data.mean, data.std, (shape[2], shape[3]))
    return replace(data, views=views, mean=mean, std=std)


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


@dataclass(kw_only=True)
class SplitGlyphs(Split):
    """Letters and digits of 465 fonts, 28x28, 36 classes in 9 experiences of 4.

    Upper and lower case are one class. Held-out images are of other families of fonts than training images. Rendered
    here, so that images may differ by a grey level between versions of the font renderer.

    Literature: Bulatov, notMNIST dataset, 2011; fonts by Brian Kent (AEnigma).
    """

    n_experiences: int = bounded(9, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """The glyphs."""
        return _glyphs.GLYPHS


@dataclass(kw_only=True)
class SplitGlyphsLetters(Split):
    """A to J of 465 fonts, 28x28, in 5 experiences of 2: the shape of MNIST and Fashion-MNIST, another data set.

    Literature: Bulatov, notMNIST dataset, 2011; fonts by Brian Kent (AEnigma).
    """

    def source(self) -> Source:
        """The glyphs A to J."""
        return _glyphs.GLYPHS_LETTERS


@dataclass(kw_only=True)
class SplitLetter(Split):
    """UCI's letters as vectors of 16 values, 26 classes in 13 experiences of 2. Goes with model=mlp.

    Every fifth distinct row is held out with its copies.

    Literature: Frey and Slate, Letter recognition using Holland-style adaptive classifiers, Machine Learning 6, 1991.
    """

    n_experiences: int = bounded(13, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """The letters."""
        return _letter.LETTER
