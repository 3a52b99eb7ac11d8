"""Resident data: one store of contiguous tensors, experiences as rows of it, a batch as one `index_select`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from cl_framework.types import NOT_YET, Batch, Inputs, Setting, concat, move, n_bytes, n_rows, select

Views = Callable[[Inputs, Tensor], Inputs]
"""Fixed ways of looking at stored rows, e.g. one permutation of pixels for each experience: maps stored rows [B, ...]
and the number of the view of each, int64 [B], to the rows as they are seen. Same rows, same views, same answer."""


class Dataset:
    """Some rows of a resident store.

    Args:
        raw: the store, [N, ...]; shared between data sets and never copied.
        y: labels of the chosen rows, int64 [n].
        rows: which rows of the store, int64 [n]; all of them, without an index, when None.
        task: the task label of each chosen row, int64 [n], or None where none is given.
        views: how stored rows are seen; as they are when None.
        view: the number of the view of each chosen row, int64 [n]; goes with `views`.

    >>> data = Dataset(torch.arange(6).view(3, 2), torch.tensor([0, 1, 0]))
    >>> len(data), data.take(torch.tensor([2])).raw
    (3, tensor([[4, 5]]))
    """

    def __init__(self, raw: Inputs, y: Tensor, rows: Tensor | None = None, task: Tensor | None = None,
                 views: Views | None = None, view: Tensor | None = None) -> None:
        self._raw = raw
        self._rows = rows
        n = n_rows(raw) if rows is None else len(rows)
        if n != len(y):
            raise ValueError(f"expected a label for each of {n} rows, got {len(y)} labels")
        if (views is None) != (view is None):
            raise ValueError("views and the view of each row go together; give both or neither")
        self.y = y
        self.task = task
        self._views, self._view = views, view

    def __len__(self) -> int:
        return len(self.y)

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.y.device

    @property
    def raw(self) -> Inputs:
        """A copy of the rows, [n, ...]."""
        return self._seen(self._places, self._view)

    @property
    def _places(self) -> Tensor:
        """Which rows of the store, int64 [n]."""
        return torch.arange(len(self), device=self.device) if self._rows is None else self._rows

    def _seen(self, rows: Tensor, view: Tensor | None) -> Inputs:
        stored = select(self._raw, rows)
        return stored if self._views is None or view is None else self._views(stored, view)

    @property
    def n_bytes(self) -> int:
        """Bytes that a copy of the rows would hold."""
        one = next(self.batches(1), None)
        return 0 if one is None else n_bytes(one.raw) * len(self)

    def take(self, positions: Tensor) -> Batch:
        """The rows at `positions` (int64, 0 <= p < len(self)) as a batch whose `x` is not filled in yet."""
        task = None if self.task is None else self.task.index_select(0, positions)
        view = None if self._view is None else self._view.index_select(0, positions)
        raw = self._seen(positions if self._rows is None else self._rows.index_select(0, positions), view)
        return Batch(raw, NOT_YET, self.y.index_select(0, positions), task)

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in their order, `size` at a time; the last batch may be short."""
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self)), device=self.device))

    def subset(self, positions: Tensor) -> Dataset:
        """A data set of the rows at `positions`; the store is shared."""
        return self._with(self._raw, positions if self._rows is None else self._rows[positions], self.y[positions],
                          *(None if column is None else column[positions] for column in (self.task, self._view)))

    def to(self, device: torch.device) -> Dataset:
        """The same rows with their store on `device`; itself when it is there already."""
        return self if self.device == device else self._on(device, move(self._raw, device))

    def sharing(self, other: Dataset) -> Dataset:
        """The same rows read from the store of `other`, which must hold the same values (after a move)."""
        return self._on(other.device, other._raw)

    def _on(self, device: torch.device, raw: Inputs) -> Dataset:
        return self._with(raw, None if self._rows is None else self._rows.to(device), self.y.to(device),
                          *(None if column is None else column.to(device) for column in (self.task, self._view)))

    def _with(self, raw: Inputs, rows: Tensor | None, y: Tensor, task: Tensor | None, view: Tensor | None) -> Dataset:
        return Dataset(raw, y, rows, task, self._views, view)

    @property
    def store_bytes(self) -> int:
        """Bytes of the whole store that the rows are read from."""
        return n_bytes(self._raw)

    def store_id(self) -> int:
        """Equal for data sets that share a store."""
        return id(self._raw)

    def place(self) -> tuple[object, ...]:
        """Equal for data sets that see the same rows of one store in the same way, in whatever order."""
        seen = () if self._view is None else (id(self._views), self._view.sort().values.numpy(force=True).tobytes())
        return self.store_id(), self._places.sort().values.numpy(force=True).tobytes(), *seen

    @staticmethod
    def concat(parts: Sequence[Dataset]) -> Dataset:
        """The rows of several data sets, in order. Data sets of one store and one set of views share them; others are
        copied once, as they are seen."""
        first = parts[0]
        y = torch.cat([part.y for part in parts])
        task = _joined([part.task for part in parts])
        if all(part._raw is first._raw and part._views is first._views for part in parts):
            return first._with(first._raw, torch.cat([part._places for part in parts]), y, task,
                               _joined([part._view for part in parts]))
        raw = first.raw
        for part in parts[1:]:
            raw = concat(raw, part.raw)
        return Dataset(raw, y, None, task)


