"""From the command line of `clf tune` to plans: one search a strategy, checked before anything runs.

Precedence: what `clf train` has, then `configs/protocol/<name>.yaml`, then the command line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cl_framework.chance import accuracies, chance_of
from cl_framework.config import resolve, without_strangers
from cl_framework.configuration import hash_of
from cl_framework.declared import departures, labelled
from cl_framework.errors import ConfigError
from cl_framework.job import Job
from cl_framework.launch import check_job, open_stream
from cl_framework.metric_plugins import installed_metrics
from cl_framework.presets import Flat, preset
from cl_framework.registry import find, unknown
from cl_framework.runs import RunFolder
from cl_framework.search import Search, Space, draw, full_key, space_of
from cl_framework.sections import filled
from cl_framework.types import Need

_REFUSED = {
    "seed": "the protocol sets the seeds; search.seeds says how many",
    "order_seed": "seed k orders the classes by k, too; search.seeds says how many",
    "phase": "a search opens the tuning stream and no other; search.evaluate names other scenarios to report on",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One search, resolved and checked.

    Attributes:
        strategy: a name or a chain.
        protocol: the preset of configs/protocol/, and what the command changed of it; None where none was named.
        search: the section `search.*`.
        space: what is searched.
        chosen: dotted keys of every run, without those searched.
        parts: parts of all strategies of the command.
        notes: what the user should know before it begins.
        out: root of the run folders.
    """

    strategy: str
    protocol: str | None
    search: Search
    space: Space
    chosen: Flat
    parts: frozenset[str]
    notes: tuple[str, ...]
    out: Path
    _resolved: dict[str, Job] = field(default_factory=dict, compare=False, repr=False)

    def job(self, values: Mapping[str, Any], seed: int) -> Job:
        """The run of one choice of hyperparameters and one seed, on the tuning stream.

        Raises:
            ConfigError: the values do not go together.
        """
        key = json.dumps(dict(values), sort_keys=True)
        if key not in self._resolved:
            job = resolve({**self.chosen, **values}, self.parts)
            phase = self.search.phase(job.name("scenario"))
            self._resolved[key] = replace(job, tree={**job.tree, "phase": phase}, experiences=self.search.experiences)
        job = self._resolved[key]
        return replace(job, tree={**job.tree, "seed": seed, "order_seed": seed})

    @property
    def is_labelled(self) -> bool:
        """Whether the stream has labels to learn from."""
        return Need.UNLABELLED not in self.job(self.first, 0).scenario.offers

    @property
    def first(self) -> dict[str, Any]:
        """The first value of every grid."""
        return {key: grid[0] for key, grid in self.space.grids.items()}

    @property
    def chance(self) -> dict[str, float]:
        """What guessing gives on the tuning stream, by metric; opens the stream."""
        return chance_of(open_stream(self.job(self.first, 0)))

    @property
    def hash(self) -> str:
        """Equal for equal searches: base configuration, space, budget and protocol; the storage does not count."""
        search = {name: value for name, value in dataclasses.asdict(self.search).items() if name != "storage"}
        return hash_of({"first": self.job(self.first, 0).hash, "space": self.space.hash, "search": search,
                        "protocol": self.protocol})

    @property
    def folder(self) -> Path:
        """`<out>/tune/<scenario>/<strategy>/<hash>`."""
        return RunFolder.of(self.job(self.first, 0), self.out / "tune").path.parents[1] / self.hash

    @property
    def n_trials(self) -> int:
        """How many trials there will be."""
        return self.space.size if self.search.sampler == "grid" else self.search.trials

    def draws(self) -> list[dict[str, Any]]:
        """The trials that are known beforehand: all of them, or none where each depends on those before."""
        if self.search.sampler == "tpe":
            return []
        if self.search.sampler == "grid":
            return list(self.space.combinations())
        return [draw(self.space, self.strategy, r) for r in range(self.search.trials)]

    def check(self) -> None:
        """Try every value of every grid, and every trial that is known beforehand.

        Raises:
            ConfigError: every fault at once.
        """
        if self.search.sampler == "grid" and self.space.size > self.search.trials:
            raise ConfigError(f"the grid has {self.space.size} combinations, but search.trials={self.search.trials}; "
                              f"set search.trials={self.space.size}, take fewer values, or search.sampler=random")
        faults: list[str] = []
        for key, grid in self.space.grids.items():
            for value in grid:
                try:
                    self.job({**self.first, key: value}, 0)
                except ConfigError as error:
                    faults += [f"search.space: {fault}" for fault in error.faults]
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))
        seen: list[dict[str, Any]] = []
        for number, values in enumerate(self.draws() or [self.first]):
            if values in seen:
                continue
            seen.append(values)
            try:
                check_job(self.job(values, 0))
            except ConfigError as error:
                faults += [f"{fault} (trial {number})" for fault in error.faults]
        if faults:
            raise ConfigError(faults)
        if self.search.metric not in self.chance:
            raise ConfigError(f"search.metric={self.search.metric} is not measured on this stream; take one of "
                              f"{', '.join(self.chance)}")


