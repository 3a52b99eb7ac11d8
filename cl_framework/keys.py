"""Keys that have one value each: all keys of a verb that takes no products, and those that say where runs are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.grammar import Command
from cl_framework.launchers import Launcher
from cl_framework.registry import unknown

LAUNCHING = ("launcher", "workers", "ray_address")
"""The keys that say where runs are done."""


def take(command: Command, allowed: Sequence[str]) -> dict[str, Any]:
    """The one value of each key.

    Raises:
        ConfigError: a key that is not allowed, or one with several values; all at once.
    """
    faults = [unknown("key", key, allowed) for key in command.values if key not in allowed]
    faults += [f"{key} takes one value here, got {len(values)}" for key, values in command.values.items()
               if len(values) > 1]
    if faults:
        raise ConfigError(faults)
    return {key: values[0] for key, values in command.values.items()}


def single(values: dict[str, list[Any]], key: str, default: Any) -> Any:
    """The one value of a key, which is taken out.

    Raises:
        ConfigError: it has several.
    """
    found = values.pop(key, [default])
    if len(found) > 1:
        raise ConfigError(f"{key} takes one value, got {len(found)}")
    return found[0]


def launcher_of(values: dict[str, list[Any]]) -> Launcher:
    """The launcher that was asked for; its keys are taken out.

    Raises:
        ConfigError: there is none of this name, or its keys do not fit.
    """
    name, workers, address = (single(values, key, None) for key in LAUNCHING)
    if isinstance(workers, bool) or not isinstance(workers, int | None):
        raise ConfigError(f"workers must be a whole number of 1 or more, got {workers}")
    return Launcher(name="sequential" if name is None else str(name), workers=workers,
                    address=None if address is None else str(address))
