"""When rows enter a buffer: after the step that learned them, or once at the end of their experience."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.types import Batch, Inputs, StreamInfo, move

Fill = Literal["auto", "step", "experience"]

_CHUNK = 1024


def fills_by_step(fill: Fill, info: StreamInfo) -> bool:
    """Whether rows enter after each step; `auto` does so where every row is seen once."""
    return info.is_online if fill == "auto" else fill == "step"


def store_incoming(buffer: Buffer, batch: Batch, n: int) -> None:
    """Store the first n rows of a batch: those that arrived, without the ones appended to them."""
    task = None if batch.task is None else batch.task[:n]
    buffer.add(_first(batch.raw, n), batch.y[:n], task)


def store_experience(buffer: Buffer, model: Model, experience: Experience) -> None:
    """Store all training rows of an experience, in their order, on the model's device."""
    device = model.device
    for batch in experience.train.batches(_CHUNK):
        task = None if batch.task is None else batch.task.to(device)
        buffer.add(move(batch.raw, device), batch.y.to(device), task)


def _first(raw: Inputs, n: int) -> Inputs:
    if isinstance(raw, Tensor):
        return raw[:n]
    return {name: rows[:n] for name, rows in raw.items()}
