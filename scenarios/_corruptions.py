"""The 15 common corruptions of images and the four hold-outs, at severities 1 to 5, batched.

They follow the published definitions, for images of any size and one or three channels. Differences to the published
files: values are rounded, not cut, to whole grey levels; frost is procedural; the outlines of drops of water are found
without Canny's detector; motion blur and warps do without the rounding inside ImageMagick and OpenCV. Data that is made
here is never called CIFAR-10-C.

Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019,
arXiv 1903.12261.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cl_framework import ConfigError

from . import _blur, _digital, _noise, _spatter, _weather
from ._draws import Draws
from ._severities import Values, values

Corruption = Callable[[Tensor, Values, Draws], Tensor]
"""From images in [0, 1], float64 [B, C, H, W], the numbers of a severity, and random numbers to corrupted images."""

_FUNCTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": _noise.gaussian_noise, "shot_noise": _noise.shot_noise, "impulse_noise": _noise.impulse_noise,
    "defocus_blur": _blur.defocus_blur, "glass_blur": _blur.glass_blur, "motion_blur": _blur.motion_blur,
    "zoom_blur": _blur.zoom_blur, "snow": _weather.snow, "frost": _weather.frost, "fog": _weather.fog,
    "brightness": _digital.brightness, "contrast": _digital.contrast,
    "elastic_transform": _digital.elastic_transform, "pixelate": _digital.pixelate,
    "jpeg_compression": _digital.jpeg_compression, "speckle_noise": _noise.speckle_noise,
    "gaussian_blur": _blur.gaussian_blur, "spatter": _spatter.spatter, "saturate": _digital.saturate}

RECIPE = "1"
"""Counts up when a corruption changes: what was kept of earlier ones is made anew."""
_BLOCK = 1 << 20
"""Values that are corrupted together: bounds what intermediate results hold."""
_SMALLEST = 8


def corrupt(images: Tensor, name: str, severity: int, seed: int = 0, first_index: int = 0) -> Tensor:
    """Corrupted copies of images.

    What becomes of an image follows from (seed, corruption, severity, index of the image) alone: a part of a data set
    gets the same pixels as in the whole.

    Args:
        images: uint8 [N, C, H, W] with 1 or 3 channels and sides of at least 8 pixels.
        name: of the corruption, e.g. "gaussian_noise".
        severity: 1 to 5.
        seed: decides the random numbers.
        first_index: index of the first image in its data set.

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ConfigError: there is no such corruption or severity, or the images are of another kind.

    >>> corrupt(torch.full((1, 1, 8, 8), 100, dtype=torch.uint8), "brightness", 1).unique()
    tensor([113], dtype=torch.uint8)
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ConfigError(f"only uint8 images [N, C, H, W] of 1 or 3 channels can be corrupted, not {images.dtype} of "
                          f"shape {tuple(images.shape)}")
    side = min(images.shape[2:])
    if side < _SMALLEST:
        raise ConfigError(f"images of {images.shape[2]}x{images.shape[3]} pixels are too small to be corrupted; at "
                          f"least {_SMALLEST}x{_SMALLEST} are needed")
    numbers = values(name, severity, side)
    function = _FUNCTIONS[name]
    seen = torch.empty(images.shape, dtype=torch.uint8)
    n_rows = max(_BLOCK // images.shape[1:].numel(), 1)
    for start in range(0, len(images), n_rows):
        rows = images[start:start + n_rows]
        draws = Draws(seed, ("corruption", name, severity), first_index + start, len(rows))
        block = function(rows.to(torch.float64) / 255, numbers, draws)
        seen[start:start + n_rows] = (block.clamp_(0, 1) * 255).round_().to(torch.uint8)
    return seen
