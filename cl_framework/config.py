"""From KEY=VALUE to a checked configuration: a plugin's dataclass is its schema. OmegaConf is used here alone.

Precedence: dataclass defaults < `configs/<group>/<name>.yaml` < what the scenario implies < `configs/experiment/`
< the command line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cl_framework.chain import Chain
from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError, PluginError
from cl_framework.fields import DataclassLike, bounded, check_ranges
from cl_framework.hardware import NOT_OFFERED, Hardware
from cl_framework.models import Architecture
from cl_framework.presets import Flat, preset
from cl_framework.recipe import Recipe
from cl_framework.registry import load, plugins, unknown
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


T = TypeVar("T", bound=DataclassLike)

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


def structured(cls: type[DataclassLike]) -> DictConfig:
    """The fields of a dataclass, to be filled in.

    Raises:
        PluginError: names the field's fault.
    """
    try:
        made: DictConfig = OmegaConf.structured(cls)
    except (OmegaConfBaseException, NameError, TypeError, ValueError) as error:
        raise PluginError(f"{cls.__name__} cannot be configured: {str(error).splitlines()[0]}; fields are int, float, "
                          "bool, str, Literal, list or dict of these") from error
    return made


def resolve(chosen: Mapping[str, Any], all_parts: Collection[str] = ()) -> Job:
    """Check one choice of values and build what it names.

    Args:
        chosen: dotted keys of the command line, one value each.
        all_parts: strategies that occur anywhere in the product; `strategy.<part>.<field>` is ignored by runs
            without that part.

    Raises:
        ConfigError: every fault at once.
        PluginError: a plugin breaks its contract.
    """
    given = dict(chosen)
    experiment = given.pop("experiment", None)
    layer = given
    if experiment is not None:
        layer = {**without_strangers(preset("experiment", str(experiment), must_exist=True), given), **given}
    faults: list[str] = []
    names = {"scenario": str(layer.get("scenario", "")), "strategy": str(layer.get("strategy", ""))}
    faults += [f"say which {group}: {group}=NAME; `clf list` shows them" for group, name in names.items() if not name]
    parts = names["strategy"].split("+")
    for group in GROUPS:
        if group in layer and (not isinstance(layer[group], str) or "" in str(layer[group]).split("+")):
            faults.append(f"{group}={_shown(layer[group])} is no name; `clf list kind={group}` shows the names")
    faults += [f"strategy '{part}' is twice in the chain {names['strategy']}; name each part once"
               for part in dict.fromkeys(parts) if parts.count(part) > 1]
    if faults:
        raise ConfigError(faults)
    base = preset("scenario", names["scenario"])
    for part in parts:
        base |= _qualified(preset("strategy", part), part)
    names["model"] = str(layer.get("model", base.get("model", "mlp")))
    base = {**preset("model", names["model"]), **_of_same_model(base, names["model"])}
    layer = {key: value for key, value in layer.items() if key not in GROUPS}

    shared = _Section("", Shared)
    sections = {name: _Section(name, schema) for name, schema in SECTIONS.items()}
    sections |= {f"strategy.{part}": _Section(f"strategy.{part}", _load("strategy", part, faults)) for part in parts}
    sections["scenario"] = _Section("scenario", _load("scenario", names["scenario"], faults))
    sections["model"] = _Section("model", _load("model", names["model"], faults))
    if faults:
        raise ConfigError(faults)

    def put(values: Flat) -> None:
        for key, value in values.items():
            faults.extend(_put(key, value, sections, shared, parts, all_parts))

    put({key: value for key, value in base.items() if key not in GROUPS})
    put({key: value for key, value in layer.items() if key.startswith("scenario.")})
    scenario = sections["scenario"].build(faults)
    if isinstance(scenario, Scenario):
        put({f"train.{key}": value for key, value in scenario.recipe().items()})
    put({key: value for key, value in layer.items() if not key.startswith("scenario.")})
    shared.build(faults)
    built = {name: section.build(faults) for name, section in sections.items()}
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    members = [built[f"strategy.{part}"] for part in parts]
    tree = {
        "scenario": {"name": names["scenario"], **sections["scenario"].tree()},
        "strategy": {"name": names["strategy"], **{part: sections[f"strategy.{part}"].tree() for part in parts}},
        "model": {"name": names["model"], **sections["model"].tree()},
        **{name: sections[name].tree() for name in SECTIONS}, **shared.tree(),
    }
    return Job(tree=tree, scenario=built["scenario"], architecture=built["model"], recipe=built["train"],
               strategy=members[0] if len(members) == 1 else Chain(*members), hardware=built["trainer"],
               tracking=built["track"])


def from_tree(tree: Mapping[str, Any]) -> Job:
    """The job of a saved `config.yaml`."""
    flat: Flat = {}
    for key, value in tree.items():
        if key == "strategy":
            flat["strategy"] = value["name"]
            flat |= {f"strategy.{part}.{name}": item for part, fields in value.items() if part != "name"
                     for name, item in fields.items()}
        elif key in GROUPS:
            flat |= {(key if name == "name" else f"{key}.{name}"): item for name, item in value.items()}
        elif key in SECTIONS:
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return resolve(flat)


def filled(prefix: str, schema: type[T], values: Mapping[str, Any]) -> T:
    """A section outside a run, such as `search`, from the values of its fields.

    Raises:
        ConfigError: every fault at once.
    """
    section, faults = _Section(prefix, schema), list[str]()
    for name, value in values.items():
        faults += section.put(name, value)
    built: T = section.build(faults)
    if faults:
        raise ConfigError(faults)
    return built


def without_strangers(values: Flat, given: Flat) -> Flat:
    """A preset's values without the fields of a scenario, strategy or model that the command line replaces."""
    replaced = [group for group in GROUPS if group in given and given[group] != values.get(group)]
    parts = [f"strategy.{part}." for part in str(given.get("strategy", "")).split("+")]
    return {key: value for key, value in values.items()
            if key.partition(".")[0] not in replaced or key.startswith(tuple(parts))}


