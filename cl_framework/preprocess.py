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
        augment: "none", or "crop_flip" (zero-pad by 4, random crop, horizontal flip; rows must be images).
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], augment: str = "none") -> None:
        super().__init__()
        self.augment = augment
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, raw: Inputs) -> Inputs:
        """Rows as the body takes them, [B, ...] float32; a mapping (text) passes as it is."""
        if not isinstance(raw, Tensor):
            return raw
        if self.training and self.augment == "crop_flip":
            raw = crop_flip(raw)
        unit = 255.0 if raw.dtype == torch.uint8 else 1.0
        scale, shift = 1.0 / (unit * self.std), -self.mean / self.std
        shape = (-1, *([1] * (raw.dim() - 2)))
        return torch.addcmul(shift.view(shape), raw.to(torch.float32), scale.view(shape))


def crop_flip(images: Tensor, pad: int = 4) -> Tensor:
    """Shift each image by up to `pad` pixels (zeros come in) and mirror half of them.

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
    is_flipped = torch.rand(n, 1, device=device) < 0.5
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(is_flipped, width - 1 - columns, columns) + left
    rows = torch.arange(height, device=device) + top
    batch = torch.arange(n, device=device).view(n, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[batch, rows.unsqueeze(2), columns.unsqueeze(1)]
    return picked.permute(0, 3, 1, 2).contiguous()
