"""Whatever answers problems under prompts, and learns from its answers: the method of fast and slow weights sees no
more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from cl_framework.language import LanguageModel
from cl_framework.rollout import Rollout, response_log_probs
from cl_framework.sampling import Sampling, sample


class Policy(Protocol):
    """pi_theta(y | phi, x)."""

    def context(self, system: str, problem: str) -> str:
        """The text before an answer to a problem under a prompt."""

    def fits(self, contexts: Sequence[str]) -> bool:
        """Whether contexts leave room for an answer."""

    def sample(self, contexts: Sequence[str], n: int, generator: torch.Generator,
               prompt_id: str) -> list[list[Rollout]]:
        """n answers to each context, all of one prompt. The policy, its mode and the global generators stay as they
        are."""

    def log_probs(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the answers' tokens, with gradients where they are on, and where there is a token, both
        [N, L]; the answers end in the last column."""


class ModelPolicy:
    """A language model as a policy.

    Args:
        model: what answers.
        settings: how it draws.
        version: number of its weights, which its rollouts carry.
    """

    def __init__(self, model: LanguageModel, settings: Sampling, version: int = 0) -> None:
        self._model, self._settings, self._version = model, settings, version

    def context(self, system: str, problem: str) -> str:
        """In the model's frame."""
        return self._model.context(system, problem)

    def fits(self, contexts: Sequence[str]) -> bool:
        """By the model's tokens."""
        limit = self._model.max_tokens - self._settings.max_new_tokens
        return all(len(self._model.vocabulary.context_ids(context)) <= limit for context in contexts)

    def sample(self, contexts: Sequence[str], n: int, generator: torch.Generator,
               prompt_id: str) -> list[list[Rollout]]:
        """With a common prefix computed once.

        Raises:
            ConfigError: a context and its longest answer do not fit into the model.
        """
        return sample(self._model, contexts, n, self._settings, generator, self._version, [prompt_id] * len(contexts))

    def log_probs(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """By the trainer's forward pass."""
        return response_log_probs(self._model, rollouts)
