"""Paths in star graphs: arms of equal length begin at one node, and the path to the end of one of them is asked for.

    Edges: 4-71 4-20 71-8 20-5. Path from 4 to 5?   ->   4>20>5

The graph is a tree, so there is one path. Whoever writes it from its beginning must know its end before the first step
(Bachmann and Nagarajan, "The pitfalls of next-token prediction", ICML 2024, arXiv 2403.06963, section 4).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from cl_framework.problems import Problem, Verdict, first_line, right, wrong

from ._problems import Kind

_SIZES = {1: (2, 3), 2: (3, 3), 3: (5, 5)}
"""Arms, and edges of an arm, by difficulty."""
_NAMES: Mapping[str, Sequence[str]] = {
    "numbers": [str(number) for number in range(100)],
    "letters": [first + second for first in "bdfgklmnprst" for second in "aeiou"]}
_RULE = "write all nodes from the first to the last, with > between them"


@dataclass(frozen=True, kw_only=True)
class StarGraph(Kind):
    """Two arms of 3 edges, three of 3, or five of 5; an edge goes outwards, and all are in a random order."""

    name: ClassVar[str] = "star_graph"
    variants: ClassVar[tuple[str, ...]] = tuple(_NAMES)

    def draw(self, numbers: random.Random) -> Problem:
        """A graph and the end of one of its arms."""
        n_arms, length = _SIZES[self.difficulty]
        first, *rest = numbers.sample(_NAMES[self.variants[self.variant]], 1 + n_arms * length)
        arms = [[first, *rest[arm * length:(arm + 1) * length]] for arm in range(n_arms)]
        edges = [f"{a}-{b}" for arm in arms for a, b in pairwise(arm)]
        numbers.shuffle(edges)
        prompt = f"Edges: {' '.join(edges)}. Path from {first} to {arms[0][-1]}?"
        return Problem(prompt, ">".join(arms[0]), self.name)

    def check(self, problem: Problem, reply: str) -> Verdict:
        """The first line must be the path; where it fails is said."""
        given, path = [name.strip() for name in first_line(reply).split(">")], problem.answer.split(">")
        if given == path:
            return right()
        return wrong(_fault(given, path, edges_of(problem.prompt)), expected=problem.answer, rule=_RULE)


def edges_of(prompt: str) -> list[tuple[str, str]]:
    """The edges that a prompt lists.

    >>> edges_of("Edges: 4-71 71-8. Path from 4 to 8?")
    [('4', '71'), ('71', '8')]
    """
    return re.findall(r"(\w+)-(\w+)", prompt.partition(". Path")[0])


def _fault(given: Sequence[str], path: Sequence[str], edges: Sequence[tuple[str, str]]) -> str:
    """What keeps a list of names from being the path; no word of a reply is repeated that is no node."""
    nodes = {name for edge in edges for name in edge}
    if not set(given) <= nodes:
        return "That is no list of nodes."
    if given[0] != path[0]:
        return f"The path begins at {given[0]} and not at {path[0]}."
    for a, b in pairwise(given):
        if (a, b) not in edges:
            return f"There is no edge from {a} to {b}."
    return f"The path ends at {given[-1]} and not at {path[-1]}."
