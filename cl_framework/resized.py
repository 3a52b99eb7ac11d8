"""Images as a pretrained network wants them: 3 channels, its size, its normalisation, a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.models import image_channels
from cl_framework.preprocess import crop_flip
from cl_framework.types import Inputs


class Resized(nn.Module):
    """Rows [B, C, H, W] of uint8 become [B, 3, size, size]; a single channel is repeated.

    Resizing is antialiased and takes the whole image, without a crop.

    Args:
        size: side of the image that the network sees, in pixels.
        mean, std: one number a channel, in units of raw/255.
        augment: of training rows, before they are resized: "none", "crop" or "crop_flip".
        filter: of resizing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], augment: str = "none",
                 filter: Literal["bilinear", "bicubic"] = "bilinear") -> None:
        super().__init__()
        self.size, self.augment, self.filter = size, augment, filter
        self.register_buffer("mean", 255 * torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, raw: Inputs) -> Tensor:
        """Rows as the network takes them, float32.

        Raises:
            ConfigError: the rows are no uint8 images.
        """
        if not isinstance(raw, Tensor) or raw.dtype != torch.uint8:
            raise ConfigError("a pretrained network of images takes rows of uint8, values 0 to 255, and the scenario "
                              "gives others; store the images as uint8, or take model=cnn")
        if self.training and self.augment != "none":
            raw = crop_flip(raw, flips=self.augment == "crop_flip")
        images = raw.to(torch.float32)
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode=self.filter, antialias=True).clamp(0, 255)
        return (images - self.mean) / self.std


def check_images(input_shape: tuple[int, ...], model: str) -> None:
    """Refuse rows that are no images of 1 or 3 channels.

    Raises:
        ConfigError: says what they are.
    """
    if (n := image_channels(input_shape, model)) not in (1, 3):
        raise ConfigError(f"model={model} takes images of 1 or 3 channels, and the scenario's have {n}; take model=cnn")
