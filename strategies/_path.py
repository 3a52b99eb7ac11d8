"""The path of training: what each weight's own movement did to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.models import Model

from ._anchor import copied
from ._teacher import n_bytes


class PathIntegral:
    """-sum_t g_i(t) (theta_i(t + 1) - theta_i(t)), the part of weight i in what the loss has fallen by.

    Attributes:
        total: the sum since `restart`, by the parameter's name.
    """

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}

    def restart(self, params: Mapping[str, nn.Parameter]) -> None:
        """Begin anew, over these parameters."""
        self.total = {name: torch.zeros_like(param, requires_grad=False) for name, param in params.items()}

    @torch.no_grad()
    def before_step(self, params: list[nn.Parameter], gradients: tuple[Tensor, ...]) -> None:
        """Note where the step starts; `gradients` are kept until it is over, and must not change."""
        self._params, self._gradients = tuple(params), gradients
        self._before = torch._foreach_mul(self._params, 1.0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Add the step."""
        torch._foreach_sub_(self._before, self._params)
        torch._foreach_addcmul_(tuple(self.total.values()), self._gradients, self._before)
        del self._params, self._gradients, self._before

    @property
    def n_bytes(self) -> int:
        """Bytes of the sum."""
        return n_bytes(self.total.values())

    def state_dict(self) -> dict[str, Any]:
        """The sum, copied: steps change it in place."""
        return {"total": {name: value.clone() for name, value in self.total.items()}}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.total = copied(state["total"], model)
