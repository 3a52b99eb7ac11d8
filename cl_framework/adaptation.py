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
from cl_framework.evaluate import answer, answer_online
from cl_framework.models import Model
from cl_framework.nonfinite import Skips, Snapshot
from cl_framework.observer import Cursor
from cl_framework.registry import plugins
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, move

_BINS = 15
_CHUNK = 16
_EXPLOSION = 1e6
"""A weight this many times as large as any that the model began with has diverged, finite or not."""


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


def largest_weight(model: Model) -> Tensor:
    """The largest |weight|, a scalar on the device of the model; NaN where a weight is."""
    norms = torch._foreach_norm([value.detach() for value in model.parameters() if value.numel()], torch.inf)
    return torch.stack([value.float() for value in norms]).max() if norms else torch.zeros(())


def weight_limit(model: Model) -> float:
    """What no |weight| of a model may exceed that begins with these weights."""
    return _EXPLOSION * max(1.0, largest_weight(model).item())


def adapt(strategy: Strategy, model: Model, data: Dataset, batch_size: int, cursor: Cursor, tally: Tally, limit: float,
          on_chunk: Callable[[Sequence[float]], None], skips: Skips | None = None) -> None:
    """Meet the rows in their order, from `cursor.step` on; the strategy gets rows and no labels.

    Args:
        cursor: advanced with every batch.
        tally: what counts the answers.
        limit: of the largest |weight|, see `weight_limit`.
        on_chunk: called after some batches with the share of wrong answers of each, when nothing is in flight.
        skips: where batches are noted that are answered and not adapted to, as that would diverge; None stops there.

    Raises:
        Diverged: an answer is not finite, or the weights exploded.
    """
    n_steps = -(-len(data) // batch_size)
    while cursor.step < n_steps:
        steps, left_out = range(cursor.step, min(cursor.step + _CHUNK, n_steps)), set[int]()
        before = None if skips is None else (Snapshot(model, strategy, None, cursor), tally.state_dict())
        while True:
            errors, finite, largest = [], [], []
            for step in steps:
                rows = torch.arange(step * batch_size, min((step + 1) * batch_size, len(data)), device=data.device)
                batch = data.take(rows)
                batch = Batch(move(batch.raw, model.device), batch.x, batch.y)
                logits = (answer if step in left_out else answer_online)(strategy, model, batch)
                finite.append(logits.isfinite().all())
                errors.append(tally.add(logits, batch.y.to(logits.device)).double().mean())
                largest.append(largest_weight(model))
            is_answered, is_bounded = torch.stack(finite), torch.stack(largest) <= limit
            if bool((is_answered & is_bounded).all()):
                break
            worst = (is_answered & is_bounded).tolist().index(False)
            if skips is None or before is None or steps[worst] in left_out:
                what = _what_diverged(is_answered.tolist(), is_bounded.tolist(), cursor)
                raise Diverged(f"{what}; the run stops and its last good checkpoint is kept. Try "
                               f"{lower_rate(strategy)}")
            before[0].put_back()
            tally.load_state_dict(before[1])
            what = _what_diverged(is_answered[: worst + 1].tolist(), is_bounded[: worst + 1].tolist(), cursor)
            skips.note(cursor.stream_step + worst + 1, what)
            left_out.add(steps[worst])
        cursor.step += len(errors)
        cursor.stream_step += len(errors)
        on_chunk(torch.stack(errors).tolist())


def _what_diverged(is_answered: list[bool], is_bounded: list[bool], cursor: Cursor) -> str:
    """Of the steps that follow a position, the first with an answer that is not finite, else with exploded weights."""
    if False in is_answered:
        return (f"an answer is not finite at step {cursor.stream_step + is_answered.index(False) + 1} of the stream "
                f"(experience {cursor.experience})")
    return (f"the largest weight is more than {_EXPLOSION:,.0f} times those of the source after step "
            f"{cursor.stream_step + is_bounded.index(False) + 1} of the stream (experience {cursor.experience})")


def lower_rate(strategy: Strategy) -> str:
    """What to lower where adapting diverged: the learning rates of the parts, by their keys.

    >>> lower_rate(Strategy())
    'a lower learning rate of the strategy'
    """
    keys = [f"strategy.{_name_of(part)}.lr" for part in strategy.parts() if "lr" in vars(part)]
    return f"a lower {' or '.join(keys) or 'learning rate of the strategy'}"


def _name_of(part: Strategy) -> str:
    """What a strategy is called on the command line; its class in lower case where it is not installed."""
    own = type(part)
    path = f"{own.__module__}:{own.__qualname__}"
    return next((name for name, point in plugins("strategy").items() if point.value == path), own.__name__.lower())
