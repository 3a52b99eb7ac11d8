"""What a model has learned before its stream begins: trained once by the ordinary trainer, cached, shared by runs.

The weights lie in `CLF_DATA/pretrained/<hash>.safetensors`, where the hash stands for the network, the recipe
(`train.*`), the seed and the digest of the data: runs that differ in their strategy alone share one training.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cl_framework.errors import ClfError, ConfigError
from cl_framework.files import write_atomic
from cl_framework.hardware import Hardware
from cl_framework.models import Architecture, Model
from cl_framework.observer import Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, Pretraining, ResidentStream, Stream
from cl_framework.sources import cache_folder
from cl_framework.strategy import Strategy
from cl_framework.types import Setting, StreamInfo

_EXTRA = "_extra_state"


def give_weights(model: Model, stream: Stream, architecture: Architecture, recipe: Recipe, *, seed: int,
                 hardware: Hardware | None = None, observer: Observer | None = None) -> None:
    """Load what the stream's model must have learned before; train it first where nobody has. Nothing to do where a
    stream begins with fresh weights.

    Args:
        model: freshly built; it gets the weights, and has met all classes afterwards.
        recipe: how it is trained.
        seed: of the run; the stream may fix another one.
        observer: is told of the training.

    Raises:
        ConfigError: a file of weights is missing or of another network; the stream counts on a model that brings its
            weights and this one does not, or the reverse.
        ClfError: the training stopped, or the weights cannot be written.
    """
    needed = stream.pretraining
    if needed is None:
        return
    if needed.is_brought and not architecture.brings_weights:
        raise ConfigError("scenario.source=model counts on a model that is trained already, and this one starts with "
                          "random weights; use scenario.source=train, or model=robustbench")
    if needed.path is None and architecture.brings_weights and not needed.is_brought:
        raise ConfigError("the model is trained already; use scenario.source=model")
    model.observe(range(stream.info.n_classes))
    if needed.is_brought:
        return
    if needed.path is not None:
        _put(model, _read(Path(needed.path).expanduser()), needed.path)
        return
    own = seed if needed.seed is None else needed.seed
    path = _place(architecture, recipe, stream.info, needed, own)
    with _alone(path):
        if not path.exists():
            _train(path, architecture, recipe, stream.info, needed, own, hardware, observer)
        _put(model, _read(path), str(path))


def _train(path: Path, architecture: Architecture, recipe: Recipe, info: StreamInfo, needed: Pretraining, seed: int,
           hardware: Hardware | None, observer: Observer | None) -> None:
    classes = tuple(range(info.n_classes))
    alone = replace(info, n_experiences=1, setting=Setting.CLASS, is_labelled=True, is_online=False, n_rounds=1)
    held_out = needed.data.subset(torch.arange(min(len(needed.data), 1000)))  # a glance; the stream's tests tell
    part = Part(train=needed.data, test=held_out, classes=classes, class_names=tuple(map(str, classes)))
    model = build_model(architecture, alone, seed)
    run_stream(Strategy(), ResidentStream(alone, [part]), model, recipe=recipe, seed=seed, hardware=hardware,
               observer=observer)
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name != _EXTRA}
    write_atomic(path, save(tensors, {"data": needed.name, "digest": needed.digest, "seed": str(seed)}))


def _place(architecture: Architecture, recipe: Recipe, info: StreamInfo, needed: Pretraining, seed: int) -> Path:
    trained = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "checkpoint_every"}
    text = json.dumps([type(architecture).__module__, type(architecture).__qualname__,
                       dataclasses.asdict(architecture), trained, seed, needed.digest, info.n_classes,
                       info.input_shape, info.mean, info.std, info.augment], sort_keys=True)
    return cache_folder() / "pretrained" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def _read(path: Path) -> dict[str, Tensor]:
    """Weights by name, of a .safetensors file or of what torch wrote (loaded without running code in it)."""
    try:
        if path.suffix == ".safetensors":
            return load(path.read_bytes())
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"there are no weights at {path}; give a file, or scenario.source=train") from None
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise ConfigError(f"{path} holds no weights that can be read ({str(error).splitlines()[0]}); remove it, or "
                          "give another file") from None
    except Exception as error:
        raise ConfigError(f"{path} holds more than weights and is not loaded ({type(error).__name__}); save the "
                          "state_dict of the network alone") from None
    found = _weights_in(content)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _weights_in(content: Any) -> Mapping[str, Any]:
    """The weights themselves, or what a checkpoint calls so."""
    if not isinstance(content, Mapping):
        return {}
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            return dict(content[key])
    return content


def _put(model: Model, weights: Mapping[str, Tensor], path: str) -> None:
    own = {name: value for name, value in model.state_dict().items() if name != _EXTRA}
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    wrong = [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in sorted(own)
             if name in weights and weights[name].shape != own[name].shape]
    faults = [f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for what, names in
              (("no", missing), ("unknown", extra), ("shapes", wrong)) if names]
    if faults:
        raise ConfigError(f"{path} has weights of another network: {'; '.join(faults)}; choose the model.* that it was "
                          "trained with")
    model.load_state_dict({**weights, _EXTRA: model.get_extra_state()})


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process trains, the others wait for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise ClfError(f"cannot write {path.parent} ({error.strerror}); set CLF_DATA to another folder") from error
    with lock as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
