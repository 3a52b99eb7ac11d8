"""What follows a loss, a weight or a moment that is not finite: `train.on_nonfinite` is stop, skip or reset.

*Stop* ends the run. *Skip* puts everything back to the last chunk of steps and learns it again without the step that
did it, as mixed-precision training passes over a step that overflowed (Micikevicius et al., Mixed Precision Training,
ICLR 2018). *Reset* puts everything back to the start of the `train` call and learns at half the rate, as large models
were taken up again from an earlier checkpoint at a lower learning rate (Zhang et al., OPT: Open Pre-trained Transformer
Language Models, 2022, arXiv 2205.01068, section 2.5). Both are functions of the state, so a run that is
killed and taken up again does the same. Nothing here costs a step anything while the reaction is stop.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cl_framework import seeding
from cl_framework.errors import Diverged
from cl_framework.models import Model
from cl_framework.observer import Cursor
from cl_framework.record import StreamRecord
from cl_framework.strategy import Strategy

_LOG = logging.getLogger(__name__)

RESETS = 3
"""How often one `train` call begins anew."""
IN_A_ROW = 16
"""So many steps left out in a row are no accident."""
_SAID = 10
"""Warnings of one run; all is in its summary."""


def moments_of(optimizer: Optimizer, device: torch.device) -> list[Tensor]:
    """What an optimizer keeps of gradients on a device."""
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in kept
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and value.device == device]


def are_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether every entry of every tensor is finite; a bool scalar on their device, which nobody has waited for."""
    filled = [value.detach() for value in tensors if value.numel()]
    if not filled:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([norm.float() for norm in torch._foreach_norm(filled, torch.inf)]).isfinite().all()


class Snapshot:
    """Everything that a step may change, copied, and put back as often as it takes."""

    def __init__(self, model: Model, strategy: Strategy, optimizer: Optimizer | None, cursor: Cursor) -> None:
        self._parts = model, strategy, optimizer, cursor
        self._model = {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
                       for name, value in model.state_dict().items()}
        self._strategy = copy.deepcopy(strategy.state_dict())
        self._optimizer = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
        self._cursor, self._generators = dataclasses.replace(cursor), seeding.capture()

    def put_back(self) -> None:
        """All is as it was."""
        model, strategy, optimizer, cursor = self._parts
        model.load_state_dict(self._model)
        strategy.load_state_dict(model, copy.deepcopy(self._strategy))
        if optimizer is not None and self._optimizer is not None:
            optimizer.load_state_dict(copy.deepcopy(self._optimizer))
        vars(cursor).update(vars(self._cursor))
        seeding.restore(self._generators)


class Skips:
    """Notes which steps were left out, and says so.

    Args:
        record: keeps their numbers.
    """

    def __init__(self, record: StreamRecord) -> None:
        self._steps = record.skipped_steps

    def note(self, step: int, why: str) -> None:
        """Step `step` of the stream is left out.

        Raises:
            Diverged: so were all of the last ones.
        """
        self._steps.append(step)
        if self._steps[-IN_A_ROW:] == list(range(step - IN_A_ROW + 1, step + 1)):
            raise Diverged(f"{why}; train.on_nonfinite=skip has left out {IN_A_ROW} steps in a row and gives up, and "
                           "the last good checkpoint is kept. Try a lower train.lr, or look at the data")
        if len(self._steps) <= _SAID:
            more = "; further ones are told by summary.json alone" if len(self._steps) == _SAID else ""
            _LOG.warning("%s; the step is left out (train.on_nonfinite=skip)%s", why, more)


class Retries:
    """Begins a `train` call anew, at half the rate each time.

    Args:
        is_on: the reaction is reset.

    Attributes:
        factor: what learning rates are multiplied by.
    """

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._start: dict[str, Any] | None = None
        self._n = 0

    @property
    def factor(self) -> float:
        """What learning rates are multiplied by."""
        return math.ldexp(1.0, -self._n)

    def begin(self, state: Callable[[], dict[str, Any]]) -> None:
        """A `train` call begins with this state."""
        self._start, self._n = state() if self._is_on else None, 0

    def run(self, fit: Callable[[dict[str, Any] | None], None], state: dict[str, Any] | None,
            put_back: Callable[[dict[str, Any]], None], record: StreamRecord) -> None:
        """Fit from a state on, and again from the call's first one where that diverges.

        Args:
            fit: trains, from what the call begins with or from a state inside it.
            state: None, or a state inside the call.
            put_back: makes the run what it was in a state.
            record: counts the resets.

        Raises:
            Diverged: it did each time.
        """
        while True:
            try:
                fit(state)
            except Diverged as fault:
                if self._start is None or self._n == RESETS:
                    raise
                state, n = self._start, self._n + 1
                put_back(copy.deepcopy(state))
                self._start, self._n = state, n
                record.resets += 1
                _LOG.warning("%s: the training of this experience begins anew at %g times its learning rate, try %d of "
                             "%d (train.on_nonfinite=reset)", str(fault).partition(";")[0], self.factor, n, RESETS)
            else:
                break
        self._start, self._n = None, 0

    def state_dict(self) -> dict[str, Any]:
        """The first state of the call that is under way, and how often it began anew."""
        return {"start": self._start, "n": self._n}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Put back what `state_dict` gave; checkpoints of an earlier clf have nothing of it."""
        self._start, self._n = (None, 0) if state is None else (state["start"], int(state["n"]))
