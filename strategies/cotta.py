"""CoTTA: a mean teacher that averages over views, and weights that fall back to the source at random.

For a batch x the teacher theta' gives the target z_t: its mean logits over random views of x where the source is
unsure, mean_b max_c p(x; theta_0) < tau, else its logits on x. The student learns

    L = -(1/B) sum_b sum_c p_c(z_t) log p_c(x; theta),

then theta' <- a theta' + (1 - a) theta, and each weight of the student is set back to its source value with
probability r. The answer is z_t. Wang, Fink, Van Gool and Dai, "Continual Test-Time Domain Adaptation", CVPR 2022,
arXiv 2203.13591, equations 2 to 8, and the authors' code for small images, where views are averaged as logits.

All networks normalise with the statistics of the batch, and all weights and biases learn. tau = 0.92 for CIFAR-10,
0.72 for CIFAR-100 and 0.1 for ImageNet in the authors' code. Held-out rows are answered by the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.seeding import derive
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import (
    Adapted,
    all_weights,
    batch_logits,
    meet_classes,
    several_rows,
    soft_cross_entropy,
    unlabelled,
)
from ._statistics import BESIDE
from ._teacher import frozen_copy, n_bytes, restored_teacher, teacher_state, tensors_of
from ._views import Views
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class CoTTA(Strategy):
    """Learns from a teacher that averages weights and views; some weights return to the source."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    lr: float = tunable(1e-3, 1e-4, 3e-4, 1e-3, low=0.0)
    """Learning rate."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; sgd has momentum 0.9."""
    momentum: float = tunable(0.999, 0.99, 0.999, low=0.0, high=1.0)
    """Momentum a of the teacher."""
    restore_probability: float = tunable(0.01, 0.0, 0.001, 0.01, 0.1, low=0.0, high=1.0)
    """Probability r with which a weight returns to the source, at each step."""
    confidence_gate: float = bounded(0.92, low=0.0, high=1.0)
    """Mean confidence tau of the source below which views are averaged; 0 never averages."""
    n_views: int = bounded(32, low=0)
    """Views that are averaged; 0 takes the batch as it is."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Teacher and source are copies of the model."""
        unlabelled("cotta", info)
        several_rows("cotta", info)
        self._teacher: Model | None = frozen_copy(model)
        self._source: Model | None = frozen_copy(model)
        self._adapted = Adapted(model, all_weights(model), self.update_rule, self.lr)
        self._views = Views(info, model.device, "cotta") if self.n_views else None
        self._generator = torch.Generator(model.device).manual_seed(derive(info.seed, "cotta", "restore"))
        self._watch = Watch(info, model.device)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Figures are given for each experience."""
        meet_classes(model, self._teacher, self._source)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The teacher's logits before the step, and the step."""
        target = self._target(x)
        self._adapted.step(soft_cross_entropy(batch_logits(model, x), target).mean())
        self._average_and_restore()
        self._watch.saw(x, target)
        return target

    @torch.no_grad()
    def _target(self, x: Inputs) -> Tensor:
        assert self._teacher is not None and self._source is not None
        if self._views is None or self.confidence_gate == 0:
            return batch_logits(self._teacher, x)
        confidence = batch_logits(self._source, x).softmax(1).amax(1).mean()
        if confidence.item() >= self.confidence_gate:
            return batch_logits(self._teacher, x)
        return torch.stack([batch_logits(self._teacher, self._views(x)) for _ in range(self.n_views)]).mean(0)

    @torch.no_grad()
    def _average_and_restore(self) -> None:
        assert self._teacher is not None and self._source is not None
        params: list[Tensor] = list(self._adapted.params.values())
        own: list[Tensor] = list(all_weights(self._teacher).values())
        first: list[Tensor] = list(all_weights(self._source).values())
        torch._foreach_lerp_(own, params, 1 - self.momentum)
        if self.restore_probability > 0:
            for param, source in zip(params, first, strict=True):
                drawn = torch.rand(param.shape, generator=self._generator, device=param.device)
                param.copy_(torch.where(drawn < self.restore_probability, source, param))

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The teacher's logits with the statistics of these rows."""
        assert self._teacher is not None
        return batch_logits(self._teacher, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, and mean entropy of the answers."""
        kept = n_bytes([*tensors_of(self._teacher), *tensors_of(self._source)]) + self._adapted.n_bytes
        return {"memory_bytes": kept, **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Teacher, source, optimizer, generators and what was counted."""
        return {"teacher": teacher_state(self._teacher), "source": teacher_state(self._source),
                "optimizer": self._adapted.state_dict(), "generator": self._generator.get_state(),
                "views": None if self._views is None else self._views.state_dict(), "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._teacher = restored_teacher(model, state["teacher"])
        self._source = restored_teacher(model, state["source"])
        self._adapted.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        if self._views is not None:
            self._views.load_state_dict(state["views"])
        self._watch.load_state_dict(state["watch"])
