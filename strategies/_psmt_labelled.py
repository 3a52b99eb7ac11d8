"""PSMT on a labelled stream, our adaptation: a teacher that answers, agreement on old classes, and an anchor.

The equations and choices are in `psmt`. The student is the model. What a step selects is chosen between its backward
pass and its step, and read once the step is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.functional import leading, quadratic, symmetric_cross_entropy
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo

from ._selection import batch_fisher, unselected
from ._teacher import frozen_copy, logits_of, n_bytes, resize_head, restored_teacher, teacher_state, tensors_of

_HEAD = ("head.weight", "head.bias")
_LONG = 2000


@dataclass(frozen=True, kw_only=True)
class LabelledRules:
    """The fields of `psmt` that a labelled stream reads, with their defaults filled in."""

    kappa: float
    penalty_strength: float
    momentum: float | None
    selected_fraction: float
    mask: Literal["crucial", "least"]
    mask_scope: Literal["global", "layer"]
    answer: Literal["teacher", "student", "sum"]
    n_samples: int
    fisher_batch_size: int


class LabelledPSMT(Strategy):
    """Teacher, Fisher and anchor; until there is a teacher, the model answers.

    Raises:
        ConfigError: the stream gives no labels.
    """

    def __init__(self, rules: LabelledRules, info: StreamInfo) -> None:
        if not info.is_labelled:
            raise ConfigError("psmt with variant=supervised learns from labels, and this stream gives none; set "
                              "strategy.psmt.variant=paper or strategy.psmt.variant=release")
        self.rules = rules
        self.teacher: Model | None = None
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.n_old = self.n_done = self.n_steps = 0
        self._follows: dict[str, Tensor] = {}
        self._generator = generator(info.seed, "psmt", "fisher")

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The teacher's head gets the student's rows for new classes; the first teacher is the student."""
        self.n_steps = 0
        if self.teacher is None:
            self.teacher = frozen_copy(model)
            return
        head, own = model.head, self.teacher.head
        weight = torch.cat([own.weight[: self.n_old], head.weight.detach()[self.n_old:]])
        resize_head(self.teacher, weight, torch.cat([own.bias[: self.n_old], head.bias.detach()[self.n_old:]]))
        self.teacher.set_extra_state(model.get_extra_state())

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Agreement with the teacher on old classes, and the anchor."""
        total = super().penalty(model, batch, output)
        if self.teacher is not None and self.n_done and self.rules.kappa > 0:
            target = logits_of(self.teacher, batch.x)[:, : self.n_old]
            total = total + self.rules.kappa * symmetric_cross_entropy(output.logits[:, : self.n_old], target)
        if self.fisher and self.rules.penalty_strength > 0:
            params = dict(model.named_parameters())
            total = total + self.rules.penalty_strength * quadratic(params, self.anchor, self.fisher)
        return total

    @torch.no_grad()
    def after_backward(self, model: Model) -> None:
        """Choose which weights the teacher takes over from this step."""
        if self.n_done == 0 or self.rules.selected_fraction == 0:
            return
        old = {name: self._old_rows(name, param.grad) for name, param in model.named_parameters()
               if param.grad is not None}
        if not old:
            return
        squared = dict(zip(old, torch._foreach_mul(list(old.values()), list(old.values())), strict=True))
        self._follows = unselected(squared, self.rules.selected_fraction, self.rules.mask, self.rules.mask_scope)

    @torch.no_grad()
    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Move the teacher."""
        if self.teacher is None:
            return
        momentum = self._momentum()
        follow, follow_new = 1 - momentum, 1 - min(momentum, 1 - 1 / (self.n_steps + 1))
        body = follow if self.n_done else follow_new
        self.n_steps += 1
        theirs, own = dict(model.named_parameters()), dict(self.teacher.named_parameters())
        rates = {name: self._rate(name, value, follow, follow_new) for name, value in own.items()
                 if self.n_done and (name in self._follows or name in _HEAD)}
        rest = [name for name in own if name not in rates]
        if rest:
            torch._foreach_lerp_([own[k] for k in rest], [theirs[k].detach() for k in rest], body)
        if rates:
            torch._foreach_lerp_([own[k] for k in rates], [theirs[k].detach() for k in rates], list(rates.values()))
        self._follows = {}
        statistics = dict(model.named_buffers())
        for name, value in self.teacher.named_buffers():
            if value.is_floating_point():
                value.lerp_(statistics[name], body)
            else:
                value.copy_(statistics[name])

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Anchor the student, and merge the experience's batch-Fisher into the mean."""
        self.n_old = model.n_seen
        self.n_done += 1
        if self.rules.penalty_strength == 0:
            return
        fisher = batch_fisher(model, experience.train, n_samples=self.rules.n_samples,
                              batch_size=self.rules.fisher_batch_size, generator=self._generator)
        for name, new in fisher.items():
            if name in self.fisher:
                old = torch.zeros_like(new)
                leading(old, self.fisher[name]).copy_(self.fisher[name])
                new = old.lerp(new, 1 / self.n_done)
            self.fisher[name] = new
        self.anchor = {name: param.detach().clone() for name, param in model.named_parameters() if name in fisher}

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The teacher's logits, the student's, or their sum."""
        if self.teacher is None or self.rules.answer == "student":
            return super().predict(model, x, task)
        answer = logits_of(self.teacher, x)
        return answer + super().predict(model, x, task) if self.rules.answer == "sum" else answer

    def metrics(self) -> Mapping[str, float]:
        """Bytes of teacher, Fisher and anchor."""
        return {"memory_bytes": n_bytes([*tensors_of(self.teacher), *self.fisher.values(), *self.anchor.values()])}

    def state_dict(self) -> dict[str, Any]:
        """Teacher, Fisher, anchor, counts and the generator."""
        return {"teacher": teacher_state(self.teacher), "fisher": dict(self.fisher), "anchor": dict(self.anchor),
                "n_old": self.n_old, "n_done": self.n_done, "n_steps": self.n_steps,
                "generator": self._generator.get_state()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.teacher = restored_teacher(model, state["teacher"])
        self.fisher = {name: value.to(model.device) for name, value in state["fisher"].items()}
        self.anchor = {name: value.to(model.device) for name, value in state["anchor"].items()}
        self.n_old, self.n_done, self.n_steps = state["n_old"], state["n_done"], state["n_steps"]
        self._generator.set_state(state["generator"].cpu())

    def _momentum(self) -> float:
        if self.rules.momentum is not None:
            return self.rules.momentum
        return 0.99 if self.n_steps < _LONG else 0.999

    def _old_rows(self, name: str, value: Tensor) -> Tensor:
        return value[: self.n_old] if name in _HEAD else value

    def _rate(self, name: str, value: Tensor, follow: float, follow_new: float) -> Tensor:
        """How far each entry of a parameter goes towards the student: 0 where it was selected."""
        rate = torch.full_like(value, follow)
        if name in self._follows:
            self._old_rows(name, rate).mul_(self._follows[name])
        if name in _HEAD:
            rate[self.n_old:] = follow_new
        return rate