def _of_same_model(base: Flat, model: str) -> Flat:
    """A preset's model fields belong to the model that the preset names."""
    if base.get("model", model) == model:
        return base
    return {key: value for key, value in base.items() if not key.startswith("model.")}


def _qualified(values: Flat, part: str) -> Flat:
    """`strategy.<field>` of a strategy's own preset, as `strategy.<part>.<field>`."""
    return {(f"strategy.{part}.{key.removeprefix('strategy.')}" if key.startswith("strategy.") else key): value
            for key, value in values.items()}


def _load(group: str, name: str, faults: list[str]) -> Any:
    try:
        return load(group, name)
    except ConfigError as error:
        faults += error.faults
        return Shared


def _put(key: str, value: Any, sections: Mapping[str, _Section], shared: _Section, parts: Collection[str],
         all_parts: Collection[str]) -> list[str]:
    head, _, rest = key.partition(".")
    if not rest:
        if head in (*SECTIONS, *GROUPS):
            return [f"'{head}' is a section; give one of its keys: {head}.NAME={value}"]
        return shared.put(head, value)
    if head == "strategy":
        part, name = next(((p, rest[len(p) + 1:]) for p in {*parts, *all_parts, *plugins("strategy")}
                           if rest.startswith(f"{p}.")), ("", rest))
        if part in parts:
            return sections[f"strategy.{part}"].put(name, value)
        if part:
            return [] if part in all_parts else [f"strategy '{part}' is not part of this run; drop {key}"]
        if len(parts) == 1:
            return sections[f"strategy.{next(iter(parts))}"].put(rest, value)
        example = next(iter(parts))
        return [f"in a chain, say whose {rest}: strategy.{example}.{rest}={value}"]
    if head not in sections:
        return [unknown("section", head, (*sections, "strategy"))]
    return sections[head].put(rest, value)


def _shown(value: Any) -> str:
    """A value as the user wrote it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _reason(error: OmegaConfBaseException, value: Any) -> str:
    text = str(error.msg or error).splitlines()[0]
    if "is not Optional" in text:
        return "null is no value for it"
    if "is not a ListConfig" in text:
        return f"expected a list, e.g. [{_shown(value)}]"
    return text


class _Section:
    """One dataclass being filled in."""

    def __init__(self, prefix: str, schema: type[DataclassLike]) -> None:
        self.prefix = prefix
        self._names = [spec.name for spec in dataclasses.fields(schema) if spec.init]
        self._config = structured(schema)

    def put(self, name: str, value: Any) -> list[str]:
        """Set a field; the faults, if any."""
        full = f"{self.prefix}.{name}" if self.prefix else name
        first = name.partition(".")[0]
        if first not in self._names or (first != name and not isinstance(self._config[first], DictConfig)):
            if not self.prefix:
                return [unknown("key", full, [*self._names, *GROUPS, *SECTIONS, "experiment", "out", "launcher"])]
            return [NOT_OFFERED.get(full) or unknown("key", full, [f"{self.prefix}.{known}" for known in self._names])]
        try:
            OmegaConf.update(self._config, name, value, merge=False)
        except OmegaConfBaseException as error:
            return [f"{full}={_shown(value)}: {_reason(error, value)}"]
        return []

    def build(self, faults: list[str]) -> Any:
        """The dataclass; its own complaints are added to the faults."""
        try:
            return OmegaConf.to_object(self._config)
        except OmegaConfBaseException as error:
            faults.append(f"{self.prefix}: {str(error.msg or error).splitlines()[0]}")
        except ConfigError as error:
            prefix = f"{self.prefix}." if self.prefix else ""
            faults += [f"{prefix}{fault.partition('.')[2]}" if fault.split(".")[0].isidentifier() and " " not in
                       fault.split(".")[0] else fault for fault in error.faults]
        return None

    def tree(self) -> dict[str, Any]:
        """The values as plain data."""
        tree: dict[str, Any] = OmegaConf.to_container(self._config)  # type: ignore[assignment]
        return tree
