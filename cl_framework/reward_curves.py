"""What reward has cost along the stream: the curves that efficiency and asymptote are read from.

A point is the mean reward on the held-out problems of the whole stream after an experience, beside what had been spent
by then: *samples*, the problems that weights learned from, and *replies*, all that were drawn. Where a stream has one
kind of problems in pieces, this is the curve of Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484,
section 4. The costs are those that a strategy writes into `metrics.jsonl`. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cl_framework.fast_slow_metrics import Curve
from cl_framework.groups import Group
from cl_framework.plain_files import read_bytes
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
    """The points of a row, means over its runs; none where a run does not count its replies.

    An experience after which some experience was not evaluated has no point.
    """
    found = [_of(run) for run in each.runs]
    if not found or not all(found):
        return []
    places = [place for place in found[0] if all(place in own for own in found)]
    return [Spent(place=place, reward=fmean(own[place][1] for own in found), costs={
        name: fmean(own[place][0].get(name, 0.0) for own in found) for name in COSTS}) for place in places]


def curve(points: Sequence[Spent], cost: str) -> Curve:
    """Reward by one of the costs."""
    return [(point.costs[cost], point.reward) for point in points]


def _of(run: Summary) -> dict[int, tuple[Mapping[str, float], float]]:
    """What one run had spent and reached, by place."""
    costs = dict(enumerate(_costs(run.folder)))
    return {place: (costs[place], fmean(known)) for place, row in enumerate(run.accuracy_matrix)
            if "rollouts" in costs.get(place, {}) and len(known := [value for value in row if value is not None]) ==
            len(row)}


def _costs(folder: Path) -> Iterator[Mapping[str, float]]:
    """The costs of each line of a run's `metrics.jsonl`; none where it is not as a run wrote it."""
    try:
        lines = [json.loads(line)["strategy"] for line in read_bytes(folder / "metrics.jsonl").splitlines()]
        yield from [{name: _number(own[name]) for name in COSTS if name in own} for own in lines]
    except (OSError, ValueError, LookupError, TypeError):
        return


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no cost")
    return float(value)
