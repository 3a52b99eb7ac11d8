"""RL: the slow half of FST alone, group-relative reinforcement of the weights under one prompt.

    L = L_slow + beta KL(pi_theta || pi_base),   L_slow CISPO, GRPO or RAFT   (see `cl_framework.slow_step`)

It is the baseline of Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 4: CISPO (MiniMax 2025,
arXiv 2506.13585) under the seed prompt. Rows come in cycles as in FST, so that both learn from the same ones in one
order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.models import Model

from ._reach import remark
from ._slow_half import SlowHalf


@dataclass(kw_only=True, eq=False)
class RL(SlowHalf):
    """Learns weights from rewards, under the seed prompt."""

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """T steps."""
        train(rows)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Measure the drift, and say of the first experience if it had no reward: there is nothing to learn from."""
        super().after_experience(model, experience)
        if experience.index == 0 and not self._sums.get("reward", (1.0, 0))[0]:
            remark(0, 0, self._n_replies)
