"""The memory bank of RoTTA: few rows of a stream, balanced over their predicted classes, recent and certain.

A row has the score 1 / (1 + exp(-age / N)) + H / ln C: age is how many rows came after it, H the entropy of its
prediction, N the capacity. A row whose class holds fewer than N / C takes a free place, or that of the row with the
highest score in the classes that hold most; else that of the highest score in its own class. It is refused where its
own score is not below that one. Yuan, Xie and Li, "Robust Test-Time Adaptation in Dynamic Scenarios", CVPR 2023, arXiv
2303.13899, section 3.3 and algorithm 1; ties go to the last row, as in the authors' code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class _Place:
    """A row in the bank: its slot, the entropy of its prediction, and which row of the stream it was."""

    slot: int
    uncertainty: float
    born: int


class Bank:
    """A class-balanced memory of predicted rows.

    Args:
        capacity: rows that are held at most.
        n_classes: classes that may be predicted.
        timeliness, certainty: weights of the two parts of the score.
    """

    def __init__(self, capacity: int, n_classes: int, timeliness: float = 1.0, certainty: float = 1.0) -> None:
        self.capacity = capacity
        self._share = capacity / n_classes
        self._weights = timeliness, certainty / math.log(max(n_classes, 2))
        self._classes: list[list[_Place]] = [[] for _ in range(n_classes)]
        self._rows = torch.empty(0)
        self.n_offered = 0

    def __len__(self) -> int:
        return sum(len(places) for places in self._classes)

    @property
    def n_bytes(self) -> int:
        """Bytes that are allocated for rows."""
        return self._rows.numel() * self._rows.element_size()

    def offer(self, row: Tensor, label: int, uncertainty: float) -> None:
        """Offer a row [...], with its predicted label and the entropy of the prediction."""
        if self._rows.numel() == 0:
            self._rows = row.new_zeros((self.capacity, *row.shape))
        slot = self._slot_for(label, self._score(0, uncertainty))
        if slot is not None:
            self._rows[slot].copy_(row)
            self._classes[label].append(_Place(slot, uncertainty, self.n_offered))
        self.n_offered += 1

    def rows(self) -> tuple[Tensor, Tensor]:
        """The rows [n, ...], class after class, and their ages over the capacity [n]."""
        places = [place for places in self._classes for place in places]
        slots = torch.tensor([place.slot for place in places], device=self._rows.device)
        ages = torch.tensor([(self.n_offered - place.born) / self.capacity for place in places])
        return self._rows.index_select(0, slots), ages.to(self._rows)

    def _score(self, age: int, uncertainty: float) -> float:
        return self._weights[0] / (1 + math.exp(-age / self.capacity)) + self._weights[1] * uncertainty

    def _slot_for(self, label: int, score: float) -> int | None:
        """Where a row of this label and score goes; None where it is refused."""
        if len(self._classes[label]) < self._share:
            taken = {place.slot for places in self._classes for place in places}
            if len(taken) < self.capacity:
                return next(slot for slot in range(self.capacity) if slot not in taken)
            most = max(len(places) for places in self._classes)
            return self._freed([places for places in self._classes if len(places) == most], score)
        return self._freed([self._classes[label]], score)

    def _freed(self, classes: list[list[_Place]], score: float) -> int | None:
        """The slot of the row with the highest score, taken out; None where the new row is no better."""
        worst, home = -math.inf, None
        for places in classes:
            for index, place in enumerate(places):
                own = self._score(self.n_offered - place.born, place.uncertainty)
                if own >= worst:
                    worst, home = own, (places, index)
        if home is None or worst <= score:
            return None
        return home[0].pop(home[1]).slot

    def state_dict(self) -> dict[str, Any]:
        """A copy of the rows and of what is known of each."""
        return {"rows": self._rows.clone(), "n_offered": self.n_offered,
                "places": [[[place.slot, place.uncertainty, place.born] for place in places]
                           for places in self._classes]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Put back what `state_dict` returned."""
        self._rows, self.n_offered = state["rows"].to(device).clone(), state["n_offered"]
        self._classes = [[_Place(*place) for place in places] for places in state["places"]]
