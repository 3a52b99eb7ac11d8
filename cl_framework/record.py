"""What a run measured: hits are counted in an `AccuracyMatrix`, and kept with the costs in a `StreamRecord`.

R[i, j] is the accuracy on experience j after learning experience i, both from 0; T is the number of experiences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import cl_framework._torchmetrics  # noqa: F401  (before torchmetrics)

# isort: split
import torch
import torchmetrics
from torch import Tensor

from cl_framework.packing import unpacked

_TENSORS = ("expert", "online", "calibration", "seconds", "batches")
"""What a checkpoint holds of a record."""
_COUNTED = ("initial", "accuracy", "task_accuracy", "initial_loss", "loss")
"""What an `AccuracyMatrix` gives; a checkpoint of an earlier clf holds these, too."""


def _unmeasured(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=torch.float64)


@dataclass(kw_only=True, eq=False)
class StreamRecord:
    """Everything that a metric may be computed from. Tensors are float64 on the CPU; NaN where not measured.

    Attributes:
        n_experiences: T, fixed at construction.
        accuracy: R, [T, T].
        task_accuracy: the same, with the logits restricted to the classes of experience j, [T, T].
        expert: accuracy on experience j of the expert that learned it, with the logits restricted to its classes,
            before the strategy made one model of all, [T]; of strategies that make experts alone.
        initial: accuracy before any training, [T].
        joint: accuracy on each experience of a model trained on all data, [T], or None where there is no such model.
        online: accuracy of the answers given to the rows of an experience before they were learned, [T].
        calibration: expected calibration error of these answers, [T]; of unlabelled streams alone.
        n_rounds: how often the same experiences come round, T / n_rounds of them at a time.
        seconds: training time of each experience, [T], 0 before it is learned.
        batches: how many batches it was met in, [T]; of unlabelled streams alone.
        loss: mean -log p of a token of the held-out texts of experience j after learning experience i, in nats, [T, T];
            its exponential is the perplexity. Of language streams whose tests have texts alone.
        initial_loss: the same before any training, [T].
        n_parameters: of the model after the last experience learned.
        memory_bytes: what the strategy keeps after the last experience learned.
        strategy_metrics: what the strategy said of itself, one mapping for each experience learned.
        skipped_steps: steps of the stream that were left out, as they led to what is not finite.
        resets: how often a `train` call began anew for that reason.

    >>> record = StreamRecord(n_experiences=2)
    >>> record.accuracy[0, 0] = 0.9
    >>> record.n_done, record.rows()
    (1, [['after', '0', '1'], ['0', '0.9', '']])
    """

    n_experiences: int
    accuracy: Tensor = field(init=False)
    task_accuracy: Tensor = field(init=False)
    expert: Tensor = field(init=False)
    initial: Tensor = field(init=False)
    joint: Tensor | None = None
    online: Tensor = field(init=False)
    calibration: Tensor = field(init=False)
    n_rounds: int = 1
    seconds: Tensor = field(init=False)
    batches: Tensor = field(init=False)
    loss: Tensor = field(init=False)
    initial_loss: Tensor = field(init=False)
    n_parameters: int | None = None
    memory_bytes: int | None = None
    strategy_metrics: list[dict[str, float]] = field(default_factory=list)
    skipped_steps: list[int] = field(default_factory=list)
    resets: int = 0

    def __post_init__(self) -> None:
        n = self.n_experiences
        if n < 1:
            raise ValueError(f"a stream has at least one experience, got {n}")
        self.accuracy, self.task_accuracy = _unmeasured(n, n), _unmeasured(n, n)
        self.initial, self.expert = _unmeasured(n), _unmeasured(n)
        self.loss, self.initial_loss = _unmeasured(n, n), _unmeasured(n)
        self.online, self.calibration, self.batches = _unmeasured(n), _unmeasured(n), _unmeasured(n)
        self.seconds = torch.zeros(n, dtype=torch.float64)

    @property
    def n_done(self) -> int:
        """How many rows of R are in."""
        measured = self.accuracy.isnan().logical_not().any(1).nonzero()
        return int(measured.max()) + 1 if len(measured) else 0

    @property
    def has_texts(self) -> bool:
        """Whether held-out texts were measured, so that there are losses."""
        return not bool(self.loss.isnan().all())

    @property
    def perplexity(self) -> Tensor:
        """exp of the losses, [T, T]; NaN where not measured.

        >>> record = StreamRecord(n_experiences=1)
        >>> record.loss[0, 0] = 0.0
        >>> record.perplexity.tolist()
        [[1.0]]
        """
        return self.loss.exp()

    def rows(self) -> list[list[str]]:
        """R as a table: a header, then a row for each experience learned; empty where not measured.

        Columns are in the order of the stream, however many there are.
        """
        header = ["after", *(str(column) for column in range(self.n_experiences))]
        return [header, *(self.row(index) for index in range(self.n_done))]

    def row(self, index: int) -> list[str]:
        """A row of that table: what is known after experience `index`."""
        return [str(index), *("" if value != value else repr(value) for value in self.accuracy[index].tolist())]

    def state_dict(self) -> dict[str, Any]:
        """A copy as tensors and plain data, which `torch.load` reads with `weights_only=True`, of all but what an
        `AccuracyMatrix` gives: `take` puts that back."""
        return {
            "n_experiences": self.n_experiences, "n_rounds": self.n_rounds, "n_parameters": self.n_parameters,
            "memory_bytes": self.memory_bytes,
            "joint": None if self.joint is None else self.joint.clone(),
            "strategy_metrics": json.dumps(self.strategy_metrics),  # torch would look at each of thousands
            "skipped_steps": list(self.skipped_steps), "resets": self.resets,
            **{name: vars(self)[name].clone() for name in _TENSORS},
        }

    def take(self, counted: Accuracies) -> None:
        """Put in what a matrix has counted so far."""
        vars(self).update({name: getattr(counted, name) for name in _COUNTED})

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The record that `state_dict` copied."""
        record = cls(n_experiences=state["n_experiences"], n_rounds=state["n_rounds"], joint=state["joint"],
                     n_parameters=state["n_parameters"], memory_bytes=state["memory_bytes"],
                     strategy_metrics=_figures(state["strategy_metrics"]),
                     skipped_steps=[int(step) for step in state.get("skipped_steps", [])],
                     resets=int(state.get("resets", 0)))
        if not isinstance(record.joint, Tensor | None):
            raise ValueError(f"the joint reference of a record is {record.joint!r}, expected a tensor or None")
        state = unpacked(state, {name: vars(record)[name] for name in (*_TENSORS, *_COUNTED)})
        for name in (*_TENSORS, *(name for name in _COUNTED if name in state)):
            value: Tensor = state[name]
            if value.shape != vars(record)[name].shape:
                raise ValueError(f"{name} of a record of {record.n_experiences} experiences must have shape "
                                 f"{tuple(vars(record)[name].shape)}, got {tuple(value.shape)}")
            vars(record)[name] = value.clone()
        return record


