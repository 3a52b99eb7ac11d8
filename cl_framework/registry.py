"""Plugins by name. Entry points are the only door; a plugin is checked when it is loaded."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cl_framework.errors import ConfigError, PluginError

GROUPS = {"strategy": "cl_framework.strategies", "scenario": "cl_framework.scenarios", "model": "cl_framework.models",
          "metric": "cl_framework.metrics", "dataset": "cl_framework.datasets"}
"""What may be plugged in, and the entry-point group that carries it."""

_CONTRACTS = {"strategy": ("cl_framework.strategy", "Strategy"), "scenario": ("cl_framework.scenario", "Scenario"),
              "model": ("cl_framework.models", "Architecture")}


@cache
def plugins(kind: str) -> dict[str, EntryPoint]:
    """The plugins of a kind by name, without importing any.

    Raises:
        PluginError: two packages offer one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUPS[kind])):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(f"two packages offer the {kind} '{point.name}': {other.value} and {point.value}; "
                              "uninstall one, or name the class by its path: package.module:Class")
    return found


def unknown(kind: str, name: str, options: Collection[str]) -> str:
    """The sentence for a name that is not there.

    >>> unknown("strategy", "psnt", ["er", "psmt"])
    "unknown strategy 'psnt'; did you mean 'psmt'?"
    """
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(options)) or 'none'}"
    return f"unknown {kind} '{name}'; {hint}"


def find(kind: str, name: str) -> EntryPoint:
    """The entry point of a name, or of a path `package.module:Class`.

    Raises:
        ConfigError: there is no such plugin.
    """
    if ":" in name:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            raise ConfigError(f"{kind} '{name}' is no path; write package.module:Class")
        return EntryPoint(name=name, value=name, group=GROUPS[kind])
    known = plugins(kind)
    if name not in known:
        raise ConfigError(unknown(kind, name, known))
    return known[name]


def load(kind: str, name: str) -> Any:
    """The plugin itself: a class, or an object for metrics and data sets.

    Raises:
        ConfigError: there is no such name, module or class.
        PluginError: it breaks its contract.
    """
    point = find(kind, name)
    try:
        plugin = point.load()
    except ModuleNotFoundError as error:
        raise ConfigError(f"{kind} '{name}' cannot be imported: {error}; is its package installed, or its file in "
                          "the folder you stand in?") from error
    except AttributeError as error:
        raise ConfigError(f"{kind} '{name}' does not exist: {error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"{kind} '{name}' fails when it is imported: {type(error).__name__}: {error}") from error
    if kind in _CONTRACTS:
        verify(kind, name, plugin)
    return plugin


def verify(kind: str, name: str, plugin: Any) -> None:
    """Hold a class against its contract: its base, its hooks' names and parameters.

    Raises:
        PluginError: shows both sides.
    """
    module, contract_name = _CONTRACTS[kind]
    contract: type = vars(import_module(module))[contract_name]
    if not (isinstance(plugin, type) and issubclass(plugin, contract)):
        raise PluginError(f"{kind} '{name}' is {plugin!r}; expected a subclass of cl_framework.{contract_name}")
    if inspect.isabstract(plugin):
        left_out = [hook for hook, value in inspect.getmembers(plugin, inspect.isfunction)
                    if "__isabstractmethod__" in vars(value)]
        raise PluginError(f"{kind} '{name}' leaves out {', '.join(left_out)}")
    hooks = {hook: value for hook, value in vars(contract).items() if inspect.isfunction(value)}
    for cls in plugin.__mro__[:plugin.__mro__.index(contract)]:
        for method, value in vars(cls).items():
            if not inspect.isfunction(value) or method.startswith("__"):
                continue
            if method in hooks:
                ours = list(inspect.signature(hooks[method]).parameters)
                theirs = list(inspect.signature(value).parameters)
                if ours != theirs:
                    raise PluginError(f"{kind} '{name}': {method}({', '.join(theirs)}) does not match the contract "
                                      f"{method}({', '.join(ours)})")
            elif near := difflib.get_close_matches(method, hooks, n=1, cutoff=0.86):
                raise PluginError(f"{kind} '{name}' defines {method}, which nothing calls; did you mean {near[0]}? "
                                  "Start the name with an underscore if it is your own")


def see_current_folder() -> None:
    """Let `package.module:Class` find files in the folder the user stands in."""
    if "" not in sys.path:
        sys.path.append("")  # last, so that a file of mine called ray.py is not taken for the library
