"""Experience replay with asymmetric cross-entropy: incoming rows do not push the old classes away.

Each step draws rows from a buffer. The softmax of an incoming row runs over the classes of the incoming batch alone, so
that its loss does not reach the weights of any other class; the softmax of a replayed row runs over all classes that
the head answers for, and it is there that new and old classes are told apart,

    L = CE(B_n | classes in B_n) + CE(B_M | all classes seen),

each a mean over its rows. Caccia, Aljundi, Asadi, Tuytelaars, Pineau, Belilovsky, "New Insights on Reducing Abrupt
Representation Change in Online Continual Learning", ICLR 2022, arXiv 2104.05025.

The authors' code (also in Mammoth) additionally leaves the highest class seen, and all classes not seen yet, in the
softmax of incoming rows; here it is the paper's set, as in Avalanche, which however takes half of the sum. With task
labels both softmaxes stay within the classes of each row's task. Where nothing is replayed (the first step of all) the
loss is plain cross-entropy.

The buffer is a reservoir, and rows enter after the step that learned them, also in several epochs (a row may then be
stored more than once, as in the authors' code): replayed rows of the present experience are what places new classes
among the old. In a chain, a part that appends rows stands after this one; its rows count as replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.functional import cross_entropy
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._rehearsal import Rehearsal, appended, recalled


@dataclass(kw_only=True, eq=False)
class ERACE(Strategy):
    """Replays stored rows, and lets incoming ones compete among themselves."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    replay_batch_size: int = tunable(0, 0, 10, 32, 64, 128, low=0)
    """Rows that are replayed in each step; 0 means as many as arrive."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator."""
        buffer = Buffer(self.memory_size, "reservoir", generator(info.seed, "er_ace", "buffer"))
        self._memory = Rehearsal(buffer, "step", info)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Append replayed rows."""
        self._memory.arrive(batch)
        if len(self._memory.buffer) == 0:
            return batch
        rows = self._memory.buffer.draw(self.replay_batch_size or len(batch.y))
        return appended(batch, recalled(rows, batch.y.device))

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The two cross-entropies."""
        n, (logits, y) = self._memory.n_incoming, (output.logits, batch.y)
        if len(y) == n:
            return super().loss(model, batch, output)
        allowed = model.allowed(batch.task)
        if allowed is None:
            allowed = torch.ones_like(logits, dtype=torch.bool)
        present = torch.zeros(logits.shape[1], dtype=torch.bool, device=y.device).index_fill_(0, y[:n], True)
        return (cross_entropy(logits[:n], y[:n], allowed[:n] & present)
                + cross_entropy(logits[n:], y[n:], allowed[n:]))

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Store the rows that arrived, not the replayed ones."""
        self._memory.after_step(batch)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the buffer."""
        return self._memory.metrics()

    def state_dict(self) -> dict[str, Any]:
        """The buffer."""
        return self._memory.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._memory.load_state_dict(model, state)
