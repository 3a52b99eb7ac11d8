"""What may be searched: `search.*` of the command line, grids of hyperparameters, and draws from them.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP): 30 independent uniform
draws from discrete grids, 5 seeds each.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, check_ranges, grids
from cl_framework.presets import preset, preset_names
from cl_framework.recipe import Recipe
from cl_framework.registry import load, unknown
from cl_framework.seeding import derive


@dataclass(kw_only=True)
class Search:
    """How hyperparameters are searched: `search.*` on the command line."""

    trials: int = bounded(30, low=1, high=10_000)
    """Hyperparameter sets that are tried."""
    seeds: int = bounded(5, low=1, high=1_000)
    """Seeds of each set: 0 to n - 1, each at once the training seed and the seed of the order."""
    evaluation_seeds: int = bounded(0, low=0, high=1_000)
    """Seeds of the winner in phase 2: 0 to n - 1; as many as `seeds` when 0."""
    sampler: Literal["random", "grid", "tpe"] = "random"
    """random: independent uniform draws; grid: every combination, in order; tpe: Optuna's tree-structured Parzen
    estimator, which learns from the trials that are over (Bergstra et al., NeurIPS 2011)."""
    metric: str = "average_incremental_accuracy"
    """The number that decides, its mean over seeds; ties go to average_accuracy, then to fewer parameters."""
    stop: Literal["none", "median"] = "none"
    """median: after each seed, end a trial whose mean is below the median of complete trials at as many seeds."""
    experiences: int = bounded(0, low=0)
    """Tune on the first k experiences of the tuning stream alone; 0 is all of them."""
    storage: str | None = None
    """Where Optuna keeps the study: any database URL; null is a journal file in the study's folder."""
    spaces: str | None = None
    """A folder of configs/search/ whose grids replace the declared ones, such as gtep."""
    space: dict[str, Any] = field(default_factory=dict)
    """Grids by key, which replace the declared ones or add to them; null takes a key out of the search."""
    evaluate: list[str] = field(default_factory=list)
    """Scenarios that the winner is reported on; empty is the scenario itself. Where it is among them, every phase
    takes half of the classes: the tuned scenario's lower half, the upper halves of all that are reported on."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def phase(self, scenario: str) -> str:
        """What is opened for tuning: a half, or the whole where other scenarios alone are reported on."""
        return tuning_phase(scenario, self.evaluate)


def tuning_phase(scenario: str, evaluate: Collection[str]) -> str:
    """The phase of the tuning stream.

    >>> tuning_phase("split_fashion", []), tuning_phase("split_fashion", ["split_mnist"])
    ('tuning', 'single')
    """
    return "tuning" if not evaluate or scenario in evaluate else "single"


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Space:
    """Hyperparameters by dotted key, each with the values that it may take; the order of the keys counts."""

    grids: Mapping[str, tuple[Any, ...]]

    def __post_init__(self) -> None:
        faults = []
        for key, grid in self.grids.items():
            if not grid:
                faults.append(f"the grid of {key} is empty; give values, or null to leave it out of the search")
            twice = [value for at, value in enumerate(grid) if value in grid[:at]]
            if twice:
                faults.append(f"the grid of {key} has {twice[0]} twice")
        if faults:
            raise ConfigError(faults)

    @property
    def hash(self) -> str:
        """Equal for equal keys with equal values in equal order."""
        text = _text([[key, list(grid)] for key, grid in self.grids.items()])
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def size(self) -> int:
        """Number of combinations.

        >>> Space({"train.lr": (0.1, 0.01), "strategy.er.policy": ("reservoir", "class_balanced")}).size
        4
        """
        return math.prod(len(grid) for grid in self.grids.values())

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination; the last key varies fastest."""
        for choice in itertools.product(*self.grids.values()):
            yield dict(zip(self.grids, choice, strict=True))


def draw(space: Space, algorithm: str, r: int) -> dict[str, Any]:
    """The r-th set of hyperparameters: independent and uniform, a function of (algorithm, r) alone.

    Sets may repeat, as independent draws do. A key's value does not depend on which other keys are searched.

    >>> space = Space({"train.lr": (0.1, 0.01, 0.001)})
    >>> draw(space, "er", 3) == draw(space, "er", 3)
    True
    """
    return {key: random.Random(derive(r, "search", algorithm, key)).choice(grid) for key, grid in space.grids.items()}


def space_of(strategy: str, search: Search, fixed: Collection[str] = (), everyone: Collection[str] = ()) -> Space:
    """The space of a strategy: declared grids, then the presets of configs/search/, then `search.space`.

    Args:
        strategy: a name or a chain `a+b`.
        search: the section.
        fixed: keys that the user has given a value; they are not searched.
        everyone: the parts of all strategies of the command; grids of the others' fields are passed over.

    Raises:
        ConfigError: a grid is empty, repeats a value or is no list; a key cannot be searched.
        PluginError: a part breaks its contract.
    """
    parts = strategy.split("+")
    found: dict[str, Any] = {f"strategy.{part}.{name}": grid for part in parts
                             for name, grid in grids(load("strategy", part)).items()}
    found |= {f"train.{name}": grid for name, grid in grids(Recipe).items()}
    known = preset_names("search")
    for part in parts:
        found |= preset("search", part)
    if search.spaces is not None:
        if f"{search.spaces}/default" not in known:
            folders = sorted({name.partition("/")[0] for name in known if "/" in name})
            raise ConfigError(unknown("search.spaces", search.spaces, folders))
        for part in parts:
            name = f"{search.spaces}/{part}"
            found |= preset("search", name if name in known else f"{search.spaces}/default")
    declared = [key for key, grid in found.items() if grid is not None]
    others = [f"strategy.{part}." for part in everyone if part not in parts]
    faults = []
    for given, grid in search.space.items():
        if not given.startswith(tuple(others)):
            key = full_key(given, strategy)
            faults += _faults(key, given, grid, fixed)
            found[key] = grid
    if faults:
        raise ConfigError(faults)
    space = Space({key: tuple(grid) for key, grid in found.items() if grid is not None and key not in fixed})
    if declared and not space.grids:
        raise ConfigError(f"there is nothing to search for strategy={strategy}: every key is fixed or taken out; give "
                          "grids with search.space.KEY=a,b")
    return space


def full_key(key: str, strategy: str) -> str:
    """`strategy.<field>` of a strategy that is no chain, as `strategy.<part>.<field>`; other keys as they are.

    >>> full_key("strategy.kappa", "psmt"), full_key("strategy.psmt.kappa", "psmt"), full_key("train.lr", "psmt")
    ('strategy.psmt.kappa', 'strategy.psmt.kappa', 'train.lr')
    """
    if "+" in strategy or not key.startswith("strategy.") or key.startswith(f"strategy.{strategy}."):
        return key
    return f"strategy.{strategy}.{key.removeprefix('strategy.')}"


def _faults(key: str, given: str, grid: object, fixed: Collection[str]) -> list[str]:
    if not key.startswith(("strategy.", "train.")) or key == "train.checkpoint_every":
        return [f"search.space.{given} cannot be searched: scenario, model and machine are the same in both phases and "
                "for every strategy; search strategy.* and train.*"]
    if key in fixed:
        return [f"{key} is given a value and a grid; drop {given}=... or search.space.{given}"]
    if grid is not None and not isinstance(grid, list):
        return [f"search.space.{given}={grid} is no grid; give a list, or null to leave it out of the search"]
    return []
