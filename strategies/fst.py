"""FST: slow weights learn by reinforcement, fast weights are prompts that evolve, and both take turns.

    for each cycle:
        the next T batches of B problems are looked at
        Phi <- top K of the frontier of GEPA(Phi, on these T x B problems, weights theta standing still)
        T times: for each of B problems, G / K replies under each phi of Phi; one group of G; a step of CISPO on theta

Tiwari et al., "Learning, Fast and Slow: Towards LLMs That Adapt Continually", 2026, arXiv 2605.12484, algorithm 1. No
code of the authors was released when this was written; it follows their published post and independent accounts, and
each field whose value is not known says so.

What is not the paper's: the reflection model is scripted unless `reflector` says otherwise, and results are then
labelled "FST (scripted reflector)"; all parameters that the model trains are slow weights, an adapter's alone with
`model.adapter=lora`. New tasks enter through the stream alone: no hook tells the strategy that the task has changed,
and the prompts of the last cycle are carried on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cl_framework.data import Dataset
from cl_framework.models import Model
from cl_framework.slow_step import check_group

from ._fast_half import FastHalf
from ._slow_half import SlowHalf


@dataclass(kw_only=True, eq=False)
class FST(SlowHalf, FastHalf):
    """Fast-slow training."""

    title: ClassVar[str] = "FST"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_group(self.group_size, self.n_prompts)

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """The fast phase first, then T steps on the same rows."""
        if cycle > self._cycle:
            self._evolve(model, rows, cycle, round(self.passes * len(rows)))
            self._cycle = cycle
        train(rows)
