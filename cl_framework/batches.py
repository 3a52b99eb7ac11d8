"""The batches of one `train` call, several at a time, from any position on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from cl_framework.data import Dataset
from cl_framework.observer import Cursor
from cl_framework.seeding import generator
from cl_framework.types import NOT_YET, Batch, Inputs


class Chunks:
    """Chunks of batches over all epochs of one `train` call.

    Each epoch's order comes from (seed, experience, call, epoch), so any position can be taken up again. Rows of a
    chunk are gathered by one `index_select` and split into batches, which are views.

    Args:
        data: the rows.
        cursor: where to begin; it is read when iteration starts.
        n_batches: batches of one chunk.
    """

    def __init__(self, data: Dataset, batch_size: int, epochs: int, seed: int, cursor: Cursor, n_batches: int) -> None:
        self._data, self._size, self._epochs, self._seed = data, batch_size, epochs, seed
        self._cursor, self._per_chunk = cursor, n_batches
        self.steps_per_epoch = math.ceil(len(data) / batch_size)

    @property
    def n_steps(self) -> int:
        """Batches of the whole call."""
        return self._epochs * self.steps_per_epoch

    def __len__(self) -> int:
        """Chunks that remain."""
        per_epoch = math.ceil(self.steps_per_epoch / self._per_chunk)
        rest = math.ceil((self.steps_per_epoch - self._cursor.step) / self._per_chunk)
        return (self._epochs - self._cursor.epoch - 1) * per_epoch + rest

    def order(self, epoch: int) -> torch.Tensor:
        """The order of rows in an epoch, int64 [n]."""
        path = ("order", self._cursor.experience, self._cursor.call, epoch)
        return torch.randperm(len(self._data), generator=generator(self._seed, *path))

    def __iter__(self) -> Iterator[list[Batch]]:
        first_step = self._cursor.step
        for epoch in range(self._cursor.epoch, self._epochs):
            rows = self.order(epoch).to(self._data.device)
            for piece in rows[first_step * self._size:].split(self._size * self._per_chunk):
                yield self._split(self._data.take(piece))
            first_step = 0

    def _split(self, chunk: Batch) -> list[Batch]:
        ys = chunk.y.split(self._size)
        tasks = [None] * len(ys) if chunk.task is None else chunk.task.split(self._size)
        raws: list[Inputs]
        if isinstance(chunk.raw, torch.Tensor):
            raws = list(chunk.raw.split(self._size))
        else:
            columns = {name: value.split(self._size) for name, value in chunk.raw.items()}
            raws = [{name: column[i] for name, column in columns.items()} for i in range(len(ys))]
        return [Batch(raw, NOT_YET, y, task) for raw, y, task in zip(raws, ys, tasks, strict=True)]
