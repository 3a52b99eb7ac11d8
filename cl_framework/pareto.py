"""The Pareto frontier of prompts over single problems: who is best somewhere, and who may have children.

Scores are one row a candidate and one column a problem. The front of a problem holds the candidates that are best on
it, ties kept. A candidate is dominated where every front that holds it also holds another one that is still there;
candidates are visited in the order of their mean score, the lowest first, until none is dominated. A parent is drawn
with probability proportional to the fronts that it survives in.

Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", 2025, arXiv 2507.19457,
algorithm 2; the order of visits is that of the released code. How FST ranks the frontier is not stated: by mean score,
ties by age; where the frontier is too small, the others follow, and then the first ones again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

Scores = Sequence[Sequence[float]]
"""One row a candidate, one column a problem."""


def fronts(scores: Scores) -> list[frozenset[int]]:
    """The candidates that are best on each problem.

    >>> fronts([[1, 0], [1, 1]])
    [frozenset({0, 1}), frozenset({1})]
    """
    columns = list(zip(*scores, strict=True))
    return [frozenset(row for row, value in enumerate(column) if value == max(column)) for column in columns]


def means(scores: Scores) -> list[float]:
    """The mean score of each candidate; 0 where there is no problem."""
    return [sum(row) / len(row) if row else 0.0 for row in scores]


def frontier(scores: Scores) -> Mapping[int, int]:
    """The candidates that are not dominated, each with the number of fronts that it survives in.

    >>> dict(frontier([[1, 0, 0], [0, 1, 0], [0, 1, 1]]))
    {0: 1, 2: 2}
    """
    best, mean = fronts(scores), means(scores)
    alive = set().union(*best)
    is_settled = False
    while not is_settled:
        is_settled = True
        for candidate in sorted(alive, key=lambda row: (mean[row], row)):
            if all((front & alive) - {candidate} for front in best if candidate in front):
                alive.discard(candidate)
                is_settled = False
                break
    return {row: sum(row in front for front in best) for row in sorted(alive)}


def draw_parent(scores: Scores, generator: torch.Generator) -> int:
    """A candidate of the frontier, drawn by the number of its fronts."""
    counts = frontier(scores)
    place = int(torch.multinomial(torch.tensor([*counts.values()], dtype=torch.float64), 1, generator=generator))
    return list(counts)[place]


def top(scores: Scores, k: int) -> list[int]:
    """k candidates: the frontier by mean score, then the others, then the same again.

    >>> top([[1, 0, 0], [0, 1, 0], [0, 1, 1]], 2), top([[0.5]], 3)
    ([2, 0], [0, 0, 0])
    """
    mean, kept = means(scores), frontier(scores)
    ranked = sorted(range(len(scores)), key=lambda row: (row not in kept, -mean[row], row))
    return [ranked[place % len(ranked)] for place in range(k)]


def best(scores: Scores, k: int) -> list[int]:
    """k candidates by mean score alone, ties by age: what is left without a frontier."""
    mean = means(scores)
    ranked = sorted(range(len(scores)), key=lambda row: (-mean[row], row))
    return [ranked[place % len(ranked)] for place in range(k)]
