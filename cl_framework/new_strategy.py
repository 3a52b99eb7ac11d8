"""L2-SP: stay close to the weights that the last experience left. (Your method in prose, its equation, its source.)

Adds alpha / 2 * sum_i (theta_i - theta*_i)^2 to the loss, theta* being the weights after the last experience. Li,
Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework import Batch, Experience, Model, Output, Strategy, StreamInfo, tunable


@dataclass(kw_only=True, eq=False)
class MyMethod(Strategy):
    """Pulls every weight towards where the last experience left it."""

    # Values at which this is exactly fine-tuning; a check holds you to it. Leave it out where there are none.
    neutral: ClassVar[Mapping[str, object]] = {"alpha": 0.0}

    # Fields are the configuration: a type, a default, a docstring each. The values after the default are the grid of
    # `clf tune`. Construction is data alone; what is learned begins in `setup`.
    alpha: float = tunable(0.1, 0.01, 0.1, 1.0, low=0.0)
    """Strength of the pull."""

    # A hook that you leave out does nothing. There are eighteen (docs/authoring.md of cl_framework): `prepare_batch`
    # adds rows to a batch, `loss` replaces the cross-entropy, `after_backward` edits gradients, and so on.

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Once, before the first experience."""
        self._anchor: dict[str, Tensor] = {}

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Each step; a scalar that is added to the loss. Rows that the head has grown since are free."""
        if not self._anchor or self.alpha == 0:
            return super().penalty(model, batch, output)
        terms = [(value[: len(self._anchor[name])] - self._anchor[name]).square().sum()
                 for name, value in model.named_parameters()]
        return self.alpha / 2 * torch.stack(terms).sum()

    def after_experience(self, model: Model, experience: Experience) -> None:
        """After training, before evaluation."""
        self._anchor = {name: value.detach().clone() for name, value in model.named_parameters()}

    def metrics(self) -> Mapping[str, float]:
        """Your own figures; `memory_bytes` is what you keep."""
        return {"memory_bytes": sum(value.numel() * value.element_size() for value in self._anchor.values())}

    # Whatever a later step depends on goes through these two: tensors and plain data. Then a killed run goes on with
    # the same bits, which two of the checks try.

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill."""
        return {"anchor": dict(self._anchor)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put it back; `setup` was called before."""
        self._anchor = {name: value.to(model.device) for name, value in state["anchor"].items()}
