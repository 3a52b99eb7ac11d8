"""The online error of strategies on one unlabelled stream, as plain numbers: by domain or round, and over the stream.

A domain is met once, or at several severities, of which the mean is taken; where the stream comes round several times,
the mean error of each round tells more (Hoang et al., NeurIPS 2024, section 5). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cl_framework.csv_tables import as_csv
from cl_framework.experience_figures import Figures, domain_of
from cl_framework.groups import Group, Stat

MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class ErrorRows:
    """Strategies (rows) by domains or rounds (headings), the last heading being the mean over the stream.

    Attributes:
        headings: domains in the order of the first run's stream, or rounds, then `MEAN`.
        rows: strategy -> its mean over runs under each heading, None where no run has it.
        is_by_round: whether the headings are rounds.
        n_pooled: the most experiences of a run that share a heading.
    """

    headings: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    is_by_round: bool
    n_pooled: int


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """The online error of one strategy over the stream.

    Attributes:
        names: of each experience; None where it has none, or runs met them in different orders.
        errors: over runs, of each experience.
    """

    names: tuple[str | None, ...]
    errors: tuple[Stat, ...]


def error_rows(labels: Sequence[str], groups: Sequence[Group]) -> ErrorRows | None:
    """What a table by domain or round shows; None where there are not two of them, or runs do not tell."""
    runs = [run.experiences for each in groups for run in each.runs]
    is_by_round = any(figures.round > 1 for experiences in runs for figures in experiences)
    pooled = {label: [pool(run.experiences, is_by_round=is_by_round) for run in each.runs]
              for label, each in zip(labels, groups, strict=True)}
    headings = list(dict.fromkeys(heading for row in pooled.values() for run in row for heading in run))
    if len(headings) < 2:
        return None
    rows = {}
    for label, row in pooled.items():
        cells = [[fmean(_errors(run[heading])) for run in row if _errors(run.get(heading, []))] for heading in headings]
        means = [fmean(_errors(members)) for run in row
                 if _errors(members := [figures for each in run.values() for figures in each])]
        rows[label] = tuple(fmean(cell) if cell else None for cell in (*cells, means))
    return ErrorRows(headings=(*headings, MEAN), rows=rows, is_by_round=is_by_round,
                     n_pooled=max(len(members) for row in pooled.values() for run in row for members in run.values()))


def pool(experiences: Sequence[Figures], *, is_by_round: bool) -> dict[str, list[Figures]]:
    """The experiences of a run by round, or by domain; those without a name each by their number."""
    found: dict[str, list[Figures]] = {}
    for index, each in enumerate(experiences):
        name = str(index) if each.name is None else domain_of(each.name)
        found.setdefault(f"round {each.round}" if is_by_round else name, []).append(each)
    return found


def _errors(members: Sequence[Figures]) -> list[float]:
    return [each.online_error for each in members if each.online_error is not None]


def error_curves(labels: Sequence[str], groups: Sequence[Group]) -> dict[str, ErrorCurve]:
    """The error over the stream, of strategies whose runs all tell it."""
    found = {}
    for label, each in zip(labels, groups, strict=True):
        streams = [run.experiences for run in each.runs]
        lengths = {len(experiences) for experiences in streams}
        errors = [_errors(experiences) for experiences in streams]
        if lengths != {len(row) for row in errors} or len(lengths) != 1 or lengths == {0}:
            continue
        names = [{figures.name for figures in place} for place in zip(*streams, strict=True)]
        found[label] = ErrorCurve(names=tuple(place.pop() if len(place) == 1 else None for place in names),
                                  errors=tuple(Stat.of(place) for place in zip(*errors, strict=True)))
    return found


def curves_as_csv(curves: Mapping[str, ErrorCurve]) -> str:
    """One line a strategy and experience; errors are fractions."""
    return as_csv([("strategy", "experience", "name", "online_error", "std", "n"), *(
        (label, index, name, stat.mean, stat.std, stat.n) for label, curve in curves.items()
        for index, (name, stat) in enumerate(zip(curve.names, curve.errors, strict=True)))])
