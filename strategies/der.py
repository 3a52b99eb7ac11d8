"""Dark experience replay: answer for stored rows as the model did when it learned them.

A row enters the buffer after the step that learned it, together with the logits z' of that step's forward pass. Each
step draws rows x' with their logits and adds the mean squared distance of the answers, over rows and classes, to the
loss on the incoming rows,

    L = CE(z(x), y) + alpha ||z' - z(x')||^2.

Buzzega, Boschini, Porrello, Abati, Calderara, "Dark Experience for General Continual Learning: a Strong, Simple
Baseline", NeurIPS 2020, arXiv 2004.07211, section 3 and algorithm 1; the mean is that of the authors' code.

The buffer is a reservoir, and takes no notice of experiences. In several epochs a row is offered once in each, as in
the paper, and can be stored more than once, each time with the logits of its own step. Rows are stored raw: z' are the
answers to the augmented rows of then, z(x') those to rows augmented afresh. The distance runs over the classes that the
head answered for when the row was stored; task labels do not narrow it. The paper's head answers for all classes from
the beginning (`model.head=full`), and class-incrementally DER needs that: with a head for the classes seen alone,
nothing holds new classes down on old rows, and it forgets as fine-tuning does. In a chain, rows that a later part
appends are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._dark import dark_columns, dark_loss
from ._rehearsal import Rehearsal, recalled


@dataclass(kw_only=True, eq=False)
class DER(Strategy):
    """Holds the answers to stored rows where they were."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    replay_batch_size: int = tunable(0, 0, 10, 32, 64, 128, low=0)
    """Rows that are replayed in each step; 0 means as many as arrive."""
    alpha: float = tunable(0.3, 0.1, 0.2, 0.3, 0.5, 1.0, low=0.0)
    """Weight of the distance to the stored logits."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator."""
        self._n_classes = info.n_classes
        buffer = Buffer(self.memory_size, "reservoir", generator(info.seed, "der", "buffer"))
        self._memory = Rehearsal(buffer, "step", info)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Remember how many rows arrived; what a later part appends is not stored."""
        self._memory.arrive(batch)
        return batch

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """alpha times the squared distance, on a draw of its own."""
        if self.alpha == 0 or len(self._memory.buffer) == 0:
            return super().penalty(model, batch, output)
        rows = self._memory.buffer.draw(self.replay_batch_size or self._memory.n_incoming)
        old = recalled(rows, model.device)
        return self.alpha * dark_loss(model(model.preprocess(old.raw)).logits, rows.extra)

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
