"""Spatter: drops of water (severities 1 to 3) or splashes of mud (4 and 5) on the lens.

Hendrycks and Dietterich, arXiv 1903.12261, appendix B. The outline of a drop, which they find with Canny's detector,
is here the drop's pixels that touch its outside: a drop is at least 0.7 of white on black, far above the thresholds.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ._blur import gaussian
from ._draws import Draws
from ._severities import Values
from ._weather import luminance

_WATER, _MUD = (175, 238, 238), (63, 42, 20)
_EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
_FARTHEST = 20.0


def spatter(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Liquid where normal noise N(c[0], c[1]^2), blurred by c[2], is above c[3]; c[4] is its strength, c[5] mud."""
    height, width = x.shape[2:]
    liquid = gaussian(c[0] + c[1] * draws.normal(1, height, width), c[2])
    liquid = torch.where(liquid < c[3], 0.0, liquid)
    is_mud = bool(c[5])
    colour = torch.tensor(_MUD if is_mud else _WATER, dtype=x.dtype).view(1, 3, 1, 1) / 255
    colour = luminance(colour) if x.shape[1] == 1 else colour
    if is_mud:
        share = gaussian((liquid > c[3]).to(x.dtype), c[4])
        share = torch.where(share < 0.8, 0.0, share)
        return x * (1 - share) + colour * share
    drops = (liquid.clamp(0, 1) * 255).floor()
    light = drops * relief(drops > 0)
    return x + c[4] * light / light.amax((2, 3), keepdim=True).clamp_min(1e-9) * colour


def relief(is_drop: Tensor) -> Tensor:
    """How a drop breaks the light: its distance to the outline, equalised and embossed; [B, 1, H, W], 0 to 255."""
    outside = F.pad((~is_drop).to(torch.float64), (1, 1, 1, 1), value=0.0)
    near = outside[:, :, 1:-1, :-2] + outside[:, :, 1:-1, 2:] + outside[:, :, :-2, 1:-1] + outside[:, :, 2:, 1:-1]
    outline = (is_drop & (near > 0)).numpy()
    apart = 4.0 * max(outline.shape[2:])  # images lie in a row so far apart that no outline is near to another image
    away = ndimage.distance_transform_edt(~outline[:, 0], sampling=(apart, 1.0, 1.0))
    distance = torch.from_numpy(np.asarray(away))[:, None].clamp_max(_FARTHEST)
    equalised = equalise(smooth(distance).floor().to(torch.int64)).to(torch.float64)
    return smooth(taps(equalised, torch.tensor(_EMBOSS, dtype=torch.float64)).clamp(0, 255))


def smooth(x: Tensor) -> Tensor:
    """Means of 3 x 3 pixels."""
    return taps(x, torch.full((3, 3), 1 / 9, dtype=torch.float64))


def taps(x: Tensor, kernel: Tensor) -> Tensor:
    """Images [B, 1, H, W] filtered with a kernel [3, 3]; they are mirrored about their outermost pixels."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    seen = torch.zeros_like(x)
    for row in range(3):
        for column in range(3):
            seen += kernel[row, column] * padded[:, :, row:row + height, column:column + width]
    return seen


def equalise(levels: Tensor) -> Tensor:
    """Each image's grey levels (int64, 0 to 255) spread so that their distribution is even.

    The level v becomes 255 (n(v) - n(lowest)) / (N - n(lowest)), n(v) being the number of pixels of level v or below.
    """
    flat = levels.flatten(1)
    counts = torch.zeros((len(flat), 256), dtype=torch.int64).scatter_add_(1, flat, torch.ones_like(flat))
    below = counts.cumsum(1)
    lowest = below.gather(1, flat.amin(1, keepdim=True))
    n = flat.shape[1]
    table = ((below - lowest).clamp_min(0) * 255 / (n - lowest).clamp_min(1)).round().to(torch.int64)
    table = torch.where(lowest == n, torch.arange(256), table)
    return table.gather(1, flat).view_as(levels)
