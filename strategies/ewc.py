"""Elastic weight consolidation: hold weights that mattered close to where they were.

After each experience k the diagonal F_k of the Fisher information is measured on its rows, at the weights theta_k that
it left. Later steps add

    lambda/2 sum_k sum_i F_{k,i} (theta_i - theta_{k,i})^2.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, arXiv 1612.00796, equation 3.
F_{k,i} is the mean over rows of the squared gradient of *one* row's log-likelihood (not the square of a batch's mean
gradient, a common slip that makes it smaller by the batch size). By default the label of each row is drawn from the
model's own answer, as the Fisher information says; `labels=data` takes the given one, the "empirical Fisher" (Kunstner,
Balles, Hennig, NeurIPS 2019, arXiv 1905.12558).

A sum of quadratics is one quadratic: with F = sum_k F_k and the anchor theta* = sum_k F_k theta_k / F,

    sum_k F_k (theta - theta_k)^2 = F (theta - theta*)^2 + const,

so that two numbers a weight are kept however many experiences come, with exactly the gradient of the sum. Rows of a
head that had no gradient then, or did not exist, have importance 0 and are free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import grown
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.sensitivity import fisher_diagonal
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor


@dataclass(kw_only=True, eq=False)
class EWC(Strategy):
    """Anchors weights by their Fisher information."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(100.0, 1.0, 10.0, 100.0, 1e3, 1e4, low=0.0)
    """Strength lambda of the penalty."""
    n_samples: int = bounded(1024, low=1)
    """Rows of an experience on which its Fisher information is measured."""
    labels: Literal["model", "data", "argmax"] = "model"
    """Where the labels of these rows come from: drawn from the model's answer, the given ones, or its most likely
    ones."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._generator = generator(info.seed, "ewc", "fisher")
        self._anchor = Anchor()

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """lambda/2 F (theta - theta*)^2."""
        return self._anchor.penalty(model, self.importance / 2)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Measure the Fisher information and merge it in."""
        fisher = fisher_diagonal(model, experience.train, n_samples=self.n_samples, generator=self._generator,
                                 labels=self.labels)
        params, old, anchor = dict(model.named_parameters()), self._anchor.importance, self._anchor.theta
        for name, new in fisher.items():
            theta = params[name].detach().clone()
            if name in old:
                total = grown(old[name], torch.zeros_like(new)) + new
                share = torch.where(total > 0, new / total, 0.0)
                old[name], anchor[name] = total, grown(anchor[name], theta).lerp(theta, share)
            else:
                old[name], anchor[name] = new, theta

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
