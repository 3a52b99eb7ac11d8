"""L2 anchoring: hold every weight equally close to where it was.

Learning experience k adds, theta_{k-1} being the weights that the one before it left,

    lambda/2 ||theta - theta_{k-1}||^2.

The baseline of Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796
(figure 2), and of Hsu et al., "Re-evaluating Continual Learning Scenarios", 2018, arXiv 1810.12488, where the factor
1/2 is missing: their coefficient is half of lambda. It is elastic weight consolidation with every importance 1 and a
single anchor, and shows what knowing the important weights is worth. It is not weight decay, which pulls towards 0.
All weights that exist are held, also rows of a whole head for classes not met yet, which have only their initial values
to keep: they learn the more slowly for it. Rows that a growing head gets later are free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor, trainable


@dataclass(kw_only=True, eq=False)
class L2(Strategy):
    """Anchors all weights alike."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(0.1, 1e-3, 1e-2, 0.1, 1.0, 10.0, low=0.0)
    """Strength lambda of the penalty."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._anchor = Anchor()

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """lambda/2 ||theta - theta*||^2."""
        return self._anchor.penalty(model, self.importance / 2)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the weights where they are."""
        self._anchor.theta = {name: param.detach().clone() for name, param in trainable(model).items()}
        self._anchor.importance = dict.fromkeys(self._anchor.theta, torch.ones((), device=model.device))

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the anchor."""
        return {"memory_bytes": self._anchor.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """The anchor."""
        return self._anchor.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._anchor.load_state_dict(model, state)
