"""Published numbers and ours, side by side: a row for each experiment preset that has a `published` section.

A group of runs belongs to a row when its configuration is the preset's, by hash; a run with anything changed belongs to
none. The comparison is two-sided: *inside* means that the means differ by at most two standard errors of their
difference,

    |m - m'| <= 2 sqrt(s^2 / n + s'^2 / n'),

*outside* means more in either direction. Where no deviation was published, theirs is taken to be ours. A number that
was not read in its source is a *guide*, and nothing is judged by it. Intervals are Student's,
m +- t_{0.975, n - 1} s / sqrt(n).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from cl_framework.config import resolve
from cl_framework.errors import ConfigError
from cl_framework.groups import Group, Stat
from cl_framework.presets import no_preset, preset_names, published_section


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper says.

    Attributes:
        experiment: the preset that reproduces it.
        table, row: where it stands.
        mean, std, n: in percent, over n runs; std and n are None where the paper gives none.
        metric: the name of our metric.
        source: the publication, and how the number was read.
        is_guide: the number was not read in its source; it is a guide and no target.
        differs: what differs between their runs and ours, empty where nothing is known to.
    """

    experiment: str
    table: str
    row: str
    mean: float
    std: float | None = None
    n: int | None = None
    metric: str
    source: str = ""
    is_guide: bool = False
    differs: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number and the runs that reproduce it, in percent; `ours` is None where there are none yet."""

    published: Published
    ours: Stat | None
    seeds: tuple[int, ...] = ()
    git_commits: tuple[str, ...] = ()

    @property
    def half_width(self) -> float | None:
        """Half the 95 % interval of our mean; None for fewer than two runs."""
        if self.ours is None or self.ours.std is None:
            return None
        return float(stdtrit(self.ours.n - 1, 0.975)) * self.ours.std / math.sqrt(self.ours.n)

    @property
    def verdict(self) -> str:
        """inside, outside, or why neither is said."""
        if self.ours is None:
            return "not run"
        if self.published.is_guide:
            return "guide"
        if self.ours.std is None:
            return "one run"
        theirs = self.ours.std if self.published.std is None else self.published.std
        error = math.sqrt(self.ours.std**2 / self.ours.n + theirs**2 / (self.published.n or 1))
        return "inside" if abs(self.ours.mean - self.published.mean) <= 2 * error else "outside"


def published(experiments: Sequence[str]) -> list[Published]:
    """The published numbers of some presets, or of all presets in folders.

    Raises:
        ConfigError: there is no such preset or folder, or it has no published number.
    """
    known = preset_names("experiment")
    found: list[Published] = []
    for asked in experiments:
        names = [name for name in known if name == asked or name.startswith(f"{asked.rstrip('/')}/")]
        if not names:
            raise ConfigError(no_preset("experiment", asked))
        rows = [row for name in names for row in _rows(name, published_section(name))]
        if not rows:
            raise ConfigError(f"experiment={asked} reproduces no published number; those that do have a section "
                              "'published' in their preset")
        found += rows
    return list({(row.experiment, row.metric): row for row in found}.values())


def _rows(experiment: str, section: dict[str, Any]) -> Iterator[Published]:
    """One row for each metric under `values`: [mean] or [mean, standard deviation], in percent."""
    values = section.pop("values", {})
    for metric, (mean, *std) in values.items():
        yield Published(experiment=experiment, metric=metric, mean=mean, std=std[0] if std else None, **section)


def compare(rows: Sequence[Published], groups: Sequence[Group]) -> list[Comparison]:
    """Each published number with the runs whose configuration is its preset's, order seed included."""
    by_hash = {own: part for group in groups for own, part in group.by_hash().items()}
    return [_comparison(row, by_hash.get(resolve({"experiment": row.experiment}).hash)) for row in rows]


def _comparison(row: Published, group: Group | None) -> Comparison:
    stat = None if group is None else group.metrics.get(row.metric)
    if group is None or stat is None:
        return Comparison(published=row, ours=None)
    ours = Stat(100 * stat.mean, None if stat.std is None else 100 * stat.std, stat.n)
    return Comparison(published=row, ours=ours, seeds=group.seeds, git_commits=group.git_commits)
