"""Synaptic intelligence: hold the weights whose movement made the loss fall.

While an experience is learned, each weight's part in what the loss falls by is summed over the optimizer's steps,

    omega_i = -sum_t g_i(t) (theta_i(t + 1) - theta_i(t)),

g being the gradient of the batch's loss. For small steps sum_i omega_i is the whole fall. At the end

    Omega_i <- max(0, Omega_i + omega_i / (Delta_i^2 + xi)),

Delta_i being how far the weight has come, and later steps add c sum_i Omega_i (theta_i - theta*_i)^2, theta* being the
weights that the last experience left. Zenke, Poole and Ganguli, "Continual Learning Through Synaptic Intelligence",
ICML 2017, arXiv 1703.04200, equations 3 to 5. The maximum is in the authors' code and not in the paper: a negative
Omega would reward running away. Some code leaves it out, or bounds Omega from above.

g is the loss's own: the penalty's gradient is not in it, as in the authors' code (some code integrates the sum of
both). It is taken before clipping, while the movement is the actual one, with momentum and all; where a step starts is
copied (kept as a view it moves along, and every omega is 0). In a chain other penalties, and what parts before this one
did to the gradient, count as loss; a part that edits gradients goes behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor, added, trainable
from ._path import PathIntegral


@dataclass(kw_only=True, eq=False)
class SI(Strategy):
    """Anchors weights by their part in what was learned."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(1.0, 0.01, 0.1, 1.0, 10.0, 100.0, low=0.0)
    """Strength c of the penalty."""
    xi: float = tunable(1e-3, 1e-3, 1e-2, 0.1, 1.0, low=1e-12)
    """Damping: bounds the importance of weights that hardly moved."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._anchor, self._path = Anchor(), PathIntegral()

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the weights where the experience finds them, and begin a path there."""
        self._anchor.place(model, self._anchor.importance)
        self._path.restart(trainable(model))

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """c Omega (theta - theta*)^2."""
        return self._anchor.penalty(model, self.importance)

    def after_backward(self, model: Model) -> None:
        """Note where the step starts, and the loss's own gradient."""
        params = list(trainable(model).values())
        self._path.before_step(params, self._anchor.loss_gradients(params, self.importance))

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Add the step to the path."""
        self._path.after_step()

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Turn the path into importance."""
        theta, path = self._anchor.theta, self._path.total
        new = {name: path[name] / ((param.detach() - theta[name]).square() + self.xi)
               for name, param in trainable(model).items()}
        total = added(self._anchor.importance, new)
        self._anchor.importance = {name: value.clamp(min=0.0) for name, value in total.items()}

    def metrics(self) -> Mapping[str, float]:
        """Bytes of importance, anchor and path."""
        return {"memory_bytes": self._anchor.n_bytes + self._path.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """Importance, anchor and the path so far."""
        return {"anchor": self._anchor.state_dict(), "path": self._path.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._anchor.load_state_dict(model, state["anchor"])
        self._path.load_state_dict(model, state["path"])
