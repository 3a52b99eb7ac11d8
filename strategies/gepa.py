"""GEPA: the fast half of FST alone, prompts that evolve by reflection in front of weights that never move.

Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", 2025, arXiv 2507.19457,
algorithm 1, over a stream: each cycle begins with the K prompts of the last one, as in FST. The package `gepa` begins
with one prompt and keeps no population for a next call, so the loop is ours; its selection is held against the
package's in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from cl_framework.data import Dataset
from cl_framework.models import Model

from ._fast_half import FastHalf


@dataclass(kw_only=True, eq=False)
class GEPA(FastHalf):
    """Evolves prompts, cycle after cycle."""

    title: ClassVar[str] = "GEPA"

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """One fast phase, and a call without rows: a checkpoint may be written there."""
        if cycle > self._cycle:
            self._evolve(model, rows, cycle, round(self.passes * len(rows)))
            self._cycle = cycle
        train(rows.subset(torch.arange(0, device=rows.device)))
