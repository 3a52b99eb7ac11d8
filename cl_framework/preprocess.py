"""From stored rows to what the network sees: normalise, and augment a whole batch at once while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    RandomCrop(padding) and RandomHorizontalFlip. A shifted image is one run of the padded image's bytes, whose rows are
    longer than wanted: so a batch is copied by one `index_select` of long rows, not pixel by pixel.

    Args:
        images: [B, C, H, W], any dtype.
    """
    n, n_channels, height, width = images.shape
    device = images.device
    high, wide = height + 2 * pad, width + 2 * pad
    run = n_channels * high * wide
    top = torch.randint(0, 2 * pad + 1, (n,), device=device)
    left = torch.randint(0, 2 * pad + 1, (n,), device=device)
    store = images.new_zeros(2 if flips else 1, n, run + 2 * pad * (wide + 1))
    padded = store[:, :, :run].view(len(store), n, n_channels, high, wide)[..., pad:pad + height, pad:pad + width]
    padded[0] = images
    places = torch.arange(n, device=device)
    if flips:
        padded[1] = images.flip(3)
        is_flipped = torch.rand(n, device=device) < 0.5
        places = places + n * is_flipped
        left = torch.where(is_flipped, 2 * pad - left, left)
    runs = store.view(-1).as_strided((max(store.numel() - run + 1, 0), run), (1, 1))
    picked = runs.index_select(0, places * store.shape[2] + top * wide + left)
    return picked.view(n, n_channels, high, wide)[..., :height, :width].contiguous()