def _joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    """The columns in a row; None unless every part has one."""
    given = [column for column in columns if column is not None]
    return torch.cat(given) if len(given) == len(columns) else None


class Asked(Protocol):
    """Whom a test set asks: a strategy with its model, in evaluation mode and without gradients."""

    def prepared(self, batch: Batch) -> Batch:
        """The batch where the model is, with `x` as the model sees it."""

    def logits(self, batch: Batch) -> Tensor:
        """The strategy's logits for a batch; one that is prepared is not prepared again."""

    def replies(self, prompts: Sequence[str]) -> list[str]:
        """The strategy's texts, one for each prompt; the same prompt may occur several times."""


class Measured(NamedTuple):
    """What some answers to held-out rows were worth.

    Attributes:
        hits: how right each of n answers is: bool, or of [0, 1] and float64, [n].
        task_hits: the same with the answer picked among the experience's classes, [n].
        is_finite: whether all of them could be computed, a bool scalar.
        losses: -log p of each of m tokens of the right texts, in nats, [m]; None where nothing has tokens.
    """

    hits: Tensor
    task_hits: Tensor
    is_finite: Tensor
    losses: Tensor | None = None


@dataclass(frozen=True, eq=False)
class TestSet:
    """Held-out rows of one experience. It measures a strategy's answers; no strategy ever holds one.

    Rows with labels are measured as they are here; another kind of rows has a class of its own.

    Attributes:
        data: the rows.
        classes: labels that occur in the experience.
        setting: in the task-incremental setting the answer is picked among `classes` alone.
    """

    __test__ = False
    n_at_once: ClassVar[int] = 1024
    """Rows whose logits are held at once."""

    data: Dataset
    classes: tuple[int, ...]
    setting: Setting = Setting.CLASS

    @property
    def chance(self) -> float | None:
        """What guessing gets; None where it follows from the classes."""
        return None

    def measure(self, asked: Asked) -> Iterator[Measured]:
        """Ask for an answer to every row, some rows at a time."""
        for batch in self.data.batches(self.n_at_once):
            logits = asked.logits(batch)
            hits, task_hits = self.score(logits, batch.y.to(logits.device))
            yield Measured(hits, task_hits, logits.amax(1).isfinite().all())

    def score(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows are answered rightly.

        Args:
            logits: [B, classes seen].
            y: [B].

        Returns:
            Two bool tensors [B]: by the scenario's own rule, and with the logits restricted to the
            experience's classes (task-incremental accuracy, from the same logits).
        """
        known = [label for label in self.classes if label < logits.shape[1]]
        if not known:
            missed = torch.zeros_like(y, dtype=torch.bool)
            return logits.argmax(1) == y, missed
        allowed = torch.tensor(known, device=logits.device)
        within = allowed[logits.index_select(1, allowed).argmax(1)] == y
        if self.setting is Setting.TASK:
            return within, within
        return logits.argmax(1) == y, within
