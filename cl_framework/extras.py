"""Packages that only some models need: imported when one is built, and named with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import cl_framework._torchvision  # noqa: F401  (before timm and transformers, which import torchvision)
from cl_framework.errors import ConfigError


def load_extra(package: str, *, model: str, extra: str) -> Any:
    """A package that is not among the framework's own requirements.

    Args:
        package: its name.
        model: who needs it, as `model=` names it.
        extra: the optional extra of cl-framework that brings it.

    Raises:
        ConfigError: it is not installed, or fails when it is imported.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f"model={model} needs the package {package} ({error}); install it: "
                          f"pip install 'cl-framework[{extra}]'") from error
