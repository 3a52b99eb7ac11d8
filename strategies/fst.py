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
`model.adapter=lora`; `is_reusing` lets slow steps learn from replies of the fast phase. New tasks enter through the
stream alone: no hook tells the strategy that the task has changed, and the prompts of the last cycle are carried on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.kept_replies import KeptReplies, Reply
from cl_framework.models import Model
from cl_framework.rollout import measured
from cl_framework.slow_step import check_group
from cl_framework.types import StreamInfo

from ._cycles import speaking
from ._fast_half import FastHalf
from ._slow_half import SlowHalf


@dataclass(kw_only=True, eq=False)
class FST(SlowHalf, FastHalf):
    """Fast-slow training."""

    title: ClassVar[str] = "FST"

    is_reusing: bool = False
    """Whether replies that the fast phase drew under the prompts that are kept stand for those of the slow steps of its
    cycle, each once. That saves replies; they are as old as the cycle, so that `truncation` matters, and prompts were
    chosen by them, so that their rewards are on the high side. Off in the paper's runs, which names it as future
    work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_group(self.group_size, self.n_prompts)
        if self.is_reusing and self.fast_temperature != self.temperature:
            raise ConfigError(f"replies drawn at temperature {self.fast_temperature} cannot stand for those of "
                              f"temperature {self.temperature}; set fast_temperature to {self.temperature}, or "
                              "is_reusing=false")

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Nothing is kept yet."""
        super().setup(model, info)
        self._kept = KeptReplies()

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """The fast phase first, then T steps on the same rows."""
        if cycle > self._cycle:
            self._evolve(model, rows, cycle, round(self.passes * len(rows)))
            self._cycle = cycle
        train(rows)

    def _replied(self, model: Model, cycle: int, replies: Sequence[Reply]) -> None:
        """Keep what the slow steps may claim, with the log-probabilities of a forward pass by these weights."""
        if not self.is_reusing:
            return
        names = {prompt.name for prompt in self._population}
        of_use = [reply for reply in replies if reply.rollout.prompt_id in names]
        rollouts = measured(speaking(model), [reply.rollout for reply in of_use])
        self._kept = KeptReplies(self._experience, cycle, self._version, [
            reply._replace(rollout=rollout) for reply, rollout in zip(of_use, rollouts, strict=True)])

    def _claim(self, problem: str, prompt_id: str, n: int) -> Sequence[Reply]:
        """Those that the fast phase of this cycle drew."""
        return self._kept.claim(self._experience, self._cycle, problem, prompt_id, n)

    def metrics(self) -> Mapping[str, float]:
        """Of both halves, and the replies that served twice."""
        others = super().metrics()
        return {**others, "reused_rollouts": self._n_reused,
                "memory_bytes": others["memory_bytes"] + self._kept.memory_bytes}

    def state_dict(self) -> dict[str, Any]:
        """Of both halves, and the replies that nobody has claimed."""
        return {**super().state_dict(), "kept": self._kept.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(model, state)
        self._kept = KeptReplies.from_state_dict(state["kept"])
