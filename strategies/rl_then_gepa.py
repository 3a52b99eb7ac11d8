"""RL, then GEPA: both halves of FST one after the other, and not in turns.

The weights learn from an experience's rewards under the seed prompt, as strategy=rl does, to the bit; then the prompts
evolve on the rows of its last cycle, with as many replies as FST would have drawn for that in the whole experience. A
baseline for Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484: what taking turns adds to having both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from cl_framework.data import Dataset
from cl_framework.models import Model
from cl_framework.prompt_pool import Prompt

from ._fast_half import FastHalf
from ._slow_half import SlowHalf


@dataclass(kw_only=True, eq=False)
class RLThenGEPA(SlowHalf, FastHalf):
    """Learns weights, then evolves prompts."""

    title: ClassVar[str] = "RL, then GEPA"

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """All slow steps, then one fast phase; after each a call without rows: a checkpoint may be written there."""
        super().fit(model, data, train)
        nothing = data.subset(torch.arange(0, device=data.device))
        train(nothing)
        cycles = self._cut(data)
        if len(cycles) - 1 > self._cycle:
            self._evolve(model, cycles[-1], len(cycles) - 1, round(self.passes * len(data)))
            self._cycle = len(cycles) - 1
        train(nothing)

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """T steps."""
        train(rows)

    def _prompts(self) -> Sequence[Prompt]:
        """The seed prompt alone."""
        return self._lineage[:1]
