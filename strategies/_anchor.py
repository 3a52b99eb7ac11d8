"""An anchor: where weights should stay, and how much each one matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.functional import gradients_of, grown, quadratic
from cl_framework.models import Model
from cl_framework.strategy import NO_PENALTY

from ._teacher import n_bytes


class Anchor:
    """A quadratic, sum_i Omega_i (theta_i - theta*_i)^2, over the weights that can be trained.

    Rows of a head that are newer than the anchor are free.

    Attributes:
        theta: theta*, by the parameter's name.
        importance: Omega; empty as long as nothing is held.
    """

    def __init__(self) -> None:
        self.theta: dict[str, Tensor] = {}
        self.importance: dict[str, Tensor] = {}

    def place(self, model: Model, importance: Mapping[str, Tensor]) -> None:
        """Hold the weights where they are now. Rows that importance lacks get none."""
        self.theta = {name: param.detach().clone() for name, param in trainable(model).items()}
        self.importance = {name: grown(value, torch.zeros_like(self.theta[name])) for name, value in importance.items()}

    def penalty(self, model: Model, strength: float) -> Tensor:
        """`strength` times the quadratic."""
        if not self.importance or strength == 0:
            return NO_PENALTY
        return strength * quadratic(dict(model.named_parameters()), self.theta, self.importance)

    @torch.no_grad()
    def loss_gradients(self, params: list[nn.Parameter], strength: float) -> tuple[Tensor, ...]:
        """Copies of the gradients of `trainable` parameters, without the share of `penalty`.

        Its gradient is known, 2 strength Omega (theta - theta*), and is taken off again. No row may be newer than the
        anchor.
        """
        gradients = gradients_of(params)
        if not self.importance or strength == 0:
            return torch._foreach_mul(gradients, 1.0)
        away = torch._foreach_sub(tuple(params), tuple(self.theta.values()))
        return torch._foreach_addcmul(gradients, away, tuple(self.importance.values()), value=-2 * strength)

    @property
    def n_bytes(self) -> int:
        """Bytes of both."""
        return n_bytes({id(value): value for value in [*self.theta.values(), *self.importance.values()]}.values())

    def state_dict(self) -> dict[str, Any]:
        """Both; neither is ever changed in place."""
        return {"theta": dict(self.theta), "importance": dict(self.importance)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.theta = copied(state["theta"], model)
        self.importance = copied(state["importance"], model)


def trainable(model: Model) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: param for name, param in model.named_parameters() if param.requires_grad}


def added(old: Mapping[str, Tensor], new: Mapping[str, Tensor], decay: float = 1.0) -> dict[str, Tensor]:
    """decay * old + new; what `old` lacks counts as 0.

    >>> added({"w": torch.tensor([4.0])}, {"w": torch.tensor([1.0, 2.0])}, decay=0.5)
    {'w': tensor([3., 2.])}
    """
    return {name: decay * grown(old[name], torch.zeros_like(value)) + value if name in old else value
            for name, value in new.items()}


def copied(values: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Copies, where the model is."""
    return {name: value.to(model.device, copy=True) for name, value in values.items()}
