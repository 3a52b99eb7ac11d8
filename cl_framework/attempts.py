"""Trials of prompts: a policy replies to problems, and a judge says what each reply is worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from cl_framework.kept_replies import Reply
from cl_framework.policy import Policy
from cl_framework.problems import Judge
from cl_framework.prompt_pool import Prompt
from cl_framework.reflectors import Trial
from cl_framework.rollout import Rollout


class Attempts:
    """One reply to each of some problems under a prompt, drawn when it is asked for.

    Args:
        policy: what replies.
        judge: says what a reply is worth.
        problems, answers: the anchor set.
        generator: what replies are drawn from.

    Attributes:
        n_failures: replies that a checker failed on.
        replies: all that were drawn, in their order.
    """

    def __init__(self, policy: Policy, judge: Judge, problems: Sequence[str], answers: Sequence[str],
                 generator: torch.Generator) -> None:
        self._policy, self._judge, self._generator = policy, judge, generator
        self._problems, self._answers = problems, answers
        self.n_failures = 0
        self.replies: list[Reply] = []

    def __call__(self, prompt: Prompt, rows: Sequence[int]) -> list[Trial]:
        """Draw them."""
        contexts = [self._policy.context(prompt.text, self._problems[row]) for row in rows]
        drawn = self._policy.sample(contexts, 1, self._generator, prompt.name)
        return [self._trial(row, rollout) for row, rollout in zip(rows, chain(*drawn), strict=True)]

    def _trial(self, row: int, rollout: Rollout) -> Trial:
        verdict = self._judge.judge(self._problems[row], rollout.text)
        self.n_failures += verdict.is_failure
        self.replies.append(Reply(self._problems[row], rollout, verdict))
        return Trial(problem=self._problems[row], reply=rollout.text, reward=verdict.reward, feedback=verdict.feedback,
                     answer=self._answers[row])

    def fits(self, text: str) -> bool:
        """Whether a prompt leaves room for every problem and its answer."""
        return self._policy.fits([self._policy.context(text, problem) for problem in self._problems])
