"""Noise: gaussian, shot, impulse and speckle.

With x in [0, 1]: gaussian x + c N(0, 1); shot Poisson(c x) / c; speckle x + c x N(0, 1); impulse replaces a share c of
the values by 0 or 1 alike. Hendrycks and Dietterich, arXiv 1903.12261, appendix B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._draws import Draws
from ._severities import Values


def gaussian_noise(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Images [B, C, H, W] plus normal noise of deviation c[0]."""
    return x + c[0] * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Counts of photons, c[0] of them for a white value."""
    return draws.poisson(x * c[0]) / c[0]


def impulse_noise(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Each value is replaced with probability c[0]; by 0 half of the time, else by 1."""
    where = draws.uniform(*x.shape[1:])
    return torch.where(where < c[0], (where < c[0] / 2).to(x.dtype), x)


def speckle_noise(x: Tensor, c: Values, draws: Draws) -> Tensor:
    """Normal noise of deviation c[0] times the value itself."""
    return x + c[0] * x * draws.normal(*x.shape[1:])
