"""The keys of a verb that takes no products: each has one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.grammar import Command
from cl_framework.registry import unknown


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
