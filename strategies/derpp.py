"""Dark experience replay++: hold the answers to stored rows where they were, and learn their labels again.

A row enters the buffer after the step that learned it, together with the logits z' of that step's forward pass. Each
step draws twice, independently: rows x' whose answers are compared with the stored ones, as a mean over rows and
classes, and rows x'' with labels y'' for a cross-entropy,

    L = CE(z(x), y) + alpha ||z' - z(x')||^2 + beta CE(z(x''), y'').

Buzzega, Boschini, Porrello, Abati, Calderara, "Dark Experience for General Continual Learning: a Strong, Simple
Baseline", NeurIPS 2020, arXiv 2004.07211, section 3 and algorithm 2; the mean is that of the authors' code. The labels
guard against stored answers that a sudden shift of the stream made worthless.

The buffer is a reservoir, and takes no notice of experiences. In several epochs a row is offered once in each, as in
the paper, and can be stored more than once, each time with the logits of its own step. Rows are stored raw: z' are the
answers to the augmented rows of then, z(x') those to rows augmented afresh. The distance runs over the classes that the
head answered for when the row was stored (all of them with the paper's head, `model.head=full`); task labels narrow the
cross-entropy, not the distance. In a chain, rows that a later part appends are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.functional import cross_entropy
from cl_framework.memory import Buffer, Exemplars
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._dark import dark_columns, dark_loss
from ._rehearsal import Rehearsal, recalled


@dataclass(kw_only=True, eq=False)
class DERpp(Strategy):
    """Holds the answers to stored rows where they were, and replays their labels."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    replay_batch_size: int = tunable(0, 0, 10, 32, 64, 128, low=0)
    """Rows of each of the two draws of a step; 0 means as many as arrive."""
    alpha: float = tunable(0.3, 0.1, 0.2, 0.3, 0.5, 1.0, low=0.0)
    """Weight of the distance to the stored logits."""
    beta: float = tunable(0.5, 0.1, 0.5, 1.0, low=0.0)
    """Weight of the cross-entropy on the stored labels."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator."""
        self._n_classes = info.n_classes
        buffer = Buffer(self.memory_size, "reservoir", generator(info.seed, "derpp", "buffer"))
        self._memory = Rehearsal(buffer, "step", info)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Remember how many rows arrived; what a later part appends is not stored."""
        self._memory.arrive(batch)
        return batch

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Both terms, each on a draw of its own."""
        total = super().penalty(model, batch, output)
        if len(self._memory.buffer) == 0:
            return total
        if self.alpha > 0:
            rows, _, logits = self._recall(model)
            total = total + self.alpha * dark_loss(logits, rows.extra)
        if self.beta > 0:
            _, old, logits = self._recall(model)
            total = total + self.beta * cross_entropy(logits, old.y, model.allowed(old.task))
        return total

    def _recall(self, model: Model) -> tuple[Exemplars, Batch, Tensor]:
        """A draw, the same rows on the model's device, and what the model says of them."""
        rows = self._memory.buffer.draw(self.replay_batch_size or self._memory.n_incoming)
        old = recalled(rows, model.device)
        return rows, old, model(model.preprocess(old.raw)).logits

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Store the rows that arrived with the logits that they were given."""
        self._memory.after_step(batch, dark_columns(output.logits[:self._memory.n_incoming], self._n_classes))

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the buffer."""
        return self._memory.metrics()

    def state_dict(self) -> dict[str, Any]:
        """The buffer."""
        return self._memory.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._memory.load_state_dict(model, state)
