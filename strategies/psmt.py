"""Supervised adaptation of PSMT: a mean teacher that keeps its crucial weights.

PSMT (Tian & Lyu, "Parameter-Selective Continual Test-Time Adaptation", ACCV 2024, arXiv 2407.02253) adapts a
classifier to unlabelled test rows whose distribution drifts. What is here is *our supervised adaptation* of it to a
stream of labelled experiences, not the paper's method, and no number from it is a result of the paper. A student is
trained by

    L = CE(z_s, y) + kappa SCE(z_s[old], z_t[old]) + lambda sum_i F_i (theta_i - A_i)^2,

where z_s, z_t are the logits of student and teacher on the same rows, SCE is the symmetric cross-entropy over the
classes seen before the experience, A the student at the end of the last experience, and F the mean over experiences of
their batch-Fisher: the squared gradient of a batch's mean loss, with the student's own answers as labels, in eval mode.
In the first experience the last two terms are absent. After each step the teacher moves by a selective average,

    theta' <- m theta' + (1 - m)(a theta' + (1 - a) theta),     m_i = 1[f_i > Q_{1 - rho}(f)],     f = (dL / dtheta)^2,

so the fraction rho of weights that the step moves most, the crucial ones, keep their value in the teacher, who answers.

Choices where the paper says nothing:

- *Scale of F.* A batch's Fisher shrinks like 1/B, and the paper's release sets lambda = 500 at B = 200. Here a batch of
  B rows counts B/200 times its squared gradient, which amounts to lambda B/200 and holds for a short last batch too.
- *New is free.* Rows of the head for new classes are copied from the student when the experience begins, are in no
  penalty and no mask, and follow it with momentum min(a, 1 - 1/(n + 1)) at step n = 0, 1, ...: the mean of the
  student's weights so far, later the running one. In the first experience everything is new in this
  sense: a mask would freeze weights at their random start.
- *f* is the gradient that the optimizer sees before clipping, the penalty's share included.
- Running statistics of normalisation layers are averaged like weights that are never crucial.

Ablations: `selected_fraction=0 penalty_strength=0` is a plain mean teacher; `kappa=0 selected_fraction=0
predict_with=student` is a quadratic penalty alone; `kappa=0 penalty_strength=0` is the selective average alone;
`mask=least` selects the weights that the step moves least, the direction of the paper's release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import leading, quadratic, symmetric_cross_entropy
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo

from ._selection import batch_fisher, unselected
from ._teacher import frozen_copy, logits_of, n_bytes, resize_head, restored_teacher, teacher_state, tensors_of

_HEAD = ("head.weight", "head.bias")
_LONG = 2000


@dataclass(kw_only=True, eq=False)
class PSMT(Strategy):
    """Trains a student; a teacher averages all but its crucial weights, and answers."""

    neutral: ClassVar[Mapping[str, object]] = {"kappa": 0.0, "penalty_strength": 0.0, "predict_with": "student"}

    variant: Literal["supervised"] = "supervised"
    """Which form: the adaptation to labelled experiences."""
    kappa: float = tunable(1.0, 0.1, 0.3, 1.0, 3.0, low=0.0)
    """Weight of the teacher's answer on the old classes."""
    penalty_strength: float = tunable(500.0, 50.0, 500.0, 5000.0, low=0.0)
    """Strength lambda of the penalty, for a batch-Fisher of 200 rows."""
    momentum: float | None = tunable(None, 0.9, 0.99, 0.999, low=0.0, high=1.0)
    """Momentum a of the teacher; null is 0.99 for the first 2000 steps of an experience and 0.999 from then on."""
    selected_fraction: float = tunable(0.03, 0.0, 0.01, 0.03, 0.1, 0.3, low=0.0, high=1.0)
    """Fraction rho of weights that a step selects."""
    mask: Literal["crucial", "least"] = "crucial"
    """Select the weights with the largest squared gradients, or with the smallest."""
    mask_scope: Literal["global", "layer"] = "global"
    """One quantile over all weights, or one for each parameter."""
    predict_with: Literal["teacher", "student"] = "teacher"
    """Who answers."""
    n_samples: int = bounded(10_000, low=1)
    """Rows of an experience on which its batch-Fisher is measured."""
    fisher_batch_size: int = bounded(200, low=1)
    """Rows of one batch of the batch-Fisher."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """There is no teacher yet; until there is, the model answers."""
        self._teacher: Model | None = None
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._n_old = self._n_done = self._n_steps = 0
        self._follows: dict[str, Tensor] = {}
        self._generator = generator(info.seed, "psmt", "fisher")

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The teacher's head gets the student's rows for new classes; the first teacher is the student."""
        self._n_steps = 0
        if self._teacher is None:
            self._teacher = frozen_copy(model)
            return
        head, own = model.head, self._teacher.head
        weight = torch.cat([own.weight[: self._n_old], head.weight.detach()[self._n_old:]])
        resize_head(self._teacher, weight, torch.cat([own.bias[: self._n_old], head.bias.detach()[self._n_old:]]))
        self._teacher.set_extra_state(model.get_extra_state())

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Agreement with the teacher on old classes, and the anchor."""
        total = super().penalty(model, batch, output)
        if self._teacher is not None and self._n_done and self.kappa > 0:
            target = logits_of(self._teacher, batch.x)[:, : self._n_old]
            total = total + self.kappa * symmetric_cross_entropy(output.logits[:, : self._n_old], target)
        if self._fisher and self.penalty_strength > 0:
            params = dict(model.named_parameters())
            total = total + self.penalty_strength * quadratic(params, self._anchor, self._fisher)
        return total

    @torch.no_grad()
    def after_backward(self, model: Model) -> None:
        """Choose which weights the teacher takes over from this step."""
        if self._n_done == 0 or self.selected_fraction == 0:
            return
        old = {name: self._old_rows(name, param.grad) for name, param in model.named_parameters()
               if param.grad is not None}
        if not old:
            return
        squared = dict(zip(old, torch._foreach_mul(list(old.values()), list(old.values())), strict=True))
        self._follows = unselected(squared, self.selected_fraction, self.mask, self.mask_scope)

    @torch.no_grad()
    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Move the teacher."""
        if self._teacher is None:
            return
        momentum = self._momentum()
        follow, follow_new = 1 - momentum, 1 - min(momentum, 1 - 1 / (self._n_steps + 1))
        body = follow if self._n_done else follow_new
        self._n_steps += 1
        theirs, own = dict(model.named_parameters()), dict(self._teacher.named_parameters())
        rates = {name: self._rate(name, value, follow, follow_new) for name, value in own.items()
                 if self._n_done and (name in self._follows or name in _HEAD)}
        rest = [name for name in own if name not in rates]
        if rest:
            torch._foreach_lerp_([own[k] for k in rest], [theirs[k].detach() for k in rest], body)
        if rates:
            torch._foreach_lerp_([own[k] for k in rates], [theirs[k].detach() for k in rates], list(rates.values()))
        self._follows = {}
        statistics = dict(model.named_buffers())
        for name, value in self._teacher.named_buffers():
            if value.is_floating_point():
                value.lerp_(statistics[name], body)
            else:
                value.copy_(statistics[name])

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the student, and merge the experience's batch-Fisher into the mean."""
        self._n_old = model.n_seen
        self._n_done += 1
        if self.penalty_strength == 0:
            return
        fisher = batch_fisher(model, experience.train, n_samples=self.n_samples, batch_size=self.fisher_batch_size,
                              generator=self._generator)
        for name, new in fisher.items():
            if name in self._fisher:
                old = torch.zeros_like(new)
                leading(old, self._fisher[name]).copy_(self._fisher[name])
                new = old.lerp(new, 1 / self._n_done)
            self._fisher[name] = new
        self._anchor = {name: param.detach().clone() for name, param in model.named_parameters() if name in fisher}

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The teacher's logits, or the student's."""
        if self._teacher is None or self.predict_with == "student":
            return super().predict(model, x, task)
        return logits_of(self._teacher, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of teacher, Fisher and anchor."""
        return {"memory_bytes": n_bytes([*tensors_of(self._teacher), *self._fisher.values(), *self._anchor.values()])}

    def state_dict(self) -> dict[str, Any]:
        """Teacher, Fisher, anchor, counts and the generator."""
        return {"teacher": teacher_state(self._teacher), "fisher": dict(self._fisher), "anchor": dict(self._anchor),
                "n_old": self._n_old, "n_done": self._n_done, "n_steps": self._n_steps,
                "generator": self._generator.get_state()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._teacher = restored_teacher(model, state["teacher"])
        self._fisher = {name: value.to(model.device) for name, value in state["fisher"].items()}
        self._anchor = {name: value.to(model.device) for name, value in state["anchor"].items()}
        self._n_old, self._n_done, self._n_steps = state["n_old"], state["n_done"], state["n_steps"]
        self._generator.set_state(state["generator"].cpu())

    def _momentum(self) -> float:
        if self.momentum is not None:
            return self.momentum
        return 0.99 if self._n_steps < _LONG else 0.999

    def _old_rows(self, name: str, value: Tensor) -> Tensor:
        return value[: self._n_old] if name in _HEAD else value

    def _rate(self, name: str, value: Tensor, follow: float, follow_new: float) -> Tensor:
        """How far each entry of a parameter goes towards the student: 0 where it was selected."""
        rate = torch.full_like(value, follow)
        if name in self._follows:
            self._old_rows(name, rate).mul_(self._follows[name])
        if name in _HEAD:
            rate[self._n_old:] = follow_new
        return rate
