"""Files with the weights of a network, as safetensors or as torch writes them: recognised, read, and put into a model.

Files of torch are loaded with `weights_only=True`, which runs no code in them. What a network could not compute with is
refused by name: values that are not finite, variances below 0, tensors of another kind, shape or layout.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.models import Model

SOURCE_WEIGHTS = "source weights"
"""What the provenance of a stream calls the file of weights that its model begins with."""

_EXTRA = "_extra_state"
_WRAPPER = "module."
"""What `torch.nn.DataParallel` puts before every name."""


def digest_of(path: Path) -> str:
    """SHA-256 of a file of weights, whose beginning or end, where torch and safetensors have their lists, is checked.

    Raises:
        ConfigError: there is no such file, or it is empty, cut short, or a folder.
    """
    content = _content(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif content.startswith(b"PK") and not zipfile.is_zipfile(path):
            raise ValueError("it is cut short")
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by name, without the prefix of a `DataParallel` that the network was wrapped in.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    content = _content(path)
    try:
        found: Any = load(content) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        raise ConfigError(f"{path} holds more than weights and is not loaded ({type(error).__name__}); save the "
                          "state_dict of the network alone") from None
    weights = {name: value for name, value in _weights_in(found).items() if isinstance(value, Tensor)}
    if not weights:
        raise ConfigError(f"{path} holds no weights by name; save the state_dict of the network")
    for name, value in weights.items():
        fault = _fault_of(name, value)
        if fault:
            raise ConfigError(f"{path} holds weights that cannot be used: {fault}; save the state_dict of the network, "
                              "with dense tensors by name")
    if all(name.startswith(_WRAPPER) for name in weights):
        return {name.removeprefix(_WRAPPER): value for name, value in weights.items()}
    return weights


def put_weights(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    """Load weights into a model whose own they match.

    Args:
        model: its metadata stays as it is.
        weights: by name.
        path: where they come from.

    Raises:
        ConfigError: they are those of another network, or it cannot compute with them.
    """
    own = _own(model)
    faults = _misfits(own, weights)
    if faults:
        raise ConfigError(f"{path} has weights of another network: {faults}; choose the model.* that it was trained "
                          "with")
    fitted = {name: weights[name].to(own[name].dtype) for name in sorted(own)}
    broken = [name for name, value in fitted.items() if not bool(value.isfinite().all())]
    negative = [name for name, value in fitted.items() if name.endswith("running_var") and bool((value < 0).any())]
    faults = _listed([("values that are not finite in", broken), ("negative variances in", negative)])
    if faults:
        raise ConfigError(f"{path} has {faults}; a network that diverged cannot be adapted, give another file")
    model.load_state_dict({**fitted, _EXTRA: model.get_extra_state()})


def fits(model: Model, weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are those of the model's network, by name, shape and type."""
    return not _misfits(_own(model), weights)


def _own(model: Model) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if name != _EXTRA}


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    both = [name for name in sorted(own) if name in weights]
    shapes = [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in both
              if weights[name].shape != own[name].shape]
    kinds = [f"{name} {weights[name].dtype} for {own[name].dtype}" for name in both
             if _kind(weights[name]) != _kind(own[name])]
    return _listed([("no", sorted(set(own) - set(weights))), ("unknown", sorted(set(weights) - set(own))),
                    ("shapes", shapes), ("types", kinds)])


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError("it is a pipe or a device, and no file")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there are no weights at {path}; put the file back, or give another file or "
                          "scenario.source=train") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give a file with the weights of the network") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not content:
        raise ConfigError(f"{path} is empty; give a file with the weights of the network")
    return content


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ConfigError(f"{path} holds no weights that can be read ({reason}); remove it, or give another file")


def _weights_in(content: Any) -> Mapping[Any, Any]:
    """The weights themselves, or what a checkpoint calls so."""
    if not isinstance(content, Mapping):
        return {}
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            return dict(content[key])
    return content


def _fault_of(name: object, value: Tensor) -> str:
    """Why a tensor is no weight that can be copied; empty where it is one."""
    if not isinstance(name, str):
        return f"the name {name!r} is no text"
    if value.is_meta:
        return f"{name} is on the meta device and has no values"
    if value.is_quantized:
        return f"{name} is quantised"
    return "" if value.layout is torch.strided else f"{name} is sparse"


def _kind(value: Tensor) -> str:
    """What may be converted into each other: real numbers of any precision, or integers of any size."""
    if value.is_complex() or value.dtype == torch.bool:
        return str(value.dtype)
    return "real" if value.is_floating_point() else "integer"


def _listed(faults: Iterable[tuple[str, list[str]]]) -> str:
    return "; ".join(f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
                     for what, names in faults if names)
