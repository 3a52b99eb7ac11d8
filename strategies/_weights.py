"""Copies of a model's weights and statistics, and how they are put back once a head has grown."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_framework.models import Model


def named_tensors(model: Model) -> dict[str, Tensor]:
    """Parameters and buffers by name, not copied."""
    return {name: value.detach() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def copied_tensors(model: Model) -> dict[str, Tensor]:
    """A copy of parameters and buffers by name."""
    return {name: value.clone() for name, value in named_tensors(model).items()}


def grown(saved: Tensor, current: Tensor) -> Tensor:
    """A saved tensor in the current shape: rows that a head has grown since are the current ones.

    >>> grown(torch.zeros(1), torch.tensor([5.0, 6.0]))
    tensor([0., 6.])
    """
    return saved if saved.shape == current.shape else torch.cat([saved, current[len(saved):]])


def reset(model: Model, initial: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put initial tensors back. Rows that the head has just grown are initial already.

    Returns:
        The initial tensors with those rows.
    """
    current = named_tensors(model)
    complete = {name: grown(value, current[name]).clone() for name, value in initial.items()}
    for name, value in complete.items():
        current[name].copy_(value)
    return complete
