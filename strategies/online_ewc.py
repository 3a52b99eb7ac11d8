"""Online elastic weight consolidation: one running Fisher information that fades, around the last weights.

After experience k the diagonal F_k of the Fisher information is measured on its rows, at the weights theta_k that it
left, and added to what remains of the earlier ones. Learning experience k + 1 adds

    lambda/2 gamma sum_i F*_{k,i} (theta_i - theta_{k,i})^2,    F*_k = gamma F*_{k-1} + F_k.

Schwarz et al., "Progress & Compress: A scalable framework for continual learning", ICML 2018, arXiv 1805.06370,
equations 8 and 9. gamma < 1 lets old experiences be forgotten gracefully before capacity runs out; the paper uses 0.95.
With gamma = 1 nothing fades, and the penalty is the one that Huszar (PNAS 2018, arXiv 1712.03847) derives. It differs
from `ewc` in the anchor too: there every experience pulls towards its own weights. Equation 8 has
gamma in the penalty; code without it calls lambda what is lambda gamma here. F_k is measured as in `ewc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.sensitivity import fisher_diagonal
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor, added


@dataclass(kw_only=True, eq=False)
class OnlineEWC(Strategy):
    """Anchors weights by a decaying sum of Fisher information."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(100.0, 1.0, 10.0, 100.0, 1e3, 1e4, low=0.0)
    """Strength lambda of the penalty."""
    gamma: float = tunable(0.95, 0.5, 0.8, 0.95, 1.0, low=0.0, high=1.0)
    """What remains of earlier Fisher information with each experience."""
    n_samples: int = bounded(1024, low=1)
    """Rows of an experience on which its Fisher information is measured."""
    labels: Literal["model", "data", "argmax"] = "model"
    """Where the labels of these rows come from: drawn from the model's answer, the given ones, or its most likely
    ones."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._generator = generator(info.seed, "online_ewc", "fisher")
        self._anchor = Anchor()

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """lambda/2 gamma F* (theta - theta*)^2."""
        return self._anchor.penalty(model, self.importance / 2 * self.gamma)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Measure the Fisher information, add it, and move the anchor here."""
        fisher = fisher_diagonal(model, experience.train, n_samples=self.n_samples, generator=self._generator,
                                 labels=self.labels)
        self._anchor.place(model, added(self._anchor.importance, fisher, self.gamma))

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
