"""Data sets of images one after the other, brought to one shape: what a pretrained image network meets.

Literature: Ebrahimi et al., Adversarial continual learning, ECCV 2020, section 5 (a sequence of five data sets, brought
to one size and three channels).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework import ConfigError, bounded

from ._cut import Labelled
from ._whole import WholeSets

_BLOCK = 256
"""Images that are resized together: bounds what is held as float32."""


def as_rgb(images: Tensor, size: int) -> Tensor:
    """Images of one size and three channels, uint8 [N, 3, size, size].

    Bilinear, and a mean over the area that a pixel covers where images shrink; grey is copied to all channels.

    Args:
        images: uint8 [N, 1 or 3, H, W].
        size: height and width in pixels; images that are not square are squeezed.

    >>> as_rgb(torch.tensor([[[[10, 20], [30, 40]]]], dtype=torch.uint8), 1).flatten().tolist()
    [25, 25, 25]
    """
    seen = torch.empty((len(images), 3, size, size), dtype=torch.uint8)
    for start in range(0, len(images), _BLOCK):
        block = images[start:start + _BLOCK].to(torch.float32)
        resized = F.interpolate(block, (size, size), mode="bilinear", align_corners=False, antialias=True)
        seen[start:start + _BLOCK] = resized.round_().clamp_(0, 255).to(torch.uint8)
    return seen


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel in units of raw/255, by counting levels; 1 for a channel that never changes.

    >>> channel_moments(torch.tensor([[[[0, 255]], [[255, 255]]]], dtype=torch.uint8))
    ((0.5, 1.0), (0.5, 1.0))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = channel.flatten().bincount(minlength=256).to(torch.float64) / channel.numel()
        means.append(float((share * levels).sum()))
        deviations.append(float((share * (levels - means[-1]).square()).sum().sqrt()) or 1.0)
    return tuple(means), tuple(deviations)


@dataclass(kw_only=True)
class VisionSequence(WholeSets):
    """Each data set of images is an experience; all images have three channels and one size.

    Mean and deviation are those of the first data set of the order, as later rows are the future.

    Literature: Ebrahimi et al., ECCV 2020, section 5.
    """

    sources: list[str] = field(default_factory=lambda: ["mnist", "fashion_mnist", "glyphs", "emoji_google"])
    """Data sets of images that `clf data` lists, in their natural order; each is an experience."""
    size: int = bounded(64, low=8, high=512)
    """Height and width in pixels. An image takes 3 x size x size bytes of memory."""

    def refuse(self, name: str, shape: tuple[int, ...]) -> None:
        """Rows must be grey or coloured images."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ConfigError(f"scenario.sources: {name} holds rows of shape {shape}, not images of 1 or 3 channels; "
                              "take such as mnist or emoji_google, or scenario=text_sequence for texts")

    def shown(self, data: Labelled) -> Labelled:
        """Of three channels and one size."""
        images = replace(data.images, train_x=as_rgb(data.images.train_x, self.size),
                         test_x=as_rgb(data.images.test_x, self.size))
        return replace(data, images=images, mean=None, std=None, augment="none")

    def moments(self, first: Labelled) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those of its training rows."""
        return channel_moments(first.images.train_x)
