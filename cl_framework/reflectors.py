"""Reflection: a prompt, and what came of it on a few problems, become another prompt.

A reflector reads whole replies and the words that a checker said of them; rewards alone never reach it. What it writes
is text: it is put before problems, and is neither run nor taken for markup. Agrawal et al., "GEPA: Reflective Prompt
Evolution Can Outperform Reinforcement Learning", 2025, arXiv 2507.19457, section 3; the instruction to edit rather than
to rewrite is FST's light recipe (Tiwari et al. 2026, arXiv 2605.12484, appendix E). The words are ours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One reply of the policy to one problem under one prompt.

    Attributes:
        problem: what was asked.
        reply: what the policy answered.
        reward: in [0, 1].
        feedback: what the checker said of the reply.
        answer: an answer that is right.
    """

    problem: str
    reply: str
    reward: float
    feedback: str
    answer: str = ""


class Reflection(NamedTuple):
    """A prompt that a reflector proposes, and how it was made."""

    text: str
    note: str


class Reflector(Protocol):
    """Proposes prompts."""

    def reflect(self, prompt: str, trials: Sequence[Trial], generator: torch.Generator) -> Reflection | None:
        """A better prompt after some trials of `prompt`; None where it has none to offer.

        Raises:
            ClfError: it cannot be reached, and was told to stop then.
        """


def request(prompt: str, trials: Sequence[Trial], *, is_incremental: bool = True) -> str:
    """What a language model is asked for: a new prompt between two fences, from trials of the old one.

    Args:
        is_incremental: small edits are asked for; else the prompt may be written anew.
    """
    shown = "\n\n".join(f"Task {place}:\n{trial.problem}\nReply:\n{trial.reply}\nRemark:\n{trial.feedback}"
                        for place, trial in enumerate(trials, 1))
    how = ("Keep what works and change as little as possible: add, correct or remove single sentences."
           if is_incremental else "You may write it anew.")
    return (f"A language model was given this prompt:\n```\n{prompt}\n```\n\nThese are tasks that it then met, what "
            f"it replied, and a remark on each reply:\n\n{shown}\n\nWrite a better prompt for tasks of this kind. Say "
            "what the task is and in which form an answer must be given, keep every fact from the remarks that other "
            f"tasks of the kind will need, and any way of working that helps. {how} Give the new prompt alone, between "
            "``` and ```.")


def fenced(text: str) -> str | None:
    """What stands between the outermost fences of a text, or the whole of it where there are none; None if empty.

    >>> fenced("Here:\\n```text\\nAnswer in words.\\n```"), fenced("  "), fenced("```\\nhalf")
    ('Answer in words.', None, 'half')
    """
    parts = text.split("```")
    if len(parts) > 1:
        text = re.sub(r"\A[\w-]*\n", "", "```".join(parts[1:-1] if len(parts) > 2 else parts[1:]))
    return text.strip() or None


class LanguageReflector:
    """A reflector that asks a language model.

    Args:
        answer: the model's reply to a text; None where it gives none.
        note: how its prompts are called in the lineage.
        is_incremental: see `request`.
        fits: whether the model takes a text; trials are left out, the last first, until it does.
    """

    def __init__(self, answer: Callable[[str, torch.Generator], str | None], note: str, *,
                 is_incremental: bool = True, fits: Callable[[str], bool] = lambda text: True) -> None:
        self._answer, self._note, self._is_incremental, self._fits = answer, note, is_incremental, fits

    def reflect(self, prompt: str, trials: Sequence[Trial], generator: torch.Generator) -> Reflection | None:
        """Ask once."""
        texts = (request(prompt, trials[:n], is_incremental=self._is_incremental) for n in range(len(trials), 0, -1))
        asked = next(filter(self._fits, texts), None)
        if asked is None:
            log.warning("the reflector takes no prompt of %d characters with a single trial of it; raise "
                        "model.max_tokens or lower reflection_tokens", len(prompt))
            return None
        reply = self._answer(asked, generator)
        text = None if reply is None else fenced(reply)
        return None if text is None else Reflection(text, self._note)


class WithFallback:
    """Asks a second reflector where the first has nothing to offer; counts how often."""

    def __init__(self, first: Reflector, second: Reflector) -> None:
        self._first, self._second = first, second
        self.n_fallbacks = 0

    def reflect(self, prompt: str, trials: Sequence[Trial], generator: torch.Generator) -> Reflection | None:
        """What the first offers, else what the second does."""
        offered = self._first.reflect(prompt, trials, generator)
        if offered is not None:
            return offered
        self.n_fallbacks += 1
        return self._second.reflect(prompt, trials, generator)
