"""Plugins by name. Entry points are the only door; a plugin is checked when it is loaded."""

from __future__ import annotations

import difflib
import inspect
import re
import reprlib
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from types import FunctionType
from typing import Any

from cl_framework.errors import ConfigError, PluginError
from cl_framework.offers import contest, imported, offers

GROUPS = {"strategy": "cl_framework.strategies", "scenario": "cl_framework.scenarios", "model": "cl_framework.models",
          "metric": "cl_framework.metrics", "dataset": "cl_framework.datasets"}
"""What may be plugged in, and the entry-point group that carries it."""

_CONTRACTS = {"strategy": ("cl_framework.strategy", "Strategy"), "scenario": ("cl_framework.scenario", "Scenario"),
              "model": ("cl_framework.models", "Architecture")}
"""Kinds whose plugins are classes, and what these derive from."""

_SECRET = re.compile(r"(.*_)?(api_?key|access_key|secret(_key)?|passw(or)?d|(access|api|auth)_token|credentials?)")
"""Names of fields that would hold what nobody else may see."""

_OBJECTS = {"metric": ("cl_framework.metrics", "Metric", "a function decorated with @cl_framework.metric(...)"),
            "dataset": ("cl_framework.sources", "Source", "a cl_framework.Source(...)")}
"""Kinds whose plugins are objects, what these are, and how one is made."""


@cache
def plugins(kind: str) -> dict[str, EntryPoint]:
    """The plugins of a kind by name, without importing any; not those that several packages offer."""
    return {name: points[0] for name, points in offers(GROUPS[kind]).items() if len(points) == 1}


@cache
def contested(kind: str) -> dict[str, str]:
    """The names of a kind that several packages offer, each with the sentence that names these packages."""
    return {name: contest(kind, points) for name, points in offers(GROUPS[kind]).items() if len(points) > 1}


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
        PluginError: several packages offer it.
    """
    if ":" in name:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
            raise ConfigError(f"{kind} '{name}' is no path; write package.module:Class")
        return EntryPoint(name=name, value=name, group=GROUPS[kind])
    known = plugins(kind)
    if name in contested(kind):
        raise PluginError(contested(kind)[name])
    if name not in known:
        raise ConfigError(unknown(kind, name, known))
    return known[name]


def load(kind: str, name: str) -> Any:
    """The plugin itself: a class, or an object for metrics and data sets.

    Raises:
        ConfigError: there is no such name, module or class.
        PluginError: it breaks its contract.
    """
    plugin = imported(kind, find(kind, name))
    if kind in _OBJECTS:
        module, made, how = _OBJECTS[kind]
        if not isinstance(plugin, vars(import_module(module))[made]):
            raise PluginError(f"{kind} '{name}' is {reprlib.repr(plugin)}; expected {how}")
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
        raise PluginError(f"{kind} '{name}' is {reprlib.repr(plugin)}; expected a subclass of "
                          f"cl_framework.{contract_name}")
    if inspect.isabstract(plugin):
        left_out = [hook for hook, value in inspect.getmembers(plugin, inspect.isfunction)
                    if "__isabstractmethod__" in vars(value)]
        raise PluginError(f"{kind} '{name}' leaves out {', '.join(left_out)}")
    hidden = [name for name in vars(plugin).get("__dataclass_fields__", {}) if _SECRET.fullmatch(name.lower())]
    if hidden:
        raise PluginError(f"{kind} '{name}' has the field {hidden[0]}, and every field is written into config.yaml, "
                          "command.txt and W&B; read it from an environment variable, and let a field name the "
                          "variable")
    hooks = {hook: value for hook, value in vars(contract).items()
             if inspect.isfunction(value) and not hook.startswith("_")}
    for cls in plugin.__mro__[:plugin.__mro__.index(contract)]:
        for method, value in {**dict.fromkeys(vars(cls).get("__annotations__", {})), **vars(cls)}.items():
            if method in hooks:
                _match(f"{kind} '{name}'", method, hooks[method], value)
            elif method.startswith("_") or not isinstance(value, FunctionType | staticmethod | classmethod | property):
                continue
            elif near := difflib.get_close_matches(method, hooks, n=1, cutoff=0.8):
                raise PluginError(f"{kind} '{name}' defines {method}, which nothing calls; did you mean {near[0]}? "
                                  "Start the name with an underscore if it is your own")


def _match(label: str, hook: str, contract: FunctionType, value: Any) -> None:
    """Hold one hook of a class against the contract's."""
    ours = list(inspect.signature(contract).parameters)
    if not inspect.isfunction(value):
        raise PluginError(f"{label}: {hook} is a hook, and here it is {reprlib.repr(value)}; make it a method "
                          f"{hook}({', '.join(ours)}), or choose another name")
    theirs = list(inspect.signature(value).parameters)
    if ours != theirs:
        raise PluginError(f"{label}: {hook}({', '.join(theirs)}) does not match the contract {hook}({', '.join(ours)})")


def see_current_folder() -> None:
    """Let `package.module:Class` find files in the folder the user stands in."""
    if "" not in sys.path:
        sys.path.append("")  # last, so that a file of mine called ray.py is not taken for the library
