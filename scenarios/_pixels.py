"""Ways of looking at stored images: permuted, rotated, shrunk, padded. Only rows that are asked for are copied.

Literature: Goodfellow et al., An empirical investigation of catastrophic forgetting in gradient-based neural networks,
arXiv 1312.6211 (permuted pixels); Lopez-Paz and Ranzato, Gradient episodic memory, NeurIPS 2017 (rotations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.types import Inputs

_BLOCK = 1024
"""Rows that are looked at together: bounds what the gathers hold."""


class PixelMap:
    """Every seen pixel is a weighted sum of K stored ones, the same for all channels; one map for each view.

    Args:
        index: positions of the stored pixels in row-major order, int64 [V, K, P].
        weights: float32 [V, K, P]; None where K = 1 and pixels are only moved. Integer rows are rounded.
        shape: height and width of a seen image, of P pixels in all.

    >>> mirrored = PixelMap(torch.tensor([[[1, 0]]]), None, (1, 2))
    >>> mirrored(torch.tensor([[[[7, 9]]]]), torch.tensor([0]))
    tensor([[[[9, 7]]]])
    """

    def __init__(self, index: Tensor, weights: Tensor | None, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._tables = {index.device: (index, weights)}

    def __call__(self, rows: Inputs, view: Tensor) -> Tensor:
        """Rows [B, C, H, W] as they are seen: those of view v by map v, [B, C, *shape]."""
        assert isinstance(rows, Tensor)
        index, weights = self._on(rows.device)
        stored = rows.flatten(2)
        seen = rows.new_empty((*stored.shape[:2], index.shape[2]))
        if view.device.type == "cpu" and bool((view == view[:1]).all()):  # an accelerator would have to be waited for
            view = view[:1]
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            chosen = view if len(view) == 1 else view[block]
            seen[block] = _look(stored[block], index[chosen], None if weights is None else weights[chosen])
        return seen.view(*seen.shape[:2], *self.shape)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        if device not in self._tables:
            index, weights = next(iter(self._tables.values()))
            self._tables[device] = (index.to(device), None if weights is None else weights.to(device))
        return self._tables[device]


def _look(stored: Tensor, index: Tensor, weights: Tensor | None) -> Tensor:
    """Stored pixels [B, C, Q] through the maps [B or 1, K, P]."""
    n, channels = stored.shape[:2]
    if weights is None:
        return _tap(stored, index[:, 0], n, channels)
    values = stored if stored.is_floating_point() else stored.to(torch.float32)
    seen = torch.zeros((n, channels, index.shape[2]), dtype=values.dtype, device=stored.device)
    for tap in range(index.shape[1]):
        seen.addcmul_(_tap(values, index[:, tap], n, channels), weights[:, tap].unsqueeze(1).to(values.dtype))
    return seen if stored.is_floating_point() else seen.round_().to(stored.dtype)


def _tap(stored: Tensor, index: Tensor, n: int, channels: int) -> Tensor:
    """One stored pixel for each seen one, [B, C, P]."""
    if len(index) == 1:
        return stored.index_select(2, index[0])
    return stored.gather(2, index.unsqueeze(1).expand(n, channels, -1))


def permutations(orders: Sequence[Tensor], shape: tuple[int, int]) -> PixelMap:
    """Seen pixel p is the stored pixel orders[v][p].

    >>> permutations([torch.tensor([2, 0, 1])], (1, 3))(torch.tensor([[[[5, 6, 7]]]]), torch.tensor([0]))
    tensor([[[[7, 5, 6]]]])
    """
    return PixelMap(torch.stack(list(orders)).unsqueeze(1), None, shape)


def rotations(degrees: Sequence[float], shape: tuple[int, int]) -> PixelMap:
    """Turn counter-clockwise about the image's centre, bilinear, zeros outside; the size stays.

    >>> rotations([90.0], (2, 2))(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([0]))
    tensor([[[[2, 4],
              [1, 3]]]])
    """
    height, width = shape
    y, x = torch.meshgrid(torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
                          torch.arange(width, dtype=torch.float64) - (width - 1) / 2, indexing="ij")
    index, weights = [], []
    for angle in degrees:
        sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
        from_y = (y * cosine + x * sine + (height - 1) / 2).flatten()
        from_x = (x * cosine - y * sine + (width - 1) / 2).flatten()
        taps = [_corner(from_y, from_x, down, right, shape) for down in (0, 1) for right in (0, 1)]
        index.append(torch.stack([tap[0] for tap in taps]))
        weights.append(torch.stack([tap[1] for tap in taps]))
    return PixelMap(torch.stack(index), torch.stack(weights), shape)


def _corner(y: Tensor, x: Tensor, down: int, right: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """One of the four stored pixels around each point: its position, and its weight (0 outside the image)."""
    top, left = y.floor(), x.floor()
    weight = (1 - (y - top - down).abs()) * (1 - (x - left - right).abs())
    row, column = top.to(torch.int64) + down, left.to(torch.int64) + right
    is_inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    position = row.clamp(0, shape[0] - 1) * shape[1] + column.clamp(0, shape[1] - 1)
    return position, torch.where(is_inside, weight, 0).to(torch.float32)


def means_of_squares(factor: int, shape: tuple[int, int]) -> PixelMap:
    """Shrink: every seen pixel is the mean of a square of `factor` x `factor` stored ones; both sides must divide.

    >>> means_of_squares(2, (2, 2))(torch.tensor([[[[1, 2], [3, 6]]]]), torch.tensor([0]))
    tensor([[[[3]]]])
    """
    height, width = shape[0] // factor, shape[1] // factor
    positions = torch.arange(shape[0] * shape[1]).view(height, factor, width, factor)
    index = positions.permute(1, 3, 0, 2).reshape(1, factor * factor, height * width)
    return PixelMap(index, torch.full(index.shape, 1 / factor**2), (height, width))


@dataclass(frozen=True)
class Padded:
    """Zero pixels on each side.

    >>> Padded(1)(torch.tensor([[[[7]]]]), torch.tensor([0])).flatten().tolist()
    [0, 0, 0, 0, 7, 0, 0, 0, 0]
    """

    pixels: int

    def __call__(self, rows: Inputs, view: Tensor) -> Tensor:
        """Rows [B, C, H, W] as [B, C, H + 2 pixels, W + 2 pixels]."""
        assert isinstance(rows, Tensor)
        return F.pad(rows, (self.pixels,) * 4)

    def moments(self, mean: Sequence[float], std: Sequence[float],
                shape: tuple[int, int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of padded images, given those of the images and their height and width.

        With r the share of the images in the area: m' = r m and s'^2 = r (s^2 + m^2) - m'^2.

        >>> Padded(1).moments([0.5], [0.0], (2, 2))
        ((0.125,), (0.21650635094610965,))
        """
        share = shape[0] * shape[1] / ((shape[0] + 2 * self.pixels) * (shape[1] + 2 * self.pixels))
        means = tuple(share * m for m in mean)
        return means, tuple(math.sqrt(share * (s**2 + m**2) - (share * m) ** 2)
                            for m, s in zip(mean, std, strict=True))
