"""Random views of images: the test-time transform of KATANA (arXiv 2109.08191), as CoTTA uses it.

On images in [0, 1], in this order: brightness x [0.6, 1.4], contrast x [0.7, 1.3], saturation x [0.5, 1.5], hue +
[-0.06, 0.06] and gamma [0.7, 1.3] in random order; rotation by up to 15 degrees, a shift by up to 1/16 of the image
padded by half its size on each side, and a scale of [0.9, 1.1], bilinear, the edge repeated; Gaussian blur of 5 pixels
with sigma in [0.001, 0.5]; a horizontal flip of half of them; noise of standard deviation 0.005; clipped to [0, 1].

An image is mirrored only where the stream's training images are (`StreamInfo.augment`), and rotated, shifted and scaled
only where they are mirrored or shifted: the source has learned to bear that much, and a mirrored digit is another one.

The released code draws one transform for the whole batch, with shifts of whole pixels; here each image has its own,
with any shift. The order of the colour changes is one for the batch in both. Grey images have no saturation and hue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.errors import ConfigError, DataError
from cl_framework.seeding import derive, generator
from cl_framework.types import Inputs, StreamInfo

_RANGES = ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.06, 0.06), (0.7, 1.3), (-15.0, 15.0), (-0.125, 0.125),
           (-0.125, 0.125), (0.9, 1.1), (0.001, 0.5), (0.0, 1.0))
"""Of each number drawn for an image: five colour changes, angle, two shifts (parts of its own size), scale, sigma, and
what decides about the flip."""
_NOISE = 0.005
_GREY = (0.2989, 0.587, 0.114)
_MARGIN = 2
_TOLERANCE = 1e-3


class Views:
    """Draws views of normalised images.

    Args:
        info: gives shape, mean and std of the stream's images, and the seed.
        name: the strategy's name, for its own generators.
        is_sharp: neither blur nor noise (the transform of ROID).

    Raises:
        ConfigError: the rows are no images.
    """

    def __init__(self, info: StreamInfo, device: torch.device, name: str, *, is_sharp: bool = False) -> None:
        if len(info.input_shape) != 3:
            raise ConfigError(f"{name} looks at random views of images, but the stream's rows have shape "
                              f"{tuple(info.input_shape)}; use strategy=tent, which needs none")
        self._mean, self._std = (torch.tensor(value, device=device).view(-1, 1, 1) for value in (info.mean, info.std))
        self._order = generator(info.seed, name, "order")
        self._draws = torch.Generator(device).manual_seed(derive(info.seed, name, "views"))
        self._is_sharp, self._is_checked = is_sharp, False
        self._is_moved, self._is_mirrored = info.augment != "none", info.augment == "crop_flip"

    @torch.no_grad()
    def __call__(self, x: Inputs) -> Tensor:
        """Another view of each image, normalised as the images [B, C, H, W] were.

        Raises:
            DataError: images of the first batch lie outside [0, 1] before normalisation.
        """
        assert isinstance(x, Tensor)
        images = x * self._std.to(x.dtype) + self._mean.to(x.dtype)
        if not self._is_checked:
            low, high = images.min().item(), images.max().item()
            if low < -_TOLERANCE or high > 1 + _TOLERANCE:
                raise DataError(f"views are drawn of images in [0, 1], and the stream's lie in [{low:.3g}, {high:.3g}];"
                                " give uint8 rows, or float rows divided by 255 and clipped")
            self._is_checked = True
        drawn = torch.rand(len(_RANGES), len(x), generator=self._draws, device=x.device, dtype=x.dtype)
        factors = [low + (high - low) * row for (low, high), row in zip(_RANGES, drawn, strict=True)]
        images = jittered(images.clamp(0, 1), factors[:5], torch.randperm(5, generator=self._order).tolist())
        sigma = None if self._is_sharp else factors[9]
        angle, right, down, scale = factors[5:9]
        if not self._is_moved:
            angle, right, down = (torch.zeros_like(angle) for _ in range(3))
            scale = torch.ones_like(angle)
        images = moved(images, angle, right, down, scale, sigma)
        if self._is_mirrored:
            images = torch.where((factors[10] < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)
        if not self._is_sharp:
            noise = torch.randn(images.shape, generator=self._draws, device=x.device, dtype=x.dtype)
            images = images + _NOISE * noise
        return (images.clamp(0, 1) - self._mean.to(x.dtype)) / self._std.to(x.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The state of both generators."""
        return {"order": self._order.get_state(), "draws": self._draws.get_state(), "is_checked": self._is_checked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._order.set_state(state["order"].cpu())
        self._draws.set_state(state["draws"].cpu())
        self._is_checked = state["is_checked"]


def jittered(images: Tensor, factors: Sequence[Tensor], order: Sequence[int]) -> Tensor:
    """Change brightness, contrast, saturation, hue and gamma (numbers 0 to 4) in an order; a factor [B] for each.

    Args:
        images: [B, C, H, W] in [0, 1]; so is the result.
    """
    for change in order:
        factor = factors[change].view(-1, 1, 1, 1)
        if change == 0:
            images = (factor * images).clamp(0, 1)
        elif change == 1:
            images = torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, factor).clamp(0, 1)
        elif change == 4:
            images = images.clamp(min=1e-8) ** factor
        elif images.shape[1] == 3:
            images = torch.lerp(_grey(images), images, factor).clamp(0, 1) if change == 2 else _turned(images, factor)
    return images


