"""PSMT on an unlabelled stream: one step of student and teacher, in the form of the paper or of its release.

The equations are in `psmt`; `Rules` says which of them hold. One step passes the batch through the teacher once (once
a view) and through the student once, and goes back once. All else is in place over lists of tensors, and nothing waits
for the device but the check of the first views and a confidence gate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.functional import symmetric_cross_entropy
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, StreamInfo

from ._adaptation import (
    Adapted,
    all_weights,
    answer_fisher,
    by_batch_in,
    meet_classes,
    soft_cross_entropy,
    source_rows,
)
from ._selection import batch_fisher, unselected
from ._teacher import frozen_copy, n_bytes, restored_teacher, teacher_state, tensors_of
from ._views import Views
from ._watch import Watch

_REFERENCE_BATCH = 200


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a step goes; the fields of `psmt` with their defaults filled in.

    Attributes:
        is_restored: selected weights return to the source in student and teacher, and the teacher averages twice;
            else the teacher keeps them and averages once.
        is_symmetric: symmetric cross-entropy between student and teacher, else the teacher is the target alone.
        sees_penalty: the gradients that select are those of the whole loss, else of the consistency alone.
    """

    is_restored: bool
    is_symmetric: bool
    sees_penalty: bool
    anchor: Literal["previous", "segment", "source"]
    segment: int
    fisher: Literal["previous", "source", "stream"]
    fisher_momentum: float
    n_fisher_batches: int
    n_samples: int
    fisher_batch_size: int
    penalty_strength: float
    momentum: float
    selected_fraction: float
    mask: Literal["crucial", "least"]
    mask_scope: Literal["global", "layer"]
    n_views: int
    confidence_gate: float | None
    has_class_factor: bool
    statistics: Literal["batch", "source"]
    answer: Literal["sum", "teacher", "student"]
    update_rule: Literal["adam", "sgd", "nesterov"]
    lr: float
    beta: float
    weight_decay: float
    n_steps: int


