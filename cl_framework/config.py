"""From KEY=VALUE to a checked configuration: a plugin's dataclass is its schema.

Precedence: dataclass defaults < `configs/<group>/<name>.yaml` < what the scenario implies < `configs/experiment/`
< the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cl_framework.chain import Chain
from cl_framework.errors import ConfigError
from cl_framework.job import GROUPS, SECTIONS, Job, Shared
from cl_framework.presets import Flat, preset
from cl_framework.registry import load, plugins, unknown
from cl_framework.scenario import Scenario
from cl_framework.sections import Section, shown


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
            faults.append(f"{group}={shown(layer[group])} is no name; `clf list kind={group}` shows the names")
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

    shared = Section("", Shared, (*GROUPS, *SECTIONS, "experiment", "out", "launcher"))
    sections = {name: Section(name, schema) for name, schema in SECTIONS.items()}
    sections |= {f"strategy.{part}": Section(f"strategy.{part}", _load("strategy", part, faults)) for part in parts}
    sections["scenario"] = Section("scenario", _load("scenario", names["scenario"], faults))
    sections["model"] = Section("model", _load("model", names["model"], faults))
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


def _put(key: str, value: Any, sections: Mapping[str, Section], shared: Section, parts: Collection[str],
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
