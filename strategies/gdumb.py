"""GDumb: keep a greedily balanced memory, and learn it from scratch, nothing else.

Rows are offered to a memory of k rows one after the other. With Y the classes met and C_y the rows kept of class y,
a row of class y is kept if

    y is not in Y,   or   C_y < k / |Y|,

and once the memory is full a random row of a largest class (ties broken at random) makes room for it. After each
experience a network with the initial weights is trained on the memory alone. Whatever a method gains by forgetting
less, it should gain over this.

Prabhu, Torr, Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020
(algorithm 1).

Choices:

- The rows of an experience are offered in a random order of our own generator, for they arrive together. The sampler
  is the paper's, row by row; it prefers early rows to late ones of a class that fills its quota and comes again, so it
  is not the uniform sample of each class that the class-balanced buffer keeps.
- As in the paper a class beyond its quota is refused even while there is room, so few rows may leave the memory open.
- `train.*` says how the memory is learned; the paper's recipe is sgd with cosine restarts and CutMix, 256 epochs.
- On an online stream the rows are taken into the memory as they pass and the memory is learned in one epoch. The
  network answers rows of its memory then, so an online accuracy has no meaning.
- Avalanche's plugin shares the memory equally among the classes met and keeps random rows of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo, n_bytes

from ._rows import kept, restored_rows, rows_bytes, rows_state
from ._weights import copied_tensors, reset


@dataclass(kw_only=True, eq=False)
class GDumb(Strategy):
    """Learns a balanced memory from scratch."""

    memory_size: int = bounded(500, low=1)
    """Rows k that are kept in all; at least one for each class of the stream."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty memory, and the initial weights.

        Raises:
            ConfigError: the memory has less than one row for each class.
        """
        if self.memory_size < info.n_classes:
            raise ConfigError(f"GDumb.memory_size={self.memory_size} cannot hold a row of each of {info.n_classes} "
                              f"classes; set it to at least {info.n_classes}")
        self._rows: Dataset | None = None
        self._initial: dict[str, Tensor] = copied_tensors(model)
        self._generator = generator(info.seed, "gdumb", "memory")

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Offer the experience's rows to the memory, and put the initial weights back."""
        data = experience.train
        order = torch.randperm(len(data), generator=self._generator)
        held = [] if self._rows is None else self._rows.y.tolist()
        stay = greedy_balance(held, data.y.cpu()[order].tolist(), self.memory_size, self._generator)
        new = order[torch.tensor([place - len(held) for place in stay if place >= len(held)], dtype=torch.int64)]
        parts = [kept(data.subset(new.to(data.device)), model.device)]
        if self._rows is not None:
            old = torch.tensor([place for place in stay if place < len(held)], dtype=torch.int64)
            parts.insert(0, kept(self._rows.subset(old.to(model.device)), model.device))
        self._rows = Dataset.concat(parts)
        self._initial = reset(model, self._initial)

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """The memory alone."""
        assert self._rows is not None
        return self._rows

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the memory and of the initial weights."""
        return {"memory_bytes": rows_bytes(self._rows) + n_bytes(self._initial)}

    def state_dict(self) -> dict[str, Any]:
        """The memory, the initial weights and the generator."""
        return {"rows": rows_state(self._rows), "initial": dict(self._initial),
                "generator": self._generator.get_state()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._rows = restored_rows(state["rows"], model.device)
        self._initial = {name: value.to(model.device) for name, value in state["initial"].items()}
        self._generator.set_state(state["generator"].cpu())


def greedy_balance(held: Sequence[int], arriving: Sequence[int], capacity: int,
                   generator: torch.Generator) -> list[int]:
    """The greedy balancing sampler, on labels alone.

    Args:
        held: labels of the rows in the memory.
        arriving: labels of the rows that are offered, in their order.
        capacity: the most rows that are kept; at least the number of classes.

    Returns:
        Which rows are kept, ascending; positions in `held` followed by `arriving`.

    >>> len(greedy_balance([0, 0, 0, 0], [1, 1, 1, 1], 4, torch.Generator()))
    4
    """
    places: dict[int, list[int]] = {}
    for place, label in enumerate(held):
        places.setdefault(label, []).append(place)
    n_kept = len(held)
    for place, label in enumerate(arriving, len(held)):
        if label in places and len(places[label]) * len(places) >= capacity:
            continue
        if n_kept == capacity:
            most = max(map(len, places.values()))
            largest = [rows for rows in places.values() if len(rows) == most]
            rows = largest[_below(len(largest), generator)]
            rows.pop(_below(len(rows), generator))
        else:
            n_kept += 1
        places.setdefault(label, []).append(place)
    return sorted(place for rows in places.values() for place in rows)


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (1,), generator=generator))
