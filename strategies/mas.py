"""Memory aware synapses: hold the weights that the output is sensitive to.

After each experience the importance of weight i is measured on its rows, without looking at labels, and summed,

    Omega_i <- Omega_i + 1/N sum_n |d ||z(x_n)||^2 / d theta_i|,

z being the logits. Later steps add lambda sum_i Omega_i (theta_i - theta*_i)^2, theta* being the weights that the last
experience left. Aljundi, Babiloni, Elhoseiny, Rohrbach and Tuytelaars, "Memory Aware Synapses: Learning what (not) to
forget", ECCV 2018, arXiv 1711.09601, section 4.

The absolute value is of *one* row's gradient. Much code takes that of a batch's mean gradient, in which rows of
opposite sign cancel: it is never larger, and depends on the batch size. Some of it also fades the sum into a moving
average over experiences. z covers the classes seen, and of a row with a task label only those of its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.sensitivity import mean_gradient, some_rows
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor, added


def squared_length(logits: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
    """||z||^2 over the allowed classes.

    >>> float(squared_length(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), torch.tensor([[True, False]])))
    9.0
    """
    return logits.masked_fill(~allowed, 0.0).square().sum()


@dataclass(kw_only=True, eq=False)
class MAS(Strategy):
    """Anchors weights by how strongly the output depends on them."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(1.0, 0.01, 0.1, 1.0, 10.0, 100.0, low=0.0)
    """Strength lambda of the penalty."""
    n_samples: int = bounded(1024, low=1)
    """Rows of an experience on which sensitivity is measured."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._generator = generator(info.seed, "mas", "rows")
        self._anchor = Anchor()

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """lambda Omega (theta - theta*)^2."""
        return self._anchor.penalty(model, self.importance)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Measure the sensitivity, add it, and move the anchor here."""
        rows = some_rows(experience.train, self.n_samples, self._generator)
        sensitivity = mean_gradient(model, rows, squared_length, torch.abs)
        self._anchor.place(model, added(self._anchor.importance, sensitivity))

    def metrics(self) -> Mapping[str, float]:
        """Bytes of importance and anchor."""
        return {"memory_bytes": self._anchor.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """Importance, anchor and the generator."""
        return {**self._anchor.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._anchor.load_state_dict(model, state)
        self._generator.set_state(state["generator"].cpu())
