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
    {'n': 2, 'hits': {'shape': [2, 2], 'nothing': 0, 'at': tensor([2]), 'values': tensor([7])}}
    """
    return {name: _copied(value) if isinstance(value, Tensor) else value for name, value in state.items()}


class Packer:
    """Packs the counts of one run again and again, with one look at each row, however long the stream.

    >>> packer, hits = Packer(), torch.tensor([[0, 0], [7, 0]])
    >>> packer({"hits": hits}, 1)["hits"]["at"], packer({"hits": hits}, 2)["hits"]["at"]
    (tensor([], dtype=torch.int64), tensor([2]))
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Tensor, Tensor]] = {}

    def __call__(self, tables: Mapping[str, Tensor], n_rows: int) -> dict[str, Any]:
        """As `packed`; a count is 0 where nothing is known, whatever its dtype.

        Args:
            tables: the same in every call.
            n_rows: rows before it will not change any more, the others hold nothing yet.
        """
        return {name: self._copied(name, table, n_rows) for name, table in tables.items()}

    def _copied(self, name: str, table: Tensor, n_rows: int) -> dict[str, Any]:
        seen, at, values = self._known.get(name, (0, torch.arange(0), table[:0].flatten().cpu()))
        more, more_values = _entries(table[seen:n_rows].cpu(), 0)  # counts move to the device of the hits
        at, values = torch.cat([at, more + seen * table.shape[1]]), torch.cat([values, more_values])
        self._known[name] = n_rows, at, values
        return {"shape": list(table.shape), "nothing": 0, "at": at, "values": values}


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
    nothing = _usual(table)
    at, values = _entries(table, nothing)
    return {"shape": list(table.shape), "nothing": nothing, "at": at, "values": values}


def _usual(values: Tensor) -> float:
    return torch.nan if values.is_floating_point() else 0


def _entries(rows: Tensor, nothing: float) -> tuple[Tensor, Tensor]:
    """Where rows hold what is known, and what."""
    flat = rows.flatten()
    known = flat != 0 if nothing == 0 else flat == flat  # NaN differs from itself
    at = torch.from_numpy(np.flatnonzero(known.numpy(force=True))).to(flat.device)  # some times faster than torch's own
    return at, flat[at]


def _table(entries: Mapping[str, Any]) -> Tensor:
    values: Tensor = entries["values"]
    nothing = entries.get("nothing", _usual(values))  # earlier checkpoints do not say
    table = torch.full(entries["shape"], nothing, dtype=values.dtype)
    table.view(-1)[entries["at"]] = values
    return table