class StreamPSMT(Strategy):
    """Student, teacher, anchor and Fisher on an unlabelled stream. The student is the model.

    Args:
        rules: how a step goes.
        model: as it is before the stream.
        info: facts about the stream.
        is_measured: F is measured on source rows before the stream.
    """

    def __init__(self, rules: Rules, model: Model, info: StreamInfo, *, is_measured: bool) -> None:
        self.rules, self._is_measured = rules, is_measured
        self.teacher = frozen_copy(model)
        self.adapted = Adapted(model, all_weights(model), rules.update_rule, rules.lr, beta=rules.beta,
                               weight_decay=rules.weight_decay)
        has_anchor = rules.penalty_strength > 0
        has_source = rules.is_restored or rules.confidence_gate is not None or (has_anchor and rules.anchor == "source")
        self.source = self.adapted.copied() if has_source else {}
        self.anchor = self.adapted.copied() if has_anchor and rules.anchor != "source" else {}
        self.fisher: dict[str, Tensor] = {}
        self.watch = Watch(info, model.device)
        self._views = Views(info, model.device, "psmt") if rules.n_views else None
        self._generator = generator(info.seed, "psmt", "fisher")
        self._n_updates = 0

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The batch-Fisher of source rows, with the model's own answers as labels, before the stream."""
        meet_classes(model, self.teacher)
        if not self._is_measured:
            return
        with self._normalised(model):
            data = source_rows("psmt", experience)
            self.fisher = batch_fisher(model, data, n_samples=self.rules.n_samples, generator=self._generator,
                                       batch_size=self.rules.fisher_batch_size)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The answer before the first step, and the steps."""
        answers = [self._step(model, x) for _ in range(self.rules.n_steps)]
        self.watch.saw(x, answers[0])
        return answers[0]

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The answer to held-out rows."""
        if self.rules.answer == "teacher":
            return self._logits(self.teacher, x)
        logits = self._logits(model, x)
        return logits if self.rules.answer == "student" else logits + self._logits(self.teacher, x)

    def _step(self, model: Model, x: Inputs) -> Tensor:
        target = self._target(model, x)
        logits = self._logits(model, x)
        is_measured = self.rules.fisher == "stream" and self._n_updates < self.rules.n_fisher_batches
        if is_measured and self.rules.penalty_strength > 0:
            self._merge(answer_fisher(logits, self.adapted.params), 1 / (self._n_updates + 1))
        self._consistency(logits, target).backward()
        self._update(len(logits))
        self._n_updates += 1
        if self.rules.answer == "sum":
            return target + logits.detach()
        return target if self.rules.answer == "teacher" else logits.detach()

    def _logits(self, model: Model, x: Inputs) -> Tensor:
        with self._normalised(model):
            logits: Tensor = model(x).logits
        return logits

    def _normalised(self, model: Model) -> AbstractContextManager[None]:
        return by_batch_in(model) if self.rules.statistics == "batch" else nullcontext()

    @torch.no_grad()
    def _target(self, model: Model, x: Inputs) -> Tensor:
        """The teacher's logits on the batch, or their mean over views of it."""
        if self._views is None or self._is_sure(model, x):
            return self._logits(self.teacher, x)
        answers = [self._logits(self.teacher, self._views(x)) for _ in range(self.rules.n_views)]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(0)

    def _is_sure(self, model: Model, x: Inputs) -> bool:
        """Whether the source is too confident for views to be needed."""
        if self.rules.confidence_gate is None:
            return False
        with self._normalised(model):
            logits: Tensor = torch.func.functional_call(model, self.source, (x,)).logits
        return logits.softmax(1).amax(1).mean().item() >= self.rules.confidence_gate

    def _consistency(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.rules.is_symmetric:
            return symmetric_cross_entropy(logits, target)
        loss = soft_cross_entropy(logits, target).mean()
        return loss / logits.shape[1] if self.rules.has_class_factor else loss

    @torch.no_grad()
    def _update(self, n_rows: int) -> None:
        rules = self.rules
        params: list[Tensor] = list(self.adapted.params.values())
        for param in params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        slopes = [param.grad for param in params if param.grad is not None]
        squared: list[Tensor] = []
        if not rules.sees_penalty:
            squared = list(torch._foreach_mul(slopes, slopes))
        if rules.penalty_strength > 0:
            self._pull(params, slopes)
        if rules.sees_penalty:
            squared = list(torch._foreach_mul(slopes, slopes))
        self.adapted.apply()
        self._move_teacher(params, squared)
        if rules.penalty_strength > 0 and rules.fisher == "previous":
            torch._foreach_mul_(squared, n_rows / _REFERENCE_BATCH)
            self._merge(dict(zip(self.adapted.params, squared, strict=True)), 1 - rules.fisher_momentum)

    def _pull(self, params: list[Tensor], slopes: list[Tensor]) -> None:
        """Add the gradient of lambda sum_i F_i (theta_i - A_i)^2, and move the anchor on."""
        if self.anchor and self.rules.anchor == "segment" and self._n_updates % self.rules.segment == 0:
            torch._foreach_copy_(list(self.anchor.values()), params)
        if self.fisher:
            anchor = self.source if self.rules.anchor == "source" else self.anchor
            distance = list(torch._foreach_sub(params, [anchor[name] for name in self.adapted.params]))
            torch._foreach_mul_(distance, [self.fisher[name] for name in self.adapted.params])
            torch._foreach_add_(slopes, distance, alpha=2 * self.rules.penalty_strength)
        if self.anchor and self.rules.anchor == "previous":
            torch._foreach_copy_(list(self.anchor.values()), params)

    def _merge(self, fisher: dict[str, Tensor], weight: float) -> None:
        """Move the Fisher, zero before its first measurement, towards a new one."""
        if weight == 1:
            self.fisher = fisher
            return
        if not self.fisher:
            self.fisher = {name: torch.zeros_like(value) for name, value in fisher.items()}
        torch._foreach_lerp_([self.fisher[name] for name in fisher], list(fisher.values()), weight)

    def _move_teacher(self, params: list[Tensor], squared: list[Tensor]) -> None:
        """Average the student into the teacher, but for the selected weights."""
        rules, follow = self.rules, 1 - self.rules.momentum
        own: list[Tensor] = list(all_weights(self.teacher).values())
        if rules.is_restored:
            torch._foreach_lerp_(own, params, follow)
        if rules.selected_fraction == 0:
            torch._foreach_lerp_(own, params, follow)
            return
        named = dict(zip(self.adapted.params, squared, strict=True))
        left = list(unselected(named, rules.selected_fraction, rules.mask, rules.mask_scope).values())
        n_left = torch.stack([value.sum() for value in left]).sum()
        n_weights = sum(value.numel() for value in left)
        self.watch.add("mask_density", n_weights - n_left, n_weights)
        rates = [value.to(param.dtype).mul_(follow) for value, param in zip(left, params, strict=True)]
        if rules.is_restored:
            selected = [(~value).to(param.dtype) for value, param in zip(left, params, strict=True)]
            torch._foreach_lerp_(params, list(self.source.values()), selected)
            torch._foreach_add_(rates, selected)
        torch._foreach_lerp_(own, params, rates)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, mean entropy of the answers, and the part of weights that a step selects."""
        kept = [*tensors_of(self.teacher), *self.source.values(), *self.anchor.values(), *self.fisher.values()]
        return {"memory_bytes": n_bytes(kept) + self.adapted.n_bytes, **self.watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Teacher, source, anchor, Fisher, optimizer, generators and counts."""
        copied = {key: {name: value.clone() for name, value in tensors.items()}
                  for key, tensors in (("source", self.source), ("anchor", self.anchor), ("fisher", self.fisher))}
        return {"stream": {
            **copied, "teacher": teacher_state(self.teacher), "optimizer": self.adapted.state_dict(),
            "generator": self._generator.get_state(), "n_updates": self._n_updates,
            "views": None if self._views is None else self._views.state_dict(), "watch": self.watch.state_dict()}}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        state = state["stream"]
        teacher = restored_teacher(model, state["teacher"])
        assert teacher is not None
        self.teacher = teacher
        self.source, self.anchor, self.fisher = (
            {name: value.to(model.device).clone() for name, value in state[key].items()}
            for key in ("source", "anchor", "fisher"))
        self.adapted.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        self._n_updates = state["n_updates"]
        if self._views is not None:
            self._views.load_state_dict(state["views"])
        self.watch.load_state_dict(state["watch"])
