"""Lets Lightning, and the matrix of accuracies, import without all of torchmetrics.

They need `Metric` and `MetricCollection`. Importing the package imports the metrics of every field, and with them
torchvision, transformers and scipy where these are installed: two fifths of the time in which a command starts. Here
the package is there with these two classes, and is imported whole as soon as anything else of it is asked for. Where
its parts no longer import by themselves, or it is imported already, nothing is done. Import this module before any of
them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

import cl_framework._torchvision  # noqa: F401  (all of torchmetrics imports torchvision)

_NAME = "torchmetrics"
_LOCK = RLock()


class _Package(ModuleType):
    """torchmetrics, as yet without most of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _import_whole(self)
        return getattr(self, name)


class _Finder(MetaPathFinder, Loader):
    """Finds a module of the package by importing the whole package first."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(_NAME)
        if not name.startswith(f"{_NAME}.") or not isinstance(package, _Package):
            return None
        _import_whole(package)
        found = sys.modules.get(name)
        if found is not None:  # importlib takes the spec of a module that is there by now, and would load it again
            found.__spec__ = ModuleSpec(name, self, loader_state=found.__spec__)
        return None if found is None else found.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _import_whole(module: ModuleType) -> None:
    """Make an ordinary module of it; if that fails, it can be tried again."""
    with _LOCK:
        if module.__class__ is ModuleType:
            return
        assert module.__spec__ is not None and module.__spec__.loader is not None
        module.__class__ = ModuleType
        try:
            module.__spec__.loader.exec_module(module)
        except BaseException:
            module.__class__ = _Package
            raise


def _begin() -> None:
    spec = find_spec(_NAME)
    if spec is None or spec.loader is None:
        return
    module = ModuleType(_NAME)
    module.__spec__, module.__loader__, module.__file__, module.__package__ = spec, spec.loader, spec.origin, _NAME
    module.__path__ = list(spec.submodule_search_locations or ())
    vars(module).update(__version__=version(_NAME), _logger=logging.getLogger(_NAME))
    sys.modules[_NAME] = module
    try:
        import_module(f"{_NAME}.utilities")  # first: it and `metric` import each other
        for place, name in (("metric", "Metric"), ("collections", "MetricCollection")):
            vars(module)[name] = getattr(import_module(f"{_NAME}.{place}"), name)
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
            del sys.modules[name]
        return
    module.__class__ = _Package
    sys.meta_path.insert(0, _Finder())


if _NAME not in sys.modules:
    _begin()
