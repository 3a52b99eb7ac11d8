"""Lets torchvision import beside a CPU build of torch.

PyPI's torchvision is linked to CUDA. Beside a CPU build of torch its compiled operators do not load, and importing
it fails with `operator torchvision::nms does not exist`, and with it what imports it: torchmetrics, timm, avalanche.
Declaring the two missing schemas is enough. That is done when torchvision is imported and fails so, and not before:
a run needs none of it. Import this module before any of those packages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARIES: list[object] = []


class _Mending(Loader):
    """Loads torchvision; a second time, with the operators declared, where it fails for want of them."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare()
            self._loader.exec_module(module)


class _Finder(MetaPathFinder):
    """Hands torchvision to the loader above."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Mending(spec.loader)
        return spec


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


sys.meta_path.insert(0, _Finder())
