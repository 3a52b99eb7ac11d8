"""Joint training: learn from all data so far, as if it had come at once.

The upper bound (also "cumulative" or "multi-task" training). At experience t it minimises

    L_t(theta) = mean of the cross-entropy over D_1 u ... u D_t.

It re-reads the past, which continual learning forbids, and says so: it needs `history`. Caruana, "Multitask
Learning", Machine Learning 28, 1997; as the reference that continual learning is held against in De Lange et al., "A
continual learning survey: Defying forgetting in classification tasks", TPAMI 2021, arXiv 1909.08383.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Need, StreamInfo, n_bytes

from ._weights import copied_tensors, reset


@dataclass(kw_only=True, eq=False)
class Joint(Strategy):
    """Trains on the union of all experiences so far."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.HISTORY})
    neutral: ClassVar[Mapping[str, object]] = {}
    speaks: ClassVar[bool] = True

    from_scratch: bool = True
    """Begin each experience with the initial weights; False goes on from the last ones."""
    at_end: bool = False
    """Learn at the last experience alone (offline training): the rows of the accuracy matrix before it are of an
    untrained model, the last one is the same and comes much sooner."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Keep the initial weights."""
        self._initial: dict[str, Tensor] = copied_tensors(model) if self.from_scratch else {}
        self._past_bytes = 0
        self._last = info.n_experiences - 1

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Put the initial weights back. Rows that the head has just grown are initial already; they are kept too."""
        self._initial = reset(model, self._initial)

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """All rows so far."""
        self._index = experience.index
        self._past_bytes = sum(past.n_bytes for past in experience.history)
        return Dataset.concat([*experience.history, data])

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Learn the union, at the end alone if so asked."""
        if not self.at_end or self._index == self._last:
            train(data)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the past rows that were read again, and of the initial weights."""
        return {"memory_bytes": self._past_bytes + n_bytes(self._initial)}

    def state_dict(self) -> dict[str, Any]:
        """The initial weights."""
        return {"initial": dict(self._initial), "past_bytes": self._past_bytes}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._initial = {name: value.to(model.device) for name, value in state["initial"].items()}
        self._past_bytes = state["past_bytes"]
