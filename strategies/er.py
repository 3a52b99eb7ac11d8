"""Experience replay: learn each batch together with rows drawn from a small memory of the past.

A buffer holds a sample of what was seen. Each step draws from it without replacement and minimises the cross-entropy
over the incoming batch B_n and the replayed batch B_M together,

    L(theta) = 1/(|B_n| + |B_M|) sum_{(x, y) in B_n u B_M} CE(z(x; theta), y).

Chaudhry, Rohrbach, Elhoseiny, Ajanthan, Dokania, Torr, Ranzato, "On Tiny Episodic Memories in Continual Learning",
2019, arXiv 1902.10486 (algorithm 1: rows enter the buffer after the step that learned them). Where an experience is
seen for several epochs (`fill=experience`), its rows enter once, at its end, so that no row is counted twice.

Rows are stored as they came (uint8 stays uint8), and are preprocessed and augmented afresh at every replay. In a chain,
a part that appends rows stands after this one or works the same way: the rows that arrived are the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._rehearsal import Rehearsal, appended, recalled


@dataclass(kw_only=True, eq=False)
class ER(Strategy):
    """Replays stored rows beside the incoming ones."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}
    speaks: ClassVar[bool] = True

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    replay_batch_size: int = tunable(0, 0, 10, 32, 64, 128, low=0)
    """Rows that are replayed in each step; 0 means as many as arrive."""
    policy: Literal["reservoir", "class_balanced"] = "reservoir"
    """Which rows are kept: a uniform sample of all, or equal shares of the classes."""
    mix: Literal["batch", "dataset"] = "batch"
    """How rows are replayed: appended to each batch, or mixed into the experience's data, the whole memory as often as
    it takes for as many old rows as new ones (the "naive rehearsal" of Hsu et al. 2018)."""
    fill: Literal["auto", "step", "experience"] = "auto"
    """When rows enter: after the step that learned them, or at the end of their experience; auto is step online."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator.

        Raises:
            ConfigError: rows are to be mixed into the data and stored after each step.
        """
        if self.mix == "dataset" and (self.fill == "step" or info.is_online):
            raise ConfigError("ER.mix=dataset replays rows among the new ones and cannot tell them apart after a step; "
                              "set ER.fill=experience on an offline stream, or ER.mix=batch")
        buffer = Buffer(self.memory_size, self.policy, generator(info.seed, "er", "buffer"))
        self._memory = Rehearsal(buffer, self.fill, info)

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """Mix the memory in, if it is not replayed batch by batch."""
        if self.mix == "batch" or len(self._memory.buffer) == 0:
            return data
        rows = recalled(self._memory.buffer.rows(), data.device)
        memory = Dataset(rows.raw, rows.y, None, rows.task)
        return Dataset.concat([data, *[memory] * max(len(data) // self.memory_size, 1)])

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Append replayed rows."""
        self._memory.arrive(batch)
        if self.mix == "dataset" or len(self._memory.buffer) == 0:
            return batch
        rows = self._memory.buffer.draw(self.replay_batch_size or len(batch.y))
        return appended(batch, recalled(rows, batch.y.device))

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
        """The buffer."""
        return self._memory.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._memory.load_state_dict(model, state)
