"""What reward has cost along the stream: the curves that efficiency and asymptote are read from.

A point is the mean reward on the held-out problems of the whole stream after an experience, beside what had been spent
by then: *samples*, the problems whose replies weights learned from, and *replies*, all that were drawn to learn from.
Where a stream has one kind of problems in pieces, this is the curve of Tiwari et al., "Learning, Fast and Slow", 2026,
arXiv 2605.12484, section 4. The costs are those that a strategy writes into `metrics.jsonl`. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cl_framework.fast_slow_metrics import Curve
from cl_framework.groups import Group
from cl_framework.plain_files import from_json, read_bytes
from cl_framework.summaries import Summary

COSTS: Mapping[str, str] = {"rollouts": "replies", "samples": "samples"}
"""What can be spent: name in the files -> what it is called."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """A point of a curve.

    Attributes:
        place: the experience that was learned, from 0.
        costs: spent by then, by the names of `COSTS`, means over runs.
        reward: the mean over the stream's held-out problems and over runs, a fraction.
    """

    place: int
    costs: Mapping[str, float]
    reward: float


def spent(each: Group) -> list[Spent]:
    """The points of a row, means over its runs; none where a run does not count its replies, or does not tell what each
    of its experiences cost.

    An experience after which some experience was not evaluated has no point.
    """
    costs = [_costs(run) for run in each.runs]
    names = {name for own in costs for line in own for name in line}
    is_told = costs and all(own and all(line.keys() == names for line in own) for own in costs)
    if not is_told or "rollouts" not in names or len({len(own) for own in costs}) > 1:
        return []
    rewards = [[_reward(row) for row in run.accuracy_matrix] for run in each.runs]
    return [Spent(place=place, reward=fmean(known), costs={
        name: fmean(own[place].get(name, 0.0) for own in costs) for name in COSTS})
        for place, at in enumerate(zip(*rewards, strict=True))
        if len(known := [value for value in at if value is not None]) == len(at)]


def curve(points: Sequence[Spent], cost: str) -> Curve:
    """Reward by one of the costs."""
    return [(point.costs[cost], point.reward) for point in points]


def _reward(row: Sequence[float | None]) -> float | None:
    """The mean over the stream; None unless all of it was measured."""
    known = [value for value in row if value is not None]
    return fmean(known) if known and len(known) == len(row) else None


def _costs(run: Summary) -> list[dict[str, float]]:
    """What had been spent after each experience; none where `metrics.jsonl` is not as a run wrote it."""
    try:
        text = read_bytes(run.folder / "metrics.jsonl").decode()
        lines = [from_json(line) for line in text.splitlines()]
        if [line["experience"] for line in lines] != [*range(len(run.accuracy_matrix))]:
            return []
        return [{name: _number(line["strategy"][name]) for name in COSTS if name in line["strategy"]}
                for line in lines]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no cost")
    return float(value)
