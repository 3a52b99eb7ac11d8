"""One run, fully resolved: what it builds, its configuration as plain data, and the hash that names its folder."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cl_framework.configuration import hash_of
from cl_framework.fields import DataclassLike, bounded, check_ranges
from cl_framework.hardware import Hardware
from cl_framework.models import Architecture
from cl_framework.recipe import Recipe
from cl_framework.scenario import Scenario
from cl_framework.strategy import Strategy
from cl_framework.types import Phase


@dataclass(kw_only=True)
class Tracking:
    """Who is told: `track.*` on the command line."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto is online where a key is configured, else off."""
    project: str = "cl_framework"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
    checkpoints: bool = False
    """Also keep the checkpoint after each experience as a W&B artifact."""
    tensorboard: bool = False
    """Also write TensorBoard event files into the run folder."""
    diagnostics: bool = False
    """Also write what each update did to the weights, diagnostics.json, for `clf diagnose`."""
    every: int = bounded(50, low=1)
    """Training steps between two logged losses."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True)
class Shared:
    """Keys without a section."""

    seed: int = bounded(0, low=0, high=2**62)
    """Training seed: weights, order of rows, augmentation, the strategy's own draws."""
    order_seed: int | None = bounded(None, low=0, high=2**62)
    """Shuffles the order of classes or domains; null keeps their natural order."""
    phase: Literal["single", "tuning", "evaluation"] = "single"
    """Which stream of the scenario is opened."""

    def __post_init__(self) -> None:
        check_ranges(self)


SECTIONS: dict[str, type[DataclassLike]] = {"train": Recipe, "trainer": Hardware, "track": Tracking}
GROUPS = ("scenario", "strategy", "model")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run, fully resolved: its configuration as plain data, and what it builds."""

    tree: dict[str, Any]
    scenario: Scenario = field(repr=False)
    strategy: Strategy = field(repr=False)
    architecture: Architecture = field(repr=False)
    recipe: Recipe = field(repr=False)
    hardware: Hardware = field(repr=False)
    tracking: Tracking = field(repr=False)
    experiences: int = 0
    """Only the first k experiences are learned; 0 is all. Set by a search alone, which keeps such runs to itself."""
    protocol: str | None = None
    """The protocol whose second phase this run belongs to; None for any other run."""

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.tree["seed"])

    @property
    def order_seed(self) -> int | None:
        """The seed of the order of classes or domains."""
        return None if self.tree["order_seed"] is None else int(self.tree["order_seed"])

    @property
    def phase(self) -> Phase:
        """Which stream of the scenario is opened."""
        return Phase(self.tree["phase"])

    def name(self, group: str) -> str:
        """The plugin's name in a group."""
        return str(self.tree[group]["name"])

    @property
    def hash(self) -> str:
        """Equal for runs that differ in the seed, the tracking or the checkpoint interval alone.

        The source of a plugin that is named by its path counts too, since it changes while it is being written.
        """
        made = (self.scenario, self.architecture, *self.strategy.parts())
        own = {type(item).__module__: _source_digest(type(item)) for item in made
               if any(f"{type(item).__module__}:" in self.name(group) for group in GROUPS)}
        return hash_of({**self.tree, "code": own} if own else self.tree)

    def yaml(self) -> str:
        """The whole configuration as YAML."""
        return yaml.safe_dump(self.tree, sort_keys=False)


def _source_digest(cls: type) -> str:
    return hashlib.sha256(Path(inspect.getfile(cls)).read_bytes()).hexdigest()