def _figures(saved: Any) -> list[dict[str, float]]:
    """The figures of a strategy from a checkpoint; earlier ones hold them as a list."""
    found = json.loads(saved) if isinstance(saved, str) else saved
    if not isinstance(found, list):
        raise ValueError(f"the strategy's figures are {found!r}, expected a list")
    return [dict(metrics) for metrics in found]


class Accuracies(NamedTuple):
    """Accuracies before training, [T], and after each experience, [T, T]; twice, as `TestSet.score` counts them. Then
    mean losses of the right texts' tokens, in nats, likewise."""

    initial: Tensor
    accuracy: Tensor
    task_initial: Tensor
    task_accuracy: Tensor
    initial_loss: Tensor
    loss: Tensor


class AccuracyMatrix(torchmetrics.Metric):
    """Counts hits; the counts are summed across processes, so accuracies are exact whatever the batches.

    Row 0 is before training, row i + 1 after experience i. The counts live on the device of the hits; those of a
    language stream, where a hit may be a part of one and tokens have losses, are sums in float64 on the CPU.

    Args:
        n_experiences: T.
        is_language: count hits of [0, 1], and losses.

    >>> matrix = AccuracyMatrix(2)
    >>> right = torch.tensor([True, False, True])
    >>> matrix.update(1, torch.tensor([0, 0, 0]), right, right)
    >>> matrix.compute().accuracy
    tensor([[0.6667,    nan],
            [   nan,    nan]], dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    hits: Tensor
    task_hits: Tensor
    totals: Tensor
    nats: Tensor
    tokens: Tensor

    def __init__(self, n_experiences: int, is_language: bool = False) -> None:
        super().__init__()
        self._is_language = is_language
        shape, summed = (n_experiences + 1, n_experiences), torch.float64 if is_language else torch.int64
        kinds = {"hits": summed, "task_hits": summed, "totals": torch.int64,
                 **({"nats": torch.float64, "tokens": torch.int64} if is_language else {})}
        self._names = tuple(kinds)
        for name, dtype in kinds.items():
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum", persistent=True)

    def update(self, row: int, columns: Tensor, hits: Tensor, task_hits: Tensor) -> None:
        """Count B answers.

        Args:
            row: 0 before training, i + 1 after experience i.
            columns: the experience that each row belongs to, int64 [B].
            hits, task_hits: which answers are right, bool [B]; of a language stream how right each is, of [0, 1].

        Raises:
            IndexError: there is no such row.
            TypeError: answers are right in part, and the stream is none of language.
        """
        if not 0 <= row < len(self.totals):
            raise IndexError(f"row {row} is not between 0 (before training) and {len(self.totals) - 1}")
        if hits.dtype.is_floating_point and not self._is_language:
            raise TypeError(f"hits are {hits.dtype}, which a count of right answers would round; give bool, or set "
                            "StreamInfo.is_language")
        if self._is_language:
            hits, task_hits = hits.cpu(), task_hits.cpu()
        if self.totals.device != hits.device:
            self.to(hits.device)
        columns = columns.to(hits.device)
        self.hits[row].index_add_(0, columns, hits.to(self.hits.dtype))
        self.task_hits[row].index_add_(0, columns, task_hits.to(self.task_hits.dtype))
        self.totals[row].index_add_(0, columns, torch.ones_like(columns))

    def add_losses(self, row: int, column: int, losses: Tensor) -> None:
        """Sum the losses of some tokens, in nats, [m]; of a language stream alone."""
        self.nats[row, column] += losses.cpu().double().sum()
        self.tokens[row, column] += len(losses)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """As torchmetrics wraps it, but a stream of one experience keeps its axes."""
        wrapped = super()._wrap_compute(compute)

        def unsqueezed() -> Accuracies:
            n = len(self.totals) - 1
            found = Accuracies(*wrapped())
            return Accuracies(*(value.reshape(n) if name.endswith(("initial", "initial_loss")) else value.reshape(n, n)
                                for name, value in found._asdict().items()))

        return unsqueezed

    def counts(self) -> dict[str, Tensor]:
        """What `state_dict` copies, not copied."""
        return {name: vars(self)[name] for name in self._names}

    def row(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """What `compute` gives for one row alone: accuracies, those within the classes, and losses, [T] each."""
        totals = self.totals[row].cpu().double()
        loss = self.nats[row] / self.tokens[row] if self._is_language else torch.full_like(totals, torch.nan)
        return self.hits[row].cpu() / totals, self.task_hits[row].cpu() / totals, loss

    def so_far(self) -> Accuracies:
        """What `compute` gives, of this process alone."""
        totals = self.totals.cpu().double()
        plain, within = self.hits.cpu() / totals, self.task_hits.cpu() / totals
        loss = self.nats / self.tokens if self._is_language else torch.full_like(totals, torch.nan)
        return Accuracies(plain[0], plain[1:], within[0], within[1:], loss[0], loss[1:])

    def compute(self) -> Accuracies:
        """Accuracies and losses on the CPU, NaN where nothing was counted."""
        return self.so_far()
