"""Tables of a checkpoint as their entries: a state grows with what was measured, and not with the square of the stream.

A table is [T, T]; after k experiences k (k + 1) / 2 of its entries are known at most, and far fewer where
`train.evaluate_every` leaves most of them out. What is not known is NaN, of a count 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with the entries of its tables instead of the tables; tensors are copied, all else is as it was.

    >>> packed({"n": 2, "hits": torch.tensor([[0, 0], [7, 0]])})
    {'n': 2, 'hits': {'shape': [2, 2], 'at': tensor([2]), 'values': tensor([7])}}
    """
    return {name: _copied(value) if isinstance(value, Tensor) else value for name, value in state.items()}


def unpacked(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state that was packed.

    Raises:
        IndexError: an entry lies outside its table.
        KeyError: a table has lost its entries.
    """
    return {name: _table(value) if isinstance(value, dict) and "shape" in value else value
            for name, value in state.items()}


def _copied(table: Tensor) -> Tensor | dict[str, Any]:
    if table.dim() != 2:
        return table.clone()
    flat = table.flatten()
    known = flat == flat if flat.is_floating_point() else flat != 0  # NaN differs from itself
    at = torch.from_numpy(np.flatnonzero(known.numpy(force=True))).to(flat.device)  # some times faster than torch's own
    return {"shape": list(table.shape), "at": at, "values": flat[at]}


def _table(entries: Mapping[str, Any]) -> Tensor:
    values: Tensor = entries["values"]
    nothing = torch.nan if values.is_floating_point() else 0
    table = torch.full(entries["shape"], nothing, dtype=values.dtype)
    table.view(-1)[entries["at"]] = values
    return table
