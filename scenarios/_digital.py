"""Digital: brightness, contrast, saturate, elastic transform, pixelate and JPEG compression.

Hendrycks and Dietterich, arXiv 1903.12261, appendix B. Brightness and saturation are V and S of the HSV colours: with
V = max and S = (max - min) / max of a pixel's channels, new channels follow without going through the hue.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ._blur import gaussian
from ._draws import Draws
from ._severities import Values


def brightness(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """V + c[0], at most 1; the colours keep hue and saturation. A grey value is its own V."""
    value = x.amax(1, keepdim=True)
    raised = (value + c[0]).clamp_max(1)
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-9)), raised)


def contrast(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """(x - m) c[0] + m, with m the mean of each channel of each image."""
    mean = (x * 255).round_().sum((2, 3), keepdim=True) / (255 * x.shape[2] * x.shape[3])
    return (x - mean) * c[0] + mean


def saturate(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """S c[0] + c[1], within [0, 1]; a colourless pixel counts as red, as its hue is 0.

    A grey image has no saturation: its values themselves are taken for it, x c[0] + c[1].
    """
    if x.shape[1] == 1:
        return x * c[0] + c[1]
    value = x.amax(1, keepdim=True)
    spread = value - x.amin(1, keepdim=True)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype).view(1, 3, 1, 1)
    shape = torch.where(spread > 0, (value - x) / spread.clamp_min(1e-9), red)
    saturation = (spread / value.clamp_min(1e-9) * c[0] + c[1]).clamp(0, 1)
    return value * (1 - saturation * shape)


def elastic_transform(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """A random affine map, then a random displacement of each pixel; c in shares of the shorter side.

    Three corners of a square in the middle move by at most c[2]; displacements are uniform numbers of [-1, 1) blurred
    with deviation c[1], times c[0].
    """
    height, width = x.shape[2:]
    side = min(height, width)
    centre, half = torch.tensor([width // 2, height // 2], dtype=torch.float64), side // 3
    before = centre + half * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    after = before + draws.uniform(3, 2, low=-c[2] * side, high=c[2] * side)
    back = torch.linalg.solve(torch.cat([after, torch.ones_like(after[..., :1])], 2), before)
    y, across = torch.meshgrid(torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64),
                               indexing="ij")
    places = across[None, ..., None] * back[:, None, None, 0] + y[None, ..., None] * back[:, None, None, 1]
    turned = sample(x, places + back[:, None, None, 2], is_symmetric=False)
    if c[0] == 0:
        return turned
    moves = gaussian(draws.uniform(2, height, width, low=-1.0, high=1.0), c[1] * side, "symmetric", 3.0) * c[0] * side
    return sample(turned, torch.stack([across, y], -1) + moves.permute(0, 2, 3, 1), is_symmetric=True)


def sample(x: Tensor, places: Tensor, is_symmetric: bool) -> Tensor:
    """Bilinear values of images [B, C, H, W] at places (x, y) in pixels, [B, h, w, 2]; outside they are mirrored.

    Mirrored about the border of the outermost pixels when `is_symmetric`, else about their centres.
    """
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype)
    grid = (2 * places + 1) / size - 1 if is_symmetric else 2 * places / (size - 1) - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=not is_symmetric)


def pixelate(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Shrunk to c[0] of its size and enlarged again, both with Pillow's box filter, in whole grey levels."""
    seen = x * 255
    for axis in (3, 2):
        seen = _resized(seen, int(x.shape[axis] * c[0]), axis)
    for axis in (3, 2):
        seen = _resized(seen, x.shape[axis], axis)
    return seen / 255


def _resized(x: Tensor, size: int, axis: int) -> Tensor:
    """One axis as Pillow resizes it: the matrix is its own answer to the unit matrix."""
    unit = Image.fromarray(np.eye(x.shape[axis], dtype=np.float32))
    matrix = torch.from_numpy(np.array(unit.resize((size, x.shape[axis]), Image.Resampling.BOX))).to(x.dtype)
    return torch.floor(x.movedim(axis, -1) @ matrix + 0.5 + 1e-5).movedim(-1, axis)


def jpeg_compression(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Through a JPEG file of quality c[0], as Pillow writes and reads it."""
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
    seen = np.stack([_through_jpeg(image, int(c[0])) for image in pixels]).reshape(len(x), *x.shape[2:], x.shape[1])
    return torch.from_numpy(seen).permute(0, 3, 1, 2).to(x.dtype) / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)
