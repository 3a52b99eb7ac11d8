"""Presets as dotted keys: `configs/<group>/<name>.yaml` and `configs/experiment/<name>.yaml`.

A name may have folders in it (`experiment=hsu2018/class/ewc`). What the presets of a folder share stands once, in its
`_shared.yaml`; the nearer a file is to the preset, the more it counts. The section `published` of a preset is no
configuration: it is the number that the preset reproduces.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from cl_framework.errors import ConfigError

Flat = dict[str, Any]
"""Dotted keys and their values."""

_SHARED = "_shared"


@cache
def _preset_text(group: str, name: str) -> str | None:
    path = files("cl_framework.configs") / group / f"{name}.yaml"
    return path.read_text() if path.is_file() else None


def _sections(group: str, name: str) -> dict[str, Any] | None:
    """What the preset's files say, the shared ones first, section by section; None where there is no such preset."""
    if name not in preset_names(group):
        return None
    folders = name.split("/")[:-1]
    shared = ["/".join([*folders[:depth], _SHARED]) for depth in range(len(folders) + 1)]
    merged: dict[str, Any] = {}
    for content in (_preset_text(group, each) or "" for each in [*shared, name]):
        for key, value in (yaml.safe_load(content) or {}).items():
            before = merged.get(key)
            merged[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def preset(group: str, name: str, *, must_exist: bool = False) -> Flat:
    """The values of a preset as dotted keys; none where there is no such file.

    Raises:
        ConfigError: it must exist and does not.
    """
    sections = _sections(group, name)
    if sections is None:
        if must_exist:
            raise ConfigError(no_preset(group, name))
        return {}
    flat: Flat = {}
    for key, value in sections.items():
        if key == "published":
            continue
        if not isinstance(value, dict):
            flat[key] = value
            continue
        for inner, item in value.items():
            if key == "strategy" and isinstance(item, dict):
                flat |= {f"strategy.{inner}.{deep}": deepest for deep, deepest in item.items()}
            else:
                flat[key if inner == "name" else f"{key}.{inner}"] = item
    return flat


def published_section(name: str) -> dict[str, Any]:
    """What an experiment preset says of the number that it reproduces; empty where it reproduces none.

    Raises:
        ConfigError: there is no such preset.
    """
    sections = _sections("experiment", name)
    if sections is None:
        raise ConfigError(no_preset("experiment", name))
    return dict(sections.get("published", {}))


def no_preset(group: str, name: str) -> str:
    """The sentence for a preset that is not there, or is a folder of them."""
    names = preset_names(group)
    inside = [each for each in names if each.startswith(f"{name.rstrip('/')}/")]
    if inside:
        return (f"{group}={name} is a folder of {len(inside)} presets; name one, such as {group}={inside[0]} "
                f"(`clf list kind={group}` shows them)")
    folders = {each.rpartition("/")[0] for each in names} - {""}
    near = difflib.get_close_matches(name, [*names, *sorted(folders)], n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"`clf list kind={group}` shows them"
    return f"unknown {group} '{name}'; {hint}"


@cache
def preset_names(group: str) -> tuple[str, ...]:
    """The presets of a group."""
    folder = files("cl_framework.configs") / group
    return tuple(sorted(_names_below(folder, ""))) if folder.is_dir() else ()


def headline(group: str, name: str) -> str:
    """The first line of a preset: the command that uses it."""
    return (_preset_text(group, name) or "").partition("\n")[0].removeprefix("# ")


def _names_below(folder: Traversable, prefix: str) -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _names_below(path, f"{prefix}{path.name}/")
        elif path.name.endswith(".yaml") and path.name != f"{_SHARED}.yaml":
            yield prefix + path.name[:-5]
