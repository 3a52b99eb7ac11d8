"""What a model has learned before its stream begins: trained once by the ordinary trainer, cached, shared by runs.

The weights lie in `CLF_DATA/pretrained/<hash>.safetensors`, where the hash stands for the network, the recipe
(`train.*`), the seed and the digest of the data: runs that differ in their strategy alone share one training. A file
holds the digest of its weights; a damaged one is trained anew.

An unlabelled stream is answered from the beginning, by the classes that were learned before: its model gets body and
head. A labelled stream brings classes of its own: its model gets the body, and its head begins anew.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cl_framework.adaptation import largest_weight, weight_limit
from cl_framework.errors import ClfError, ConfigError, Diverged
from cl_framework.files import write_atomic
from cl_framework.hardware import Hardware
from cl_framework.later_fields import counted
from cl_framework.learner import finite_weights
from cl_framework.models import Architecture, Model
from cl_framework.observer import Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, Pretraining, ResidentStream, Stream
from cl_framework.sources import cache_folder
from cl_framework.strategy import Strategy
from cl_framework.types import Setting, StreamInfo
from cl_framework.weight_files import SOURCE_WEIGHTS, digest_of, fits, put_weights, read_weights

log = logging.getLogger(__name__)

_EXTRA = "_extra_state"


def give_weights(model: Model, stream: Stream, architecture: Architecture, recipe: Recipe, *, seed: int,
                 hardware: Hardware | None = None, observer: Observer | None = None) -> None:
    """Load what the stream's model must have learned before; train it first where nobody has. Nothing to do where a
    stream begins with fresh weights.

    Args:
        model: freshly built; it gets the weights, and that of an unlabelled stream has met all classes afterwards.
        recipe: how it is trained.
        seed: of the run; the stream may fix another one.
        observer: is told of the training.

    Raises:
        ConfigError: a file of weights is missing, of another network, or has changed; the stream counts on a model that
            brings its weights and this one does not, or the reverse.
        Diverged: the training did; nothing is kept.
        ClfError: the weights cannot be written.
    """
    needed, is_answered = stream.pretraining, not stream.info.is_labelled
    if needed is None:
        return
    _check_source(needed, architecture, is_answered)
    if is_answered:
        model.observe(range(stream.info.n_classes))
    if needed.is_brought:
        return
    own, info = seed if needed.seed is None else needed.seed, _info_before(stream.info, needed)
    learned = model if is_answered else _built(architecture, info, own)
    if needed.path is not None:
        _load(learned, Path(needed.path).expanduser(), stream)
    else:
        path = _place(architecture, recipe, info, needed, own)
        with _alone(path):
            weights = _kept(path, learned)
            if weights is None:
                weights = _train(path, architecture, recipe, info, needed, own, hardware, observer)
            put_weights(learned, weights, str(path))
    if not is_answered:
        model.body.load_state_dict(learned.body.state_dict())


def _check_source(needed: Pretraining, architecture: Architecture, is_answered: bool) -> None:
    if needed.is_brought and not architecture.brings_weights:
        raise ConfigError("scenario.source=model counts on a model that is trained already, and this one starts with "
                          "random weights; use scenario.source=train, or model=robustbench")
    if needed.path is None and architecture.brings_weights and not needed.is_brought:
        raise ConfigError("the model is trained already; "
                          f"{'use scenario.source=model' if is_answered else 'leave scenario.pretrain_classes out'}")


def _info_before(info: StreamInfo, needed: Pretraining) -> StreamInfo:
    """What is learned before, as a stream of one experience."""
    n_classes = info.n_classes if not info.is_labelled else int(needed.data.y.max()) + 1
    return replace(info, n_experiences=1, n_classes=n_classes, setting=Setting.CLASS, is_labelled=True,
                   is_online=False, n_rounds=1)


def _built(architecture: Architecture, info: StreamInfo, seed: int) -> Model:
    """A freshly initialised model that has met all classes."""
    model = build_model(architecture, info, seed)
    model.observe(range(info.n_classes))
    return model


def _load(model: Model, path: Path, stream: Stream) -> None:
    """Load the weights of a file that is still the one that the stream was opened with."""
    weights = read_weights(path)
    if stream.provenance.get(SOURCE_WEIGHTS) not in (None, digest_of(path)):
        raise ConfigError(f"{path} has changed since the stream was opened; put the file back, or give the same "
                          "command again")
    put_weights(model, weights, str(path))


def _train(path: Path, architecture: Architecture, recipe: Recipe, info: StreamInfo, needed: Pretraining, seed: int,
           hardware: Hardware | None, observer: Observer | None) -> dict[str, Tensor]:
    """The weights after training, which are kept.

    Raises:
        Diverged: there are none to keep.
    """
    classes = tuple(range(info.n_classes))
    held_out = needed.data.subset(torch.arange(min(len(needed.data), 1000)))  # a glance; the stream's tests tell
    part = Part(train=needed.data, test=held_out, classes=classes, class_names=tuple(map(str, classes)))
    model = build_model(architecture, info, seed)
    limit = weight_limit(model)
    try:
        run_stream(Strategy(), ResidentStream(info, [part]), model, recipe=recipe, seed=seed, hardware=hardware,
                   observer=observer)
    except Diverged as error:
        raise _diverged(str(error).partition(";")[0]) from None
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name != _EXTRA}
    if not finite_weights(tensors):
        raise _diverged("its weights are not finite")
    if bool(largest_weight(model).cpu() > limit):
        raise _diverged("its weights exploded")
    write_atomic(path, save(tensors, {"data": needed.name, "digest": needed.digest, "seed": str(seed),
                                      "sha256": _digest(tensors)}))
    return tensors


def _diverged(why: str) -> Diverged:
    return Diverged(f"the training before the stream diverged ({why}), and none of it is kept. Try a lower train.lr, "
                    "or train.clip=1.0")


def _place(architecture: Architecture, recipe: Recipe, info: StreamInfo, needed: Pretraining, seed: int) -> Path:
    trained = {name: value for name, value in counted(dataclasses.asdict(recipe)).items() if name != "checkpoint_every"}
    text = json.dumps([type(architecture).__module__, type(architecture).__qualname__,
                       dataclasses.asdict(architecture), trained, seed, needed.digest, info.n_classes,
                       info.input_shape, info.mean, info.std, info.augment], sort_keys=True)
    return cache_folder() / "pretrained" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def _kept(path: Path, model: Model) -> dict[str, Tensor] | None:
    """The weights of a file of the cache; None where it is absent, or damaged, which is worth a warning."""
    if not path.exists():
        return None
    try:
        weights = read_weights(path)
        with safe_open(path, "pt") as file:
            recorded = (file.metadata() or {}).get("sha256")
    except (ConfigError, OSError, SafetensorError) as error:
        log.warning("%s is trained anew: %s", path, error)
        return None
    if recorded not in (None, _digest(weights)) or not finite_weights(weights) or not fits(model, weights):
        log.warning("%s is damaged and is trained anew", path)
        return None
    return weights


def _digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode() + b"\0")
        whole.update(weights[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process trains, the others wait for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("a")
    except OSError as error:
        raise ClfError(f"cannot write {path.parent} ({error.strerror}); set CLF_DATA to another folder") from error
    with lock as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
