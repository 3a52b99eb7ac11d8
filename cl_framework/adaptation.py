"""How an unlabelled experience is met: each batch is answered, then adapted to, once. Labels reach the tally alone.

The setting is continual test-time adaptation (Wang et al., CVPR 2022, section 3). The calibration error is that of
Guo et al., ICML 2017, equation 3: over bins of confidence, sum_m |B_m| / n |acc(B_m) - conf(B_m)|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import Diverged
from cl_framework.evaluate import answer_online
from cl_framework.models import Model
from cl_framework.observer import Cursor
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, move

_BINS = 15
_CHUNK = 16


class Tally:
    """Counts of the answers given to an experience before they were learned from, on the device of the logits."""

    def __init__(self) -> None:
        self._counts = torch.zeros(3, _BINS, dtype=torch.float64)
        """Answers, hits and summed confidence, by bin of confidence."""

    def add(self, logits: Tensor, y: Tensor) -> Tensor:
        """Count the answers [B, C] to rows with labels [B]; which of them are wrong, bool [B]."""
        self._counts = self._counts.to(logits.device)
        confidence, chosen = logits.float().softmax(1).max(1)
        hits = chosen == y
        bins = (confidence * _BINS).ceil().long().sub(1).clamp(0, _BINS - 1)
        rows = torch.stack([torch.ones_like(confidence), hits.to(confidence), confidence]).double()
        self._counts.index_add_(1, bins, rows)
        return ~hits

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        total, hits, _ = self._counts.sum(1).tolist()
        return float(hits / total)

    @property
    def calibration(self) -> float:
        """Expected calibration error over 15 bins.

        >>> tally = Tally()
        >>> _ = tally.add(torch.tensor([[0.0, 50.0], [50.0, 0.0]]), torch.tensor([1, 1]))  # sure, and right in half
        >>> tally.accuracy, tally.calibration
        (0.5, 0.5)
        """
        total, hits, confidence = self._counts
        return float((hits - confidence).abs().sum() / total.sum())

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"counts": self._counts.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the counts back."""
        self._counts = state["counts"].clone()


def adapt(strategy: Strategy, model: Model, data: Dataset, batch_size: int, cursor: Cursor, tally: Tally,
          on_chunk: Callable[[Sequence[float]], None]) -> None:
    """Meet the rows in their order, from `cursor.step` on; the strategy gets rows and no labels.

    Args:
        cursor: advanced with every batch.
        tally: what counts the answers.
        on_chunk: called after some batches with the share of wrong answers of each, when nothing is in flight.

    Raises:
        Diverged: an answer is not finite.
    """
    n_steps = -(-len(data) // batch_size)
    while cursor.step < n_steps:
        errors, finite = [], []
        for step in range(cursor.step, min(cursor.step + _CHUNK, n_steps)):
            rows = torch.arange(step * batch_size, min((step + 1) * batch_size, len(data)), device=data.device)
            batch = data.take(rows)
            logits = answer_online(strategy, model, Batch(move(batch.raw, model.device), batch.x, batch.y))
            finite.append(logits.isfinite().all())
            errors.append(tally.add(logits, batch.y.to(logits.device)).double().mean())
        if not bool(torch.stack(finite).all()):
            bad = cursor.stream_step + torch.stack(finite).tolist().index(False) + 1
            raise Diverged(f"an answer is not finite at step {bad} of the stream (experience {cursor.experience}); the "
                           "run stops and its last good checkpoint is kept. Try a lower strategy.NAME.lr")
        cursor.step += len(errors)
        cursor.stream_step += len(errors)
        on_chunk(torch.stack(errors).tolist())
