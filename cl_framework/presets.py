"""Presets as dotted keys: `configs/<group>/<name>.yaml` and `configs/experiment/<name>.yaml`.

A name may have folders in it (`experiment=hsu2018/class/ewc`). What the presets of a folder share stands once, in its
`_shared.yaml`; the nearer a file is to the preset, the more it counts. The section `published` of a preset is no
configuration: it is the number that the preset reproduces.

A package that offers plugins may bring presets of its own, in a folder `configs` of the same make beside its code. Of
two presets of one name ours counts, then that of the package whose name comes first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.offers import outside_packages
from cl_framework.plain_files import from_yaml

Flat = dict[str, Any]
"""Dotted keys and their values."""

NAMED = ("experiment", "protocol")
"""Groups of presets that a command line names."""

_SHARED = "_shared"


@cache
def _roots() -> tuple[Traversable, ...]:
    """Our folder of presets, then those of other packages, which are found without an import."""
    specs = [find_spec(name) for name in outside_packages()]
    places = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or []]
    return files("cl_framework.configs"), *(Path(place) / "configs" for place in places)


@cache
def _home(group: str, name: str) -> Traversable:
    """The folder that holds a preset; ours where none does."""
    return next((root for root in _roots() if (root / group / f"{name}.yaml").is_file()), _roots()[0])


@cache
def _preset_text(group: str, name: str) -> str | None:
    return _text(_home(group, name), group, name)


def _text(home: Traversable, group: str, name: str) -> str | None:
    path = home / group / f"{name}.yaml"
    return path.read_bytes().decode(errors="replace") if path.is_file() else None


def _sections(group: str, name: str) -> dict[str, Any] | None:
    """What the preset's files say, the shared ones first, section by section; None where there is no such preset."""
    if name not in preset_names(group):
        return None
    folders = name.split("/")[:-1]
    shared = ["/".join([*folders[:depth], _SHARED]) for depth in range(len(folders) + 1)]
    merged: dict[str, Any] = {}
    for each in [*shared, name]:
        for key, value in _read(group, each, _home(group, name)).items():
            before = merged.get(key)
            merged[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _read(group: str, name: str, home: Traversable) -> dict[str, Any]:
    """The content of one file; nothing where there is none.

    Raises:
        ConfigError: it holds no sections.
    """
    try:
        content = from_yaml(_text(home, group, name) or "") or {}
    except ValueError as error:
        raise ConfigError(f"{home / group / name}.yaml cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{home / group / name}.yaml holds no KEY: VALUE; correct it, or remove it")
    return content


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
        ConfigError: there is no such preset, or its section is none.
    """
    sections = _sections("experiment", name)
    if sections is None:
        raise ConfigError(no_preset("experiment", name))
    published = sections.get("published", {})
    if not isinstance(published, dict):
        raise ConfigError(f"the section published of experiment={name} is {published!r}; give it KEY: VALUE")
    return dict(published)


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
    folders = [root / group for root in _roots()]
    return tuple(sorted({name for folder in folders if folder.is_dir() for name in _names_below(folder, "")}))


def headline(group: str, name: str) -> str:
    """The first line of a preset: the command that uses it."""
    return (_preset_text(group, name) or "").partition("\n")[0].removeprefix("# ")


def _names_below(folder: Traversable, prefix: str) -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _names_below(path, f"{prefix}{path.name}/")
        elif path.name.endswith(".yaml") and path.name != f"{_SHARED}.yaml":
            yield prefix + path.name[:-5]
