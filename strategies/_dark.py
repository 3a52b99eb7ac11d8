"""Stored logits: what a model answered when it learned a row, in columns of a fixed width, and the distance to them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def dark_columns(logits: Tensor, n_classes: int) -> dict[str, Tensor]:
    """Logits as columns of a buffer that fit however far the head has grown.

    Args:
        logits: [n, C], C <= n_classes.
        n_classes: the width that is stored.

    Returns:
        `logits`, float32 [n, n_classes], zeros from column C on; `n_valid`, int64 [n], C each.

    >>> {name: column.tolist() for name, column in dark_columns(torch.ones(1, 2), 3).items()}
    {'logits': [[1.0, 1.0, 0.0]], 'n_valid': [2]}
    """
    n, width = logits.shape
    return {"logits": F.pad(logits.detach().float(), (0, n_classes - width)),
            "n_valid": torch.full((n,), width, device=logits.device)}


def dark_loss(logits: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
    """Mean squared difference to stored logits over the classes that were answered for when they were stored.

    Args:
        logits: [n, C] of the same rows; C is at least any row's `n_valid`.
        stored: what `dark_columns` made.

    >>> float(dark_loss(torch.tensor([[2.0, 9.0]]), dark_columns(torch.zeros(1, 1), 3)))
    4.0
    """
    width = logits.shape[1]
    valid = torch.arange(width, device=logits.device) < stored["n_valid"].to(logits.device).unsqueeze(1)
    target = stored["logits"][:, :width].to(logits.device)  # zeros where it is not valid
    return F.mse_loss(logits * valid, target, reduction="sum") / valid.sum()
