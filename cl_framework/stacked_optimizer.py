"""One optimizer for S runs of one recipe, whose states are slices of its state.

The rules of `train.optimizer` work on each number by itself, so that one step over stacks [S, ...] is a step of each
run. Every run keeps an optimizer of its own, which a checkpoint holds: its moments are slices, its counters are brought
up to date at the end of a chunk. A strategy that brings an optimizer steps by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.recipe import Recipe
from cl_framework.stacked_weights import Weights, are_slices


class StackedOptimizer:
    """The optimizers of S runs.

    Args:
        own: of each run.
        weights: the stacks that they train.
        recipe: of the runs; None where a strategy brings its optimizer.
    """

    def __init__(self, own: Sequence[Optimizer], weights: Weights, recipe: Recipe | None) -> None:
        self._own, self._weights = own, weights
        self._joint = None if recipe is None else recipe.optimizer_for(weights.trained)
        self._is_taken = False

    def take(self) -> None:
        """Before a chunk: the states of the runs, which may have gone on by themselves."""
        self._is_taken = self._joint is not None and all(
            self._taken(stack, [own.state.get(leaf, {}) for own, leaf in zip(self._own, leaves, strict=True)])
            for stack, leaves in self._weights.leaves())

    def _taken(self, stack: nn.Parameter, states: Sequence[dict[str, Any]]) -> bool:
        """Whether the states of one parameter are alike but for what a stack can hold."""
        assert self._joint is not None
        before, taken = self._joint.state.get(stack, {}), dict[str, Any]()
        for name in states[0]:
            values: list[Any] = [state.get(name) for state in states]
            if all(isinstance(value, Tensor) and value.dim() for value in values):
                is_there = name in before and are_slices(before[name], values)
                taken[name] = before[name] if is_there else torch.stack(values)
                for state, part in zip(states, taken[name].unbind(0), strict=True):
                    state[name] = part
            elif any(value is None for value in values) or len({float(value) for value in values}) > 1:
                return False
            else:
                taken[name] = values[0].clone()
        if any(state.keys() != states[0].keys() for state in states):
            return False
        if taken:
            self._joint.state[stack] = taken
        else:
            self._joint.state.pop(stack, None)
        return True

    def step(self, *, is_whole: bool, is_watched: bool) -> None:
        """A step of every run.

        Args:
            is_whole: each parameter has a gradient in all runs or in none.
            is_watched: parameters have their gradients, not the stacks alone.
        """
        rates = {group["lr"] for own in self._own for group in own.param_groups}
        if self._joint is None or not self._is_taken or not is_whole or len(rates) > 1:
            self.give()
            if not is_watched:
                self._weights.spread()
            for own in self._own:
                own.step()
            self.take()
            return
        self._joint.param_groups[0]["lr"] = rates.pop()
        self._joint.step()

    def give(self) -> None:
        """After a chunk: the states of the runs are what they would be alone."""
        if self._joint is None or not self._is_taken:
            return
        for stack, leaves in self._weights.leaves():
            for name, value in self._joint.state.get(stack, {}).items():
                parts = value.unbind(0) if value.dim() else [value.clone() for _ in leaves]
                for own, leaf, part in zip(self._own, leaves, parts, strict=True):
                    own.state[leaf][name] = part
