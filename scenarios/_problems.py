"""Kinds of problems: what each draws and how it checks, and which problems a phase draws.

Every problem belongs to one of four quarters by a digest of its prompt: training and held-out problems of the tuning
phase, and of the evaluation phase. So no problem is in two of them, whatever the seed, the numbers drawn and the order.
Apart from that, each kind has *variants*, of which either phase has a half (Cha and Cho, TMLR 2025, arXiv 2403.09066:
the phases share neither a class nor a row): a rule that is not told, the names of nodes, or a family of programs.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from cl_framework import ConfigError, Phase
from cl_framework.problems import HELD_OUT, LEARNED, Problem, Verdict, quarter
from cl_framework.seeding import derive

Part = Literal["train", "test"]
"""Problems that are learned from, or held out."""
_QUARTERS: Mapping[str, Mapping[Phase, frozenset[int]]] = {
    part: {Phase.TUNING: frozenset(both[:1]), Phase.EVALUATION: frozenset(both[1:]), Phase.SINGLE: frozenset(both)}
    for part, both in (("train", LEARNED), ("test", HELD_OUT))
}
_TRIES = 2000
"""Draws in a row that bring no new problem, after which a kind counts as used up."""


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """Problems of one kind, with a closed form for the answer and a check of replies that executes nothing.

    Attributes:
        name: what it is called in `scenario.kinds`.
        variants: of which one is in use; at least two.
        variant: which, from 0.
        difficulty: from `easiest` to 3.
        easiest: the lowest difficulty that there is.
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    easiest: ClassVar[int] = 1

    variant: int = 0
    difficulty: int = 1

    @property
    def provenance(self) -> Mapping[str, str]:
        """Name and digest of each data set that the problems are made of."""
        return {}

    @abstractmethod
    def draw(self, numbers: random.Random) -> Problem:
        """A problem.

        Raises:
            DataError: the data that it is made of cannot be had.
        """

    @abstractmethod
    def check(self, problem: Problem, reply: str) -> Verdict:
        """How right a reply is."""


def drawn(kind: Kind, n: int, part: Part, phase: Phase, seed: int, *, n_more: int = 0) -> list[Problem]:
    """n problems, no prompt twice; of more problems the first n are the same.

    Args:
        kind: what draws them.
        n: how many.
        part: learned from, or held out.
        phase: whose.
        seed: what they are drawn from.
        n_more: at most so many follow, fewer where the kind has no more.

    Raises:
        ConfigError: the kind has not n.
    """
    quarters = _QUARTERS[part][Phase(phase)]
    numbers = random.Random(derive(seed, "problems", kind.name, kind.variant, part, str(Phase(phase))))
    found: dict[str, Problem] = {}
    n_missed = 0
    while len(found) < n + n_more and n_missed < _TRIES:
        problem = kind.draw(numbers)
        is_new = quarter(problem.prompt) in quarters and problem.prompt not in found
        n_missed = 0 if is_new else n_missed + 1
        if is_new:
            found[problem.prompt] = problem
    if len(found) >= n:
        return list(found.values())
    key = "scenario.n_train" if part == "train" else "scenario.n_test"
    raise ConfigError(f"{kind.name} of difficulty {kind.difficulty} has about {len(found)} such problems in this "
                      f"phase, and {n} are asked for; lower {key} or raise scenario.difficulty")
