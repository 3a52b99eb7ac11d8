"""Counts of a checkpoint as their entries: a state grows with what was counted, and not with the square of the stream.

A table is [T + 1, T]; after k experiences k (k + 1) / 2 of its entries are known at most, and far fewer where
`train.evaluate_every` leaves most of them out. A count is 0 where nothing is known, whatever its dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Packer:
    """Packs the counts of one run again and again, with one look at each row, however long the stream.

    >>> packer, hits = Packer(), torch.tensor([[0, 0], [7, 0]])
    >>> packer({"hits": hits}, 1)["hits"]["at"], packer({"hits": hits}, 2)["hits"]["at"]
    (tensor([], dtype=torch.int64), tensor([2]))
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Tensor, Tensor]] = {}

    def __call__(self, tables: Mapping[str, Tensor], n_rows: int) -> dict[str, Any]:
        """Each table as its entries, copied.

        Args:
            tables: the same in every call, by name.
            n_rows: rows before it will not change any more, the others hold nothing yet.
        """
        return {name: self._copied(name, table, n_rows) for name, table in tables.items()}

    def _copied(self, name: str, table: Tensor, n_rows: int) -> dict[str, Any]:
        seen, at, values = self._known.get(name, (0, torch.arange(0), table[:0].flatten().cpu()))
        more, more_values = _entries(table[seen:n_rows].cpu())  # counts move to the device of the hits
        at, values = torch.cat([at, more + seen * table.shape[1]]), torch.cat([values, more_values])
        self._known[name] = n_rows, at, values
        return {"shape": list(table.shape), "nothing": 0, "at": at, "values": values}


def unpacked(state: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state that was packed.

    Args:
        state: its tables may be packed or not.
        like: the tables that it is for: of a damaged file none is made that is larger.

    Raises:
        ValueError: a packed table has another shape, or is none of these.
        IndexError: an entry lies outside its table.
        KeyError: a table has lost its entries.
    """
    return {name: _table(name, value, like) if isinstance(value, dict) and "shape" in value else value
            for name, value in state.items()}


def _entries(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows, on the CPU, count something, and how much."""
    flat = rows.flatten()
    at = torch.from_numpy(np.flatnonzero(flat.numpy()))  # some times faster than torch's own
    return at, flat[at]


def _table(name: str, entries: Mapping[str, Any], like: Mapping[str, Tensor]) -> Tensor:
    values: Tensor = entries["values"]
    if name not in like or list(like[name].shape) != entries["shape"]:
        raise ValueError(f"the table {name} has shape {entries['shape']!r}, expected "
                         f"{list(like[name].shape) if name in like else 'no table'}")
    nothing = entries.get("nothing", torch.nan if values.is_floating_point() else 0)  # earlier checkpoints do not say
    table = torch.full(entries["shape"], nothing, dtype=values.dtype)
    table.view(-1)[entries["at"]] = values
    return table
