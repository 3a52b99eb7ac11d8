"""Riemannian walk: Fisher information and the path of training, both measured while training.

Each step with the loss's own gradient g updates a running, empirical Fisher information,

    F <- alpha g^2 + (1 - alpha) F,

and a path integral Delta L = -sum_t g (theta(t + 1) - theta(t)). After every interval of steps a weight scores how much
the loss has fallen for how far the model's answers have moved, in the metric of the divergence between them,

    s_i <- s_i + max(0, Delta L_i) / (1/2 F_i (theta_i - theta_i(start of the interval))^2 + epsilon).

At the end of an experience its scores are averaged with those before, s^k = 1/2 (s^{k-1} + s), and later steps add
lambda sum_i (F_i / max F + s^k_i / max s^k) (theta_i - theta*_i)^2. Chaudhry, Dokania, Ajanthan and Torr, "Riemannian
Walk for Incremental Learning: Understanding Forgetting and Intransigence", ECCV 2018, arXiv 1801.10112, section 4.

The authors' code clips at 0 interval by interval, as here, and has epsilon = 1e-3. It differs from the paper, and from
this, in that F changes once an interval, the factor 1/2 is missing, and the average is added to the old score instead
of replacing it. It subtracts the smallest value before it scales, which is 0 wherever a weight is idle. Here F starts
at 0, an experience's last interval ends with it, and the first experience has no scores to average with. g is of a
batch's mean loss, so that F is smaller than a per-sample Fisher information, by up to the batch size; that matters
against epsilon alone. g is without the penalty's gradient and before clipping; in a chain other penalties, and what
parts before this one did to the gradient, count as loss. The paper also replays exemplars: that is `er+rwalk`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import grown
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._anchor import Anchor, copied, trainable
from ._path import PathIntegral
from ._teacher import n_bytes


def scaled(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Non-negative values divided by the largest of all.

    >>> scaled({"w": torch.tensor([0.0, 1.0]), "b": torch.tensor([2.0])})
    {'w': tensor([0.0000, 0.5000]), 'b': tensor([1.])}
    """
    largest = torch.stack([value.max() for value in values.values() if value.numel()]).max()
    return {name: value / largest.clamp(min=torch.finfo(value.dtype).tiny) for name, value in values.items()}


@dataclass(kw_only=True, eq=False)
class RWalk(Strategy):
    """Anchors weights by running Fisher information and by what their path achieved."""

    neutral: ClassVar[Mapping[str, object]] = {"importance": 0.0}

    importance: float = tunable(1.0, 0.1, 1.0, 10.0, 100.0, 1e3, low=0.0)
    """Strength lambda of the penalty; the importance of no weight is above 2."""
    alpha: float = tunable(0.9, 0.1, 0.5, 0.9, low=0.0, high=1.0)
    """Share of the newest gradient in the running Fisher information."""
    interval: int = tunable(10, 10, 50, low=1)
    """Steps after which the path is scored."""
    eps: float = bounded(1e-3, low=1e-12)
    """Damping epsilon: bounds the score of weights that hardly moved."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is anchored yet."""
        self._anchor, self._path, self._n_steps = Anchor(), PathIntegral(), 0
        self._fisher: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}
        self._score: dict[str, Tensor] = {}
        self._past_score: dict[str, Tensor] = {}

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the weights where the experience finds them, and begin a path there."""
        params = trainable(model)
        self._anchor.place(model, self._anchor.importance)
        self._path.restart(params)
        self._n_steps = 0
        self._start = {name: param.detach().clone() for name, param in params.items()}
        self._score = {name: torch.zeros_like(param) for name, param in self._start.items()}
        self._fisher = {name: grown(self._fisher.get(name, zero), zero).clone() for name, zero in self._score.items()}

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """lambda (F + s) (theta - theta*)^2, both terms scaled."""
        return self._anchor.penalty(model, self.importance)

    @torch.no_grad()
    def after_backward(self, model: Model) -> None:
        """Note where the step starts, and the loss's own gradient; update F."""
        params = list(trainable(model).values())
        gradients = self._anchor.loss_gradients(params, self.importance)
        fisher = tuple(self._fisher.values())
        torch._foreach_mul_(fisher, 1 - self.alpha)
        torch._foreach_addcmul_(fisher, gradients, gradients, value=self.alpha)
        self._path.before_step(params, gradients)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Add the step to the path; score it where the interval is over."""
        self._path.after_step()
        self._n_steps += 1
        if self._n_steps % self.interval == 0:
            self._score_interval(model)

    @torch.no_grad()
    def _score_interval(self, model: Model) -> None:
        params, fallen = trainable(model), self._path.total
        for name, param in params.items():
            divergence = 0.5 * self._fisher[name] * (param - self._start[name]).square()
            self._score[name] += fallen[name].clamp(min=0.0) / (divergence + self.eps)
            self._start[name].copy_(param)
        self._path.restart(params)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Score the last interval, and turn both measures into importance."""
        self._score_interval(model)
        self._past_score = {name: (grown(self._past_score[name], torch.zeros_like(score)) + score) / 2
                            if name in self._past_score else score for name, score in self._score.items()}
        fisher, score = scaled(self._fisher), scaled(self._past_score)
        self._anchor.importance = {name: value + score[name] for name, value in fisher.items()}

    def metrics(self) -> Mapping[str, float]:
        """Bytes of importance, anchor, Fisher information, scores and path."""
        running = [self._fisher, self._start, self._score, self._past_score]
        return {"memory_bytes": self._anchor.n_bytes + self._path.n_bytes
                + sum(n_bytes(values.values()) for values in running)}

    def state_dict(self) -> dict[str, Any]:
        """Importance, anchor, and all that is running, copied: steps change it in place."""
        running = {"fisher": self._fisher, "start": self._start, "score": self._score, "past_score": self._past_score}
        return {"anchor": self._anchor.state_dict(), "path": self._path.state_dict(), "n_steps": self._n_steps,
                **{key: {name: value.clone() for name, value in values.items()} for key, values in running.items()}}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._anchor.load_state_dict(model, state["anchor"])
        self._path.load_state_dict(model, state["path"])
        self._n_steps = state["n_steps"]
        self._fisher, self._start = copied(state["fisher"], model), copied(state["start"], model)
        self._score, self._past_score = copied(state["score"], model), copied(state["past_score"], model)
