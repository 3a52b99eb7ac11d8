"""A teacher: a frozen copy of a model, in eval mode, that no optimizer ever reaches."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.models import Model
from cl_framework.types import Inputs


def frozen_copy(model: Model) -> Model:
    """The model as it is now, without gradients."""
    teacher = copy.deepcopy(model)
    teacher.zero_grad(set_to_none=True)
    return teacher.requires_grad_(False).eval()


def resize_head(teacher: Model, weight: Tensor, bias: Tensor) -> None:
    """Give a teacher's head these rows, copied."""
    teacher.head.weight = nn.Parameter(weight.clone(), requires_grad=False)
    teacher.head.bias = nn.Parameter(bias.clone(), requires_grad=False)


def teacher_state(teacher: Model | None) -> dict[str, Any] | None:
    """A copy of the teacher's weights and of how far its head has grown."""
    if teacher is None:
        return None
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in teacher.state_dict().items()}


def restored_teacher(model: Model, state: dict[str, Any] | None) -> Model | None:
    """The teacher that `teacher_state` described; `model` has the same architecture, its head any size."""
    if state is None:
        return None
    teacher = frozen_copy(model)
    weight, bias = state["head.weight"], state["head.bias"]
    resize_head(teacher, weight.to(model.device), bias.to(model.device))
    teacher.load_state_dict(state)
    return teacher


@torch.no_grad()
def logits_of(teacher: Model, x: Inputs) -> Tensor:
    """The teacher's logits on the rows that the student sees, [B, classes the teacher has seen]."""
    logits: Tensor = teacher(x).logits
    return logits


def n_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tensors_of(teacher: Model | None) -> list[Tensor]:
    """The teacher's weights and statistics; none where there is no teacher."""
    return [] if teacher is None else [*teacher.parameters(), *teacher.buffers()]
