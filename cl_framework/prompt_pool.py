"""The fast weights: prompts with their scores on single problems, and where each came from.

A pool lives for one fast phase, as scores are of the policy as it is then. What is carried to the next phase is the
population: K prompts, those of equal rank first that are older. The lineage keeps every prompt that was ever accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal

from cl_framework import pareto

Selection = Literal["pareto", "best"]
"""Which prompts are kept and have children: those of the frontier, or those of the best mean score alone."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
        name: its own, "p0" for the seed.
        text: what is put before a problem.
        parent: the prompt that it was made of; None of the seed.
        note: how it was made.
        experience, cycle: when.
        score: its mean reward on the problems of that cycle; None of the seed.
    """

    name: str
    text: str
    parent: str | None = None
    note: str = "seed"
    experience: int = 0
    cycle: int = 0
    score: float | None = None


@dataclass
class Pool:
    """Prompts and their rewards, one a problem of the anchor set.

    >>> pool = Pool()
    >>> pool.add(Prompt(name="p0", text="Answer."), [0.0, 1.0])
    >>> pool.add(Prompt(name="p1", text="Think."), [1.0, 1.0])
    >>> [prompt.name for prompt in pool.top(1, "pareto")], pool.has("Think.")
    (['p1'], True)
    """

    prompts: list[Prompt] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    def add(self, prompt: Prompt, scores: Sequence[float]) -> None:
        """Take in a prompt with its rewards."""
        self.prompts.append(prompt)
        self.scores.append([*scores])

    def has(self, text: str) -> bool:
        """Whether a prompt of this text is there."""
        return any(prompt.text == text for prompt in self.prompts)

    def top(self, k: int, selection: Selection) -> list[Prompt]:
        """The k prompts that are kept; the same again where there are fewer."""
        ranking = pareto.top if selection == "pareto" else pareto.best
        return [self.prompts[row] for row in ranking(self.scores, k)]

    @property
    def means(self) -> list[float]:
        """The mean reward of each prompt."""
        return pareto.means(self.scores)


def different(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each prompt once, in order."""
    return list({prompt.name: prompt for prompt in prompts}.values())


def as_plain(prompts: Iterable[Prompt]) -> list[dict[str, Any]]:
    """Prompts as plain data."""
    return [asdict(prompt) for prompt in prompts]


def from_plain(rows: Iterable[Mapping[str, Any]]) -> list[Prompt]:
    """The prompts that `as_plain` wrote."""
    return [Prompt(**row) for row in rows]


def population_rewards(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of prompts with their rewards on single problems: the mean reward of the best prompt, the mean over all prompts,
    and the mean of the highest reward that any of them had on each problem.

    >>> population_rewards([[1.0, 0.0], [0.0, 0.5]])
    {'best_prompt_reward': 0.5, 'mean_prompt_reward': 0.375, 'any_prompt_reward': 0.75}
    """
    means = [fmean(row) for row in scores]
    return {"best_prompt_reward": max(means), "mean_prompt_reward": fmean(means),
            "any_prompt_reward": fmean(map(max, zip(*scores, strict=True)))}


def diversity(prompts: Sequence[Prompt]) -> float:
    """How different prompts are: the mean over pairs of 1 - (words in common) / (words of either), Jaccard's distance.

    >>> diversity([Prompt(name="a", text="one two"), Prompt(name="b", text="two three")])
    0.6666666666666667
    """
    words = [frozenset(prompt.text.split()) for prompt in prompts]
    pairs = [(a, b) for place, a in enumerate(words) for b in words[:place]]
    distances = [1 - len(a & b) / len(a | b) if a | b else 0.0 for a, b in pairs]
    return sum(distances) / len(distances) if distances else 0.0
