"""Learning without forgetting: answer for the old classes as the model did before the experience.

Before each experience from the second on, the model is copied. While the new rows x are learned, the copy's answer on
the same (augmented) x is the target of a distillation over the classes it knew,

    L = CE(z(x), y) + alpha T^2 KL( softmax(z'(x)_old / T) || softmax(z(x)_old / T) ),

the mean over rows, z' being the copy's logits. With task labels the softmax runs over each earlier task's own classes,
and the terms are summed over tasks; where the classes stay the same (domain-incremental) it runs over all of them.

Li & Hoiem, "Learning without Forgetting", ECCV 2016 / TPAMI 2018, arXiv 1606.09282, section 3; T^2 keeps the size of
the gradient as T changes (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531). The paper's weight lambda_o = 1 and T = 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import tunable
from cl_framework.functional import distillation
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._teacher import frozen_copy, logits_of, n_bytes, restored_teacher, teacher_state, tensors_of


@dataclass(kw_only=True, eq=False)
class LwF(Strategy):
    """Distils the model before the experience into the model after it."""

    neutral: ClassVar[Mapping[str, object]] = {"alpha": 0.0}

    alpha: float = tunable(1.0, 0.1, 0.3, 1.0, 3.0, 10.0, low=0.0)
    """Weight of the distillation."""
    temperature: float = tunable(2.0, 1.0, 2.0, 4.0, low=0.01)
    """Softening T of both answers."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """There is no teacher yet."""
        self._teacher: Model | None = None
        self._groups: list[list[int]] = []

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The teacher is the model as it is."""
        if self._groups and self.alpha > 0:
            self._teacher = frozen_copy(model)

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The distillation, summed over the groups of old classes."""
        if self._teacher is None:
            return super().penalty(model, batch, output)
        target = logits_of(self._teacher, batch.x)
        terms = [distillation(output.logits[:, group], target[:, group], self.temperature) for group in self._groups]
        return self.alpha * torch.stack(terms).sum()

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Its classes are old from now on."""
        if experience.task is None:
            self._groups = [sorted({*experience.classes, *(label for group in self._groups for label in group)})]
        elif list(experience.classes) not in self._groups:
            self._groups.append(list(experience.classes))

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the teacher."""
        return {"memory_bytes": n_bytes(tensors_of(self._teacher))}

    def state_dict(self) -> dict[str, Any]:
        """The teacher and the groups of old classes."""
        return {"teacher": teacher_state(self._teacher), "groups": [list(group) for group in self._groups]}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._teacher = restored_teacher(model, state["teacher"])
        self._groups = [list(group) for group in state["groups"]]
