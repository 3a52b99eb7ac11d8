"""Maximally interfered retrieval (ER-MIR): replay the stored rows that the coming step would hurt most.

Each step draws candidates from a buffer, looks one step of SGD ahead along the gradient of the incoming batch B_n, and
replays those whose loss would rise most,

    theta^v = theta - lr grad CE(B_n; theta),    s(x) = CE(x; theta^v) - CE(x; theta),

beside the incoming rows, with the mean cross-entropy over both. Aljundi, Caccia, Belilovsky, Caccia, Lin, Charlin,
Tuytelaars, "Online Continual Learning with Maximally Interfered Retrieval", NeurIPS 2019, arXiv 1908.04742, section 3.1
and algorithm 1 (the criterion s_MI-1).

lr is `train.lr`, whatever the optimizer. Looking ahead leaves weights, gradients and running statistics as they are;
batch normalisation works with the statistics of the batch and of the candidates, as in the authors' code. That code
takes the mean over replayed rows apart from that over incoming ones, and draws from earlier experiences alone, as here
with `fill=experience`. With `fill=step` (online) the buffer is a running sample of all rows so far. In a chain, the
step ahead is that of the cross-entropy alone, and a part that appends rows stands after this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.recipe import Recipe
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo, select

from ._rehearsal import Rehearsal, appended, recalled

_CANDIDATES = 5


@dataclass(kw_only=True, eq=False)
class MIR(Strategy):
    """Replays the stored rows that the incoming ones interfere with most."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    n_candidates: int = tunable(0, 0, 25, 50, 100, 200, low=0)
    """Rows that are drawn in each step to choose from; 0 means five times as many as are replayed, the paper's ratio of
    50 to 10. All of them are replayed where no more are wanted."""
    replay_batch_size: int = tunable(0, 0, 10, 32, 64, 128, low=0)
    """Rows that are replayed in each step; 0 means as many as arrive."""
    policy: Literal["reservoir", "class_balanced"] = "reservoir"
    """Which rows are kept: a uniform sample of all, or equal shares of the classes."""
    fill: Literal["auto", "step", "experience"] = "auto"
    """When rows enter: after the step that learned them, or at the end of their experience; auto is step online."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator."""
        self._lr = 0.0
        buffer = Buffer(self.memory_size, self.policy, generator(info.seed, "mir", "buffer"))
        self._memory = Rehearsal(buffer, self.fill, info)

    def optimizer(self, params: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
        """What `train.*` says; its learning rate is that of the step ahead."""
        self._lr = recipe.lr
        return super().optimizer(params, recipe)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Append the most interfered of the candidates."""
        self._memory.arrive(batch)
        if len(self._memory.buffer) == 0:
            return batch
        n = self.replay_batch_size or len(batch.y)
        old = recalled(self._memory.buffer.draw(self.n_candidates or _CANDIDATES * n), batch.y.device)
        if n < len(old.y):
            rise = self._rise(model, batch, old._replace(x=model.preprocess(old.raw)))
            old = _chosen(old, rise.topk(n).indices)
        return appended(batch, old)

    def _rise(self, model: Model, batch: Batch, old: Batch) -> Tensor:
        """How much the loss of each candidate rises with a step on the incoming rows, [C]."""
        weights = {name: param for name, param in model.named_parameters() if param.requires_grad}
        loss = _losses(model, weights, batch._replace(x=model.preprocess(batch.raw))).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        with torch.no_grad():
            ahead = {name: param - self._lr * slope
                     for (name, param), slope in zip(weights.items(), gradients, strict=True)}
            return _losses(model, ahead, old) - _losses(model, weights, old)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Store the rows that arrived, not the replayed ones."""
        self._memory.after_step(batch)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Store the experience's rows, unless its steps did."""
        self._memory.after_experience(model, experience)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the buffer."""
        return self._memory.metrics()

    def state_dict(self) -> dict[str, Any]:
        """The buffer; the learning rate comes with the next optimizer."""
        return self._memory.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._memory.load_state_dict(model, state)


def _losses(model: Model, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The cross-entropy of each row at other weights, [B]; running statistics change in a copy."""
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    logits: Tensor = torch.func.functional_call(model, {**weights, **statistics}, (batch.x,)).logits
    allowed = model.allowed(batch.task)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return F.cross_entropy(logits, batch.y, reduction="none")


def _chosen(batch: Batch, rows: Tensor) -> Batch:
    task = None if batch.task is None else batch.task.index_select(0, rows)
    return Batch(select(batch.raw, rows), batch.x, batch.y.index_select(0, rows), task)
