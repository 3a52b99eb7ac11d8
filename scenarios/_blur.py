"""Blur: gaussian, defocus, glass, motion and zoom, and the filters that other corruptions share.

Hendrycks and Dietterich, arXiv 1903.12261, appendix B. Motion blur follows ImageMagick's one-sided kernel: tap i has
the weight exp(-i^2 / (2 sigma^2)) and lies i pixels along the direction.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ._draws import Draws
from ._severities import Values


def gaussian_matrix(size: int, sigma: float, mode: Literal["edge", "symmetric"] = "edge",
                    truncate: float = 4.0) -> Tensor:
    """A line of `size` pixels times this matrix [size, size] is blurred; outside it goes on as numpy's `pad` does.

    >>> gaussian_matrix(3, 1.0).sum(0)
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    source = np.pad(np.arange(size), radius, mode=mode)
    matrix = np.zeros((size, size))
    for at in range(size):
        np.add.at(matrix[:, at], source[at:at + 2 * radius + 1], weights / weights.sum())
    return torch.from_numpy(matrix)


def gaussian(x: Tensor, sigma: float, mode: Literal["edge", "symmetric"] = "edge", truncate: float = 4.0) -> Tensor:
    """Images [B, C, H, W] blurred along both axes."""
    down = gaussian_matrix(x.shape[2], sigma, mode, truncate)
    across = gaussian_matrix(x.shape[3], sigma, mode, truncate)
    return along_both(x, down.T, across.T)


def along_both(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Each image [H, W] as `down` [h, H] times it times `across` [w, W] transposed; image by image, [B, C, h, w]."""
    flat = x.reshape(-1, *x.shape[2:])
    n = len(flat)
    seen = torch.bmm(torch.bmm(down.expand(n, -1, -1), flat), across.T.expand(n, -1, -1))
    return seen.view(*x.shape[:2], *seen.shape[1:])


def gaussian_blur(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """A gaussian of deviation c[0], cut off at four of them."""
    return gaussian(x, c[0])


def disk(radius: float, alias_blur: float) -> Tensor:
    """The disk of a lens out of focus, its edge softened by a gaussian of 3 (above radius 8: 5) pixels, [K, K].

    >>> round(disk(1.5, 0.1).sum().item(), 6)
    1.0
    """
    edge = 1 if radius <= 8 else 2
    half = int(radius) + edge
    y, x = np.mgrid[-half:half + 1, -half:half + 1]
    hard = (x**2 + y**2 <= radius**2).astype(float)
    soft = np.exp(-0.5 * (np.arange(-edge, edge + 1) / alias_blur) ** 2)
    soft /= soft.sum()
    for axis in (0, 1):
        hard = np.apply_along_axis(np.convolve, axis, hard, soft, "same")
    return torch.from_numpy(hard / hard.sum())


def defocus_blur(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """A disk of radius c[0] softened by c[1]; the image is mirrored about its outermost pixels."""
    kernel = disk(c[0], c[1])
    half = len(kernel) // 2
    height, width = x.shape[2:]
    rows, columns = (torch.from_numpy(np.pad(np.arange(size), half, mode="reflect")) for size in (height, width))
    padded = x[:, :, rows][..., columns]
    seen = torch.zeros_like(x)
    for row, column in torch.nonzero(kernel).tolist():
        seen += kernel[row, column] * padded[:, :, row:row + height, column:column + width]
    return seen


def glass_blur(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Blur by c[0], give each pixel the colour of one at most c[1] away, c[2] times over, and blur again.

    The pixels are visited from the last to the first, one after the other. The publication speaks of swaps; its script
    assigns one view of an array to another, which copies, and the published files are made that way.
    """
    delta, rounds = int(c[1]), int(c[2])
    height, width = x.shape[2:]
    order = np.tile(np.arange(height * width), (len(x), 1))
    every = np.arange(len(x))
    ys, xs = range(height - delta, delta, -1), range(width - delta, delta, -1)
    for _ in range(rounds):
        moves = draws.integers(-delta, delta, 2, len(ys) * len(xs)).numpy()
        offsets = (moves[:, 0] * width + moves[:, 1]).T
        for step, at in enumerate(y * width + x for y in ys for x in xs):
            order[:, at] = order[every, at + offsets[step]]
    moved = gaussian(x, c[0]).flatten(2).gather(2, torch.from_numpy(order)[:, None].expand(-1, x.shape[1], -1))
    return gaussian(moved.view_as(x), c[0])


def motion(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Images smeared in the direction of their angle [B], clockwise from the right; edges go on outside."""
    n_taps = 2 * math.ceil(radius) + 1
    weights = torch.exp(-0.5 * (torch.arange(n_taps, dtype=torch.float64) / sigma) ** 2)
    weights /= weights.sum()
    height, width = x.shape[2:]
    angle = torch.deg2rad(degrees)
    flat, seen = x.flatten(2), torch.zeros_like(x)
    for tap, weight in enumerate(weights.tolist()):
        right, down = ((torch.ceil(tap * part - 0.5)).to(torch.int64) for part in (angle.cos(), angle.sin()))
        rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)
        index = (rows[:, :, None] * width + columns[:, None]).flatten(1)
        seen += weight * flat.gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return seen


def motion_blur(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Smeared over c[0] pixels with deviation c[1], in a direction at most 45 degrees from the horizontal."""
    return motion(x, c[0], c[1], draws.uniform(low=-45.0, high=45.0))


def clipped_zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of each image enlarged bilinearly to its size, corners on corners."""
    kept = [math.ceil(size / factor) for size in x.shape[2:]]
    top, left = ((size - keep) // 2 for size, keep in zip(x.shape[2:], kept, strict=True))
    middle = x[:, :, top:top + kept[0], left:left + kept[1]]
    grown = F.interpolate(middle, size=[round(keep * factor) for keep in kept], mode="bilinear", align_corners=True)
    top, left = ((large - size) // 2 for large, size in zip(grown.shape[2:], x.shape[2:], strict=True))
    return grown[:, :, top:top + x.shape[2], left:left + x.shape[3]]


def zoom_blur(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """The mean of the image and of its c[0] enlargements by 1, 1.01, 1.02, ..."""
    n = int(c[0])
    total = x.clone()
    for step in range(n):
        total += clipped_zoom(x, 1 + step / 100)
    return total / (n + 1)
