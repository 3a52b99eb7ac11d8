"""Rows that a strategy keeps: a data set with a store of its own, which shares nothing with the experience's."""

from __future__ import annotations

from typing import Any

import torch

from cl_framework.data import Dataset
from cl_framework.types import move


def kept(data: Dataset, device: torch.device) -> Dataset:
    """A copy of the rows on a device."""
    return Dataset(move(data.raw, device), data.y.to(device, copy=True), None,
                   None if data.task is None else data.task.to(device, copy=True))


def joined(data: Dataset, rows: Dataset | None) -> Dataset:
    """The data followed by the kept rows, where the data are."""
    return data if rows is None else Dataset.concat([data, rows.to(data.device)])


def rows_bytes(rows: Dataset | None) -> int:
    """Bytes of rows, labels and task labels."""
    if rows is None:
        return 0
    return rows.n_bytes + rows.y.numel() * rows.y.element_size() * (1 if rows.task is None else 2)


def rows_state(rows: Dataset | None) -> dict[str, Any] | None:
    """A copy of the rows as plain data."""
    return None if rows is None else {"raw": rows.raw, "y": rows.y.clone(), "task": rows.task}


def restored_rows(state: dict[str, Any] | None, device: torch.device) -> Dataset | None:
    """The rows that `rows_state` described."""
    return None if state is None else kept(Dataset(state["raw"], state["y"], None, state["task"]), device)
