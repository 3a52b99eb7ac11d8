"""Presets as dotted keys: `configs/<group>/<name>.yaml` and `configs/experiment/<name>.yaml`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from cl_framework.errors import ConfigError
from cl_framework.registry import unknown

Flat = dict[str, Any]
"""Dotted keys and their values."""


@cache
def _preset_text(group: str, name: str) -> str | None:
    path = files("cl_framework.configs") / group / f"{name}.yaml"
    return path.read_text() if path.is_file() else None


def preset(group: str, name: str, *, must_exist: bool = False) -> Flat:
    """The values of `configs/<group>/<name>.yaml` as dotted keys; none where there is no such file."""
    text = _preset_text(group, name)
    if text is None:
        if must_exist:
            raise ConfigError(unknown(group, name, preset_names(group)))
        return {}
    flat: Flat = {}
    for key, value in (yaml.safe_load(text) or {}).items():
        if not isinstance(value, dict):
            flat[key] = value
            continue
        for name, item in value.items():
            if key == "strategy" and isinstance(item, dict):
                flat |= {f"strategy.{name}.{inner}": deep for inner, deep in item.items()}
            else:
                flat[key if name == "name" else f"{key}.{name}"] = item
    return flat


def preset_names(group: str) -> list[str]:
    """The presets of a group."""
    folder = files("cl_framework.configs") / group
    return sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".yaml")) if folder.is_dir() else []
