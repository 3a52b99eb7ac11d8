"""SAR: sharpness-aware entropy minimisation on reliable rows, with recovery from collapse.

Rows with entropy H below E_0 = 0.4 ln C are reliable. With g the gradient of their mean entropy, the weights climb to

    theta^ = theta + rho g / ||g||,

and the step at theta goes down the gradient, taken at theta^, of the mean entropy of those reliable rows that are so
at theta^ too. A running mean e of that second entropy (0.9 old, 0.1 new) below 0.2 says that the model has collapsed
to few classes: weights and optimizer are those of the source again. Over scales and shifts of normalisation layers.
Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023, arXiv 2302.12400, equations 2 to 4.

After a recovery e starts anew (the authors' code keeps it, and recovers again and again until it has risen). A batch
without reliable rows changes nothing; there the momentum of released code still moves the weights. That code leaves
the last stage of a ResNet as it is: `n_fixed_layers` counts such layers from the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import Adapted, batch_logits, entropy, norm_weights, several_rows, unlabelled
from ._statistics import BESIDE
from ._teacher import n_bytes
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class SAR(Strategy):
    """Minimises the entropy of reliable rows at flat places, and recovers from collapse."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    lr: float = tunable(1e-3, 1e-4, 2.5e-4, 1e-3, 3e-3, low=0.0)
    """Learning rate."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "sgd"
    """Update rule; sgd has momentum 0.9."""
    rho: float = tunable(0.05, 0.01, 0.05, 0.1, low=0.0)
    """How far the weights climb."""
    entropy_margin: float = tunable(0.4, 0.2, 0.4, 0.6, low=0.0, high=1.0)
    """E_0 as a part of ln C, the largest entropy."""
    collapse_entropy: float = bounded(0.2, low=0.0)
    """Running mean entropy below which the model is reset; 0 never resets."""
    n_fixed_layers: int = bounded(0, low=0)
    """Normalisation layers, counted from the last, that keep their source weights."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Scale and shift of the normalisation layers learn; their source values are kept."""
        unlabelled("sar", info)
        several_rows("sar", info)
        weights = norm_weights("sar", model)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in weights))
        learning = layers[: max(len(layers) - self.n_fixed_layers, 0)]
        if not learning:
            raise ConfigError(f"strategy.sar.n_fixed_layers={self.n_fixed_layers} leaves none of the {len(layers)} "
                              "normalisation layers to adapt; set a lower number")
        chosen = {name: param for name, param in weights.items() if name.rpartition(".")[0] in learning}
        self._adapted = Adapted(model, chosen, self.update_rule, self.lr)
        self._source = self._adapted.copied()
        self._margin = self.entropy_margin * math.log(max(info.n_classes, 2))
        self._mean: float | None = None
        self._n_resets = 0
        self._watch = Watch(info, model.device)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The logits before the step, and a sharpness-aware step on reliable rows."""
        logits = batch_logits(model, x)
        uncertainty = entropy(logits)
        reliable = uncertainty.detach() < self._margin
        self._watch.saw(x, logits.detach())
        self._watch.add("adapted_rows", reliable.sum(), len(reliable))
        if reliable.any():
            self._step(model, x, uncertainty[reliable].mean(), reliable)
        if self._mean is not None and self._mean < self.collapse_entropy:
            self._adapted.restart(self._source)
            self._mean = None
            self._n_resets += 1
        return logits.detach()

    def _step(self, model: Model, x: Inputs, loss: Tensor, reliable: Tensor) -> None:
        params: list[Tensor] = list(self._adapted.params.values())
        slopes = torch.autograd.grad(loss, params, materialize_grads=True)
        norm = torch.stack(torch._foreach_norm(slopes)).norm()
        before = [param.detach().clone() for param in params]
        with torch.no_grad():
            torch._foreach_add_(params, list(torch._foreach_mul(slopes, self.rho / (norm + 1e-12))))
        climbed = entropy(batch_logits(model, x))
        chosen = climbed[reliable & (climbed.detach() < self._margin)]
        if len(chosen):
            second = chosen.mean()
            self._mean = second.item() if self._mean is None else 0.9 * self._mean + 0.1 * second.item()
            second.backward()
        with torch.no_grad():
            torch._foreach_copy_(params, before)
        if len(chosen):
            self._adapted.apply()

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits with the statistics of these rows."""
        return batch_logits(model, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, mean entropy of the answers, the part of rows that are reliable, and resets so far."""
        return {"memory_bytes": n_bytes(self._source.values()) + self._adapted.n_bytes, "n_resets": self._n_resets,
                **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, source weights, running mean and counts."""
        return {"optimizer": self._adapted.state_dict(), "source": dict(self._source), "mean": self._mean,
                "n_resets": self._n_resets, "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._adapted.load_state_dict(state["optimizer"])
        self._source = {name: value.to(model.device) for name, value in state["source"].items()}
        self._mean, self._n_resets = state["mean"], state["n_resets"]
        self._watch.load_state_dict(state["watch"])