def moved(images: Tensor, angle: Tensor, right: Tensor, down: Tensor, scale: Tensor, sigma: Tensor | None) -> Tensor:
    """Rotate (degrees, clockwise), shift (parts of width and height), scale about the centre, and blur; [B] each.

    Pixels beyond the edge are those of the edge. The blur sees what lies beyond the frame, as when a padded image is
    cropped after it; None leaves it out.
    """
    height, width = images.shape[2:]
    margin = 0 if sigma is None else _MARGIN
    device, dtype = images.device, images.dtype
    rows = torch.arange(-margin, height + margin, device=device, dtype=dtype).view(1, -1, 1) + 0.5 - height / 2
    columns = torch.arange(-margin, width + margin, device=device, dtype=dtype).view(1, 1, -1) + 0.5 - width / 2
    turn = (angle * (math.pi / 180)).view(-1, 1, 1)
    y, x = rows - (down * height).view(-1, 1, 1), columns - (right * width).view(-1, 1, 1)
    cos, sin = turn.cos() / scale.view(-1, 1, 1), turn.sin() / scale.view(-1, 1, 1)
    grid = torch.stack([(cos * x + sin * y) * (2 / width), (cos * y - sin * x) * (2 / height)], 3)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return images if sigma is None else _blurred(images, sigma, height, width)


def _blurred(images: Tensor, sigma: Tensor, height: int, width: int) -> Tensor:
    """A separable Gaussian of 5 pixels, on images with a margin of 2 that it takes away."""
    steps = torch.arange(-_MARGIN, _MARGIN + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (steps / sigma.view(-1, 1)).square()).softmax(1).view(len(images), -1, 1, 1, 1)
    images = sum((kernel[:, k] * images[:, :, k:k + height] for k in range(len(steps))), images.new_zeros(()))
    return sum((kernel[:, k] * images[..., k:k + width] for k in range(len(steps))), images.new_zeros(()))


def _grey(images: Tensor) -> Tensor:
    """Luminance, [B, 1, H, W]."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue).unsqueeze(1)


def _turned(images: Tensor, shift: Tensor) -> Tensor:
    """Colours whose hue (0 to 1 around the circle) is shifted, [B, 3, H, W]; saturation and value stay."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    hue = torch.where(value == red, (green - blue) / safe,
                      torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    hue = hue + 6 * shift.view(-1, 1, 1)
    places = [(n + hue) % 6 for n in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], 1)
