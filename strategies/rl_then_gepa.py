"""RL, then GEPA: both halves of FST one after the other, and not in turns.

The weights learn from an experience's rewards under the seed prompt, as strategy=rl does, to the bit; then the prompts
evolve on the rows of its last cycle, with as many replies as FST would have drawn for that in the whole experience. A
baseline for Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484: what taking turns adds to having both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
        """All slow steps, then one fast phase."""
        super().fit(model, data, train)
        cut = self._cut(data)
        self._evolve(model, cut[-1], len(cut) - 1, round(self.passes * len(data)))

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """T steps."""
        train(rows)

    def _prompts(self) -> Sequence[Prompt]:
        """The seed prompt alone."""
        return self._lineage[:1]
