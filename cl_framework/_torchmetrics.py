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
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

import cl_framework._torchvision  # noqa: F401  (all of torchmetrics imports torchvision)

_NAME = "torchmetrics"
_LOCK = RLock()
_under_way = False
"""Whether a thread, which has the lock, imports the whole package."""


class _Package(ModuleType):
    """torchmetrics, as yet without most of it."""

    def __getattr__(self, name: str) -> Any:
        if (name.startswith("__") and name != "__all__") or not _import_whole(self):
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}", name=name, obj=self)
        return getattr(self, name)

    def __dir__(self) -> Iterable[str]:
        _import_whole(self)
        return super().__dir__()

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (_NAME,)


class _Finder(MetaPathFinder):
    """Finds the modules of the package, and has them loaded after the whole package."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_NAME}.") or not isinstance(sys.modules.get(_NAME), _Package) or _under_way:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterAll(spec.loader)
        return spec


class _AfterAll(Loader):
    """Loads a module once the whole package is imported, which most often brings it along."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._own: ModuleSpec | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        _import_whole(sys.modules[_NAME])
        spec.loader = self._loader
        module = sys.modules.get(spec.name)
        if module is None:
            return self._loader.create_module(spec)
        self._own = module.__spec__
        spec.loader = self
        return module

    def exec_module(self, module: ModuleType) -> None:
        if self._own is None:
            self._loader.exec_module(module)
        else:
            module.__spec__ = self._own


def _import_whole(module: ModuleType) -> bool:
    """Make an ordinary module of it; False: this thread is doing so. If it fails, it can be tried again."""
    global _under_way
    with _LOCK:
        if not isinstance(module, _Package):
            return True
        if _under_way:
            return False
        assert module.__spec__ is not None and module.__spec__.loader is not None
        _under_way = True
        try:
            module.__spec__.loader.exec_module(module)
            _as(ModuleType, module)
        finally:
            _under_way = False
    return True


def _as(kind: type[ModuleType], module: ModuleType) -> None:
    module.__class__ = kind


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
    _as(_Package, module)
    sys.meta_path.insert(0, _Finder())


if _NAME not in sys.modules:
    _begin()
