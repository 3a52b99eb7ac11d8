"""Source: the model as it was trained, adapted to nothing.

z = z(x; theta_0) with the running statistics of training. What a stream of corrupted rows costs without adaptation; the
first row of every table of test-time adaptation (e.g. Wang et al., "Continual Test-Time Domain Adaptation", CVPR 2022,
arXiv 2203.13591, table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import unlabelled
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class Source(Strategy):
    """Answers an unlabelled stream without learning from it."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is learned."""
        unlabelled("source", info)
        self._watch = Watch(info, model.device)

    @torch.no_grad()
    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The model's logits."""
        logits = self.predict(model, x, None)
        self._watch.saw(x, logits)
        return logits

    def metrics(self) -> Mapping[str, float]:
        """Mean entropy of the answers."""
        return self._watch.metrics()

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._watch.load_state_dict(state["watch"])
