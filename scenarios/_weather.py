"""Weather: snow, frost and fog.

Hendrycks and Dietterich, arXiv 1903.12261, appendix B. Their frost overlays photographs of frosted windows; here a
procedural texture takes their place: needles along the three axes of ice over a cloudy ground, with the brightness,
the colour cast and the deviation that crops of those photographs have. Fog is the diamond-square fractal: Fournier,
Fussell and Carpenter, Computer rendering of stochastic models, CACM 1982.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._blur import clipped_zoom, motion
from ._draws import Draws
from ._severities import Values

_LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
_CAST = torch.tensor([-0.07, 0.01, 0.06], dtype=torch.float64).view(1, 3, 1, 1)
_LEVELS, _DEVIATION = (0.5, 0.8), 0.06
_NEEDLES, _NEEDLE_LENGTH, _NEEDLE_SHARE = 3, 6.0, 0.97


def luminance(x: Tensor) -> Tensor:
    """What a grey camera sees of images [B, C, H, W], [B, 1, H, W]."""
    return x if x.shape[1] == 1 else (x * _LUMINANCE).sum(1, keepdim=True)


def snow(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Flakes that fall: normal noise N(c[0], c[1]^2), enlarged by c[2], cut at c[3], smeared by (c[4], c[5]).

    They are added as they are and turned by half, over an image that is whitened by 1 - c[6].
    """
    height, width = x.shape[2:]
    flakes = clipped_zoom(c[0] + c[1] * draws.normal(1, height, width), c[2])
    flakes = torch.where(flakes < c[3], 0.0, flakes).clamp(0, 1)
    flakes = motion(flakes, c[4], c[5], draws.uniform(low=-135.0, high=-45.0))
    whitened = c[6] * x + (1 - c[6]) * torch.maximum(x, luminance(x) * 1.5 + 0.5)
    return whitened + flakes + flakes.rot90(2, (2, 3))


def fog(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """A cloud of strength c[0], whose roughness falls by c[1] with each halving; the brightest value is kept."""
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + c[0] * plasma(draws, x.shape[2], x.shape[3], c[1])) * brightest / (brightest + c[0]).clamp_min(1e-9)


def plasma(draws: Draws, height: int, width: int, decay: float) -> Tensor:
    """Height maps of the diamond-square algorithm on a torus, scaled to 0 ... 1 and cropped, [B, 1, height, width]."""
    size = 1 << (max(height, width) - 1).bit_length()
    cloud = torch.zeros((len(draws), size, size), dtype=torch.float64)
    wobble, step = 100.0, size
    while step >= 2:
        half, n = step // 2, size // step

        def middle(of_four: Tensor, wobble: float = wobble, n: int = n) -> Tensor:
            return of_four / 4 + wobble * draws.uniform(n, n, low=-wobble, high=wobble)

        corners = cloud[:, ::step, ::step]
        pairs = corners + corners.roll(-1, 1)
        cloud[:, half::step, half::step] = middle(pairs + pairs.roll(-1, 2))
        squares = cloud[:, half::step, half::step]
        cloud[:, ::step, half::step] = middle(squares + squares.roll(1, 1) + corners + corners.roll(-1, 2))
        cloud[:, half::step, ::step] = middle(squares + squares.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wobble = half, wobble / decay
    low, high = cloud.amin((1, 2), keepdim=True), cloud.amax((1, 2), keepdim=True)
    return ((cloud - low) / (high - low))[:, None, :height, :width]


def frost(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """c[0] times the image plus c[1] times a frosted window."""
    return c[0] * x + c[1] * window(draws, x)


def window(draws: Draws, x: Tensor) -> Tensor:
    """Frost of the size of the images and with as many channels, [B, C, H, W]."""
    height, width = x.shape[2:]
    texture = plasma(draws, height, width, 2.0)
    first = draws.uniform(low=0.0, high=180.0)
    for axis in range(_NEEDLES):
        seeds = (draws.uniform(1, height, width) > _NEEDLE_SHARE).to(x.dtype)
        texture = texture + motion(seeds, _NEEDLE_LENGTH * 2, _NEEDLE_LENGTH, first + axis * 60) * _NEEDLE_LENGTH
    mean = texture.mean((2, 3), keepdim=True)
    deviation = (texture - mean).square().mean((2, 3), keepdim=True).sqrt()
    level = draws.uniform(1, 1, 1, low=_LEVELS[0], high=_LEVELS[1])
    grey = level + _DEVIATION * (texture - mean) / deviation
    return grey if x.shape[1] == 1 else grey + _CAST
