"""A buffer, the moment when rows enter it (after the step that learned them, or at the end of their experience), and
the way back: stored rows as a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.memory import Buffer, Exemplars
from cl_framework.models import Model
from cl_framework.types import NOT_YET, Batch, Inputs, StreamInfo, concat, move

Fill = Literal["auto", "step", "experience"]

_CHUNK = 1024


class Rehearsal:
    """What strategies that store rows have in common; a member of each.

    Args:
        buffer: where the rows are kept.
        fill: when they enter; `auto` is after each step where every row is seen once.
        info: facts about the stream.

    Attributes:
        n_incoming: how many rows of the present batch arrived; they are its first ones.
    """

    def __init__(self, buffer: Buffer, fill: Fill, info: StreamInfo) -> None:
        self.buffer = buffer
        self.n_incoming = 0
        self._fills_by_step = info.is_online if fill == "auto" else fill == "step"

    def arrive(self, batch: Batch) -> None:
        """Note how many rows arrived; what is appended to them later is not stored."""
        self.n_incoming = len(batch.y)

    def after_step(self, batch: Batch, extra: Mapping[str, Tensor] | None = None) -> None:
        """Store the rows that arrived, with more columns `extra` of as many rows."""
        if self._fills_by_step:
            n = self.n_incoming
            self.buffer.add(_first(batch.raw, n), batch.y[:n], None if batch.task is None else batch.task[:n], extra)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Store all rows of the experience in their order, on the model's device, unless its steps did."""
        if self._fills_by_step:
            return
        device = model.device
        for batch in experience.train.batches(_CHUNK):
            task = None if batch.task is None else batch.task.to(device)
            self.buffer.add(move(batch.raw, device), batch.y.to(device), task)

    def metrics(self) -> dict[str, float]:
        """Bytes of the buffer."""
        return {"memory_bytes": self.buffer.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """The buffer, as plain data."""
        return {"buffer": self.buffer.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.buffer.load_state_dict(state["buffer"], model.device)


def recalled(rows: Exemplars, device: torch.device) -> Batch:
    """Stored rows as a batch on a device, not preprocessed yet."""
    task = None if rows.task is None else rows.task.to(device)
    return Batch(move(rows.raw, device), NOT_YET, rows.y.to(device), task)


def appended(batch: Batch, old: Batch) -> Batch:
    """A batch with the rows of another one behind its own."""
    task = None if batch.task is None or old.task is None else torch.cat([batch.task, old.task])
    return batch._replace(raw=concat(batch.raw, old.raw), y=torch.cat([batch.y, old.y]), task=task)


def _first(raw: Inputs, n: int) -> Inputs:
    if isinstance(raw, Tensor):
        return raw[:n]
    return {name: rows[:n] for name, rows in raw.items()}
