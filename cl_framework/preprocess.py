"""From stored rows to what the network sees: normalise, and augment a whole batch at once while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.types import Inputs


class Preprocess(nn.Module):
    """Normalised float32 rows; in training mode also augmented ones.

    Args:
        mean, std: one number, or one a channel; in units of raw/255 for uint8 rows, of raw otherwise.
        augment: "none", "crop" (zero-pad by 4, random crop) or "crop_flip" (also a horizontal flip); rows must be
            images.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], augment: str = "none") -> None:
        super().__init__()
        self.augment = augment
        self._mean, self._std = tuple(mean), tuple(std)
        self._affine: dict[tuple[float, int, torch.device], tuple[Tensor | float, Tensor | float]] = {}

    def forward(self, raw: Inputs) -> Inputs:
        """Rows as the body takes them, [B, ...] float32; a mapping (text) passes as it is."""
        if not isinstance(raw, Tensor):
            return raw
        if self.training and self.augment != "none":
            raw = crop_flip(raw, flips=self.augment == "crop_flip")
        unit = 255.0 if raw.dtype == torch.uint8 else 1.0
        key = (unit, raw.dim(), raw.device)
        if key not in self._affine:
            self._affine[key] = self._coefficients(*key)
        scale, shift = self._affine[key]
        return raw.to(torch.float32, copy=True).mul_(scale).add_(shift)

    def _coefficients(self, unit: float, n_dims: int, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
        """x = raw * scale + shift: plain numbers where one serves all channels, else [C, 1, ...]."""
        scale = [1.0 / (unit * std) for std in self._std]
        shift = [-mean / std for mean, std in zip(self._mean, self._std, strict=True)]
        if len(scale) == 1:
            return scale[0], shift[0]
        shape = (-1, *([1] * (n_dims - 2)))
        return torch.tensor(scale, device=device).view(shape), torch.tensor(shift, device=device).view(shape)


def crop_flip(images: Tensor, pad: int = 4, *, flips: bool = True) -> Tensor:
    """Shift each image by up to `pad` pixels (zeros come in) and mirror half of them, unless `flips` is false.

    Offsets are uniform on {0, ..., 2 pad} in each direction and independent of the mirroring, as with
    RandomCrop(padding) and RandomHorizontalFlip; one gather for the whole batch.

    Args:
        images: [B, C, H, W], any dtype.
    """
    n, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (pad, pad, pad, pad))
    top = torch.randint(0, 2 * pad + 1, (n, 1), device=device)
    left = torch.randint(0, 2 * pad + 1, (n, 1), device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    if flips:
        is_flipped = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(is_flipped, width - 1 - columns, columns)
    columns = columns + left
    rows = torch.arange(height, device=device) + top
    batch = torch.arange(n, device=device).view(n, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[batch, rows.unsqueeze(2), columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2).contiguous()
