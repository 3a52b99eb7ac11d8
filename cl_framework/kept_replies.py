"""Replies that a fast phase drew, kept so that the slow steps of the same cycle may learn from them.

    rho_t = pi_theta(y_t | phi, x, y_<t) / pi_old(y_t | phi, x, y_<t),   pi_old the policy of the fast phase

A reply stands for one that a step would have drawn for the same problem x under the same prompt phi, and is handed out
once. Its weights are those that the cycle began with, so after the first step the ratio is no longer 1, and what
truncates or clips it begins to matter. What is of other weights, or carries no log-probabilities of its own, is not
taken in; what is asked for in another cycle is not handed out. In their place replies are drawn.

Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, name it as future work. What the sum over replies then
estimates is biased: a prompt stays because of these very replies, so their rewards are higher than new ones would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, NamedTuple

from cl_framework.problems import Verdict
from cl_framework.rollout import Rollout


class Reply(NamedTuple):
    """One answer to a problem, and what the judge said of it."""

    problem: str
    rollout: Rollout
    verdict: Verdict


class KeptReplies:
    """The replies of one cycle, by problem and prompt.

    Args:
        experience, cycle: where in the stream they were drawn.
        version: number of the weights that drew them.
        replies: those of other weights, and those whose rollout was not measured, are left out.
    """

    def __init__(self, experience: int = 0, cycle: int = -1, version: int = 0, replies: Iterable[Reply] = ()) -> None:
        self._origin, self._version = (experience, cycle), version
        self._waiting: dict[tuple[str, str], list[Reply]] = {}
        for reply in replies:
            if reply.rollout.version == version and reply.rollout.trainer_log_probs is not None:
                self._waiting.setdefault((reply.problem, reply.rollout.prompt_id), []).append(reply)

    def __len__(self) -> int:
        """Replies that nobody has claimed."""
        return sum(map(len, self._waiting.values()))

    def claim(self, experience: int, cycle: int, problem: str, prompt_id: str, n: int) -> list[Reply]:
        """At most n replies to a problem under a prompt, the earliest first; they are gone then. None for another
        cycle."""
        if (experience, cycle) != self._origin:
            return []
        waiting = self._waiting.pop((problem, prompt_id), [])
        if waiting[n:]:
            self._waiting[problem, prompt_id] = waiting[n:]
        return waiting[:n]

    @property
    def memory_bytes(self) -> int:
        """What their tensors take."""
        kept = [tensor for own in self._waiting.values() for _, rollout, _ in own for tensor in (
            rollout.context_ids, rollout.response_ids, rollout.sampler_log_probs, rollout.trainer_log_probs)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor is not None)

    def state_dict(self) -> dict[str, Any]:
        """As tensors and plain data."""
        return {"origin": [*self._origin, self._version], "replies": [
            {"problem": problem, "rollout": rollout.state_dict(), "verdict": asdict(verdict)}
            for own in self._waiting.values() for problem, rollout, verdict in own]}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> KeptReplies:
        """What `state_dict` returned, in the same order."""
        experience, cycle, version = state["origin"]
        return KeptReplies(experience, cycle, version, [
            Reply(row["problem"], Rollout.from_state_dict(row["rollout"]), Verdict(**row["verdict"]))
            for row in state["replies"]])