def plans(values: Mapping[str, Sequence[Any]], out: Path) -> list[Plan]:
    """One plan for each strategy of a command, all checked.

    Args:
        values: the values of each key of the command line.
        out: root of the run folders.

    Raises:
        ClfError: something is unknown, impossible or refused.
    """
    faults = [f"{key}={values[key][0]} is not for clf tune: {reason}" for key, reason in _REFUSED.items()
              if key in values]
    faults += [f"{key} takes one value here, got {len(given)}; a search has one configuration. To search {key}, give "
               f"its grid as search.space.{key}" for key, given in values.items()
               if len(given) > 1 and key != "strategy" and not key.startswith("search.space.")]
    if "strategy" not in values:
        faults.append("say which strategy: strategy=NAME; `clf list kind=strategy` shows them")
    if faults:
        raise ConfigError(faults)
    user = {key: given[0] for key, given in values.items()
            if key not in ("strategy", "protocol") and not key.startswith("search.space.")}
    grids = {key.removeprefix("search.space."): _grid(given) for key, given in values.items()
             if key.startswith("search.space.")}
    protocol = str(values["protocol"][0]) if "protocol" in values else None
    names = list(dict.fromkeys(str(name) for name in values["strategy"]))
    parts = frozenset(part for name in names for part in name.split("+"))
    made = [_plan(name, protocol, user, grids, parts, out) for name in names]
    for plan in made:
        plan.check()
    return made


def _plan(strategy: str, protocol: str | None, user: Flat, grids: Flat, parts: frozenset[str], out: Path) -> Plan:
    own = {**user, "strategy": strategy}
    layer = preset("protocol", protocol, must_exist=True) if protocol is not None else {}
    merged = {**without_strangers(layer, own), **own}
    section = {key.removeprefix("search."): value for key, value in merged.items() if key.startswith("search.")}
    space = section.get("space", {})
    if isinstance(space, dict):
        section["space"] = {**layer.get("search.space", {}), **space, **grids}
    search = filled("search", Search, section)
    _check_search(search)
    chosen = {key: value for key, value in merged.items() if not key.startswith("search.")}
    searched = space_of(strategy, search, (), parts)
    fixed = {full_key(key, strategy): value for key, value in user.items() if key.startswith(("strategy.", "train."))}
    notes = tuple(f"{strategy}: {key} is fixed at {value} and not searched" for key, value in fixed.items()
                  if key in searched.grids)
    if protocol is not None:
        protocol = labelled(protocol, [*departures(protocol, vars(search), chosen, searched.grids),
                                       *(key for key in fixed if key in searched.grids)])
    return Plan(strategy=strategy, protocol=protocol, search=search, notes=notes, chosen=chosen, parts=parts, out=out,
                space=space_of(strategy, search, tuple(fixed), parts))


def _grid(given: Sequence[Any]) -> Any:
    """`a,b` is a grid of two values; one value must be a grid itself."""
    return list(given) if len(given) > 1 else given[0]


def _check_search(search: Search) -> None:
    metrics = {metric.name: metric for metric in installed_metrics()}
    faults = []
    if search.metric not in metrics:
        faults.append(unknown("search.metric", search.metric, metrics))
    elif search.metric not in (possible := [metric.name for metric in accuracies()]):
        faults.append(f"search.metric={search.metric} is no accuracy; a winner has the largest mean, in which a failed "
                      f"run counts as the accuracy of guessing: take one of {', '.join(possible)}")
    for name in search.evaluate:
        find("scenario", name)
    if faults:
        raise ConfigError(faults)
