"""What can be merged: the tensors of a base and of experts, sorted by what becomes of each, or refused.

- Floating-point tensors are merged by a rule. Their names and shapes say what they are: a `weight` of two dimensions is
  that of a linear layer, [out, in], but for embeddings; one of more dimensions is a kernel.
- Running statistics of normalisation are averaged over experts.
- Integers and booleans (counters, positions, masks) are the base's, and so is what the caller keeps. So are
  tensors without entries, and complex numbers where experts have the same.
- Tensors that are equal in the base and in every expert are one tensor under several names (tied embeddings): it is
  merged once, counts once in a norm, and stays tied.

Experts must have the base's names, shapes and types; they may lie on another device. All faults are told at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.merging import Layer

Weights = Mapping[str, Tensor]
"""The tensors of one model by name. May read lazily: no two are asked for at once."""

EMBEDDINGS = r"(?<![A-Za-z])emb|\bwte\b|\bwpe\b|\bshared\b|relative_attention_bias"
"""Finds the names of weights of two dimensions that are looked up by row, and are no linear layers."""

_STATISTICS = ("running_mean", "running_var")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 3
_HOLLOW, _FILL = "no plain numbers in", "load the weights onto a device, as dense tensors"


@dataclass(frozen=True, kw_only=True)
class Sorting:
    """What becomes of each tensor of a base.

    Attributes:
        layers: merged by a rule.
        statistics: names of those that are averaged over experts.
        tied: name of a tensor to the name of the layer that it is, too.
    """

    layers: tuple[Layer, ...]
    statistics: tuple[str, ...]
    tied: Mapping[str, str]


def sort_tensors(base: Weights, experts: Mapping[str, Weights], *, keep: str = "",
                 embeddings: str = EMBEDDINGS) -> Sorting:
    """Read every tensor once, refuse what cannot be merged, and sort the rest.

    Args:
        base: theta_0.
        experts: by what they are called in messages.
        keep: a regular expression; tensors whose name it is found in are the base's, whatever the experts hold.
        embeddings: a regular expression that finds weights of two dimensions that are no linear layers.

    Raises:
        ConfigError: every fault of base and experts at once.
    """
    patterns, faults = [re.compile("(?!)")] * 2, list[str]()
    for place, (key, text) in enumerate((("keep", keep), ("embeddings", embeddings))):
        try:
            patterns[place] = re.compile(text) if text else patterns[place]
        except re.error as error:
            faults.append(f"{key} must be a regular expression, got '{text}': {error}")
    names = [name for name in base if not patterns[0].search(name)]
    found = _Reading(base, names)
    for label, expert in experts.items():
        found.compare(label, expert, [name for name in expert if not patterns[0].search(name)])
    faults += found.faults
    floats = [name for name, form in found.forms.items() if form.is_float]
    merged = [name for name in floats if not name.endswith(_STATISTICS) and 0 not in found.forms[name].shape]
    if not faults and not merged:
        faults.append("the base holds no floating-point tensor to merge; is keep too wide?")
    if faults:
        raise ConfigError(faults)
    tied = found.tied(merged)
    others = {other for name, other in tied.items() if patterns[1].search(name)}
    inner = _inner_modules(base)
    layers = [Layer(name=name, is_leaf=name.rpartition(".")[0] not in inner, kind="other" if name in others else
                    _kind(name, len(found.forms[name].shape), patterns[1])) for name in merged if name not in tied]
    return Sorting(layers=tuple(layers), tied=tied,
                   statistics=tuple(name for name in floats if name.endswith(_STATISTICS)))


class _Form(NamedTuple):
    """What a tensor is made of."""

    shape: tuple[int, ...]
    is_float: bool


class _Reading:
    """What is learned while base and experts are read, one tensor of each at a time."""

    def __init__(self, base: Weights, names: Sequence[str]) -> None:
        self._base, self._names = base, names
        self._digests: dict[str, bytes] = {}
        self.forms: dict[str, _Form] = {}
        self.faults: list[str] = []
        broken, quantised, hollow = list[str](), list[str](), list[str]()
        for name in names:
            value = base[name]
            self.forms[name] = _Form(tuple(value.shape), value.dtype in _FLOATS)
            if _is_hollow(value):
                hollow.append(name)
            elif _is_quantised(value):
                quantised.append(name)
            elif not bool(value.isfinite().all()):
                broken.append(name)
            self._digests[name] = _digest(value)
        self._add("the base", _HOLLOW, hollow, _FILL)
        self._add("the base", "quantised weights in", quantised, "merge the weights before they are quantised")
        self._add("the base", "values that are not finite in", broken, "give the weights that training began with")

    def compare(self, label: str, expert: Weights, names: Sequence[str]) -> None:
        """Note the faults of one expert."""
        missing = [name for name in self._names if name not in expert]
        extra = [name for name in names if name not in self._base]
        shapes, types, integers, complexes, broken, negative, hollow = (list[str]() for _ in range(7))
        has_learned = not any(form.is_float for form in self.forms.values())
        for name in self._names:
            if name not in expert:
                continue
            value, ours = expert[name], self._base[name]
            if value.shape != ours.shape:
                shapes.append(f"{name} {tuple(value.shape)} for {tuple(ours.shape)}")
                continue
            if value.dtype != ours.dtype:
                types.append(f"{name} {_short(value)} for {_short(ours)}")
                continue
            if _is_hollow(value):
                hollow.append(name)
            if _is_hollow(value) or _is_hollow(ours) or _is_quantised(value):
                continue
            is_same = torch.equal(value, ours.to(value.device))
            if not self.forms[name].is_float:
                if not is_same and value.is_complex():
                    complexes.append(name)
                elif not is_same and value.dim():
                    integers.append(name)
                continue
            if not bool(value.isfinite().all()):
                broken.append(name)
            if name.endswith("running_var") and bool((value < 0).any()):
                negative.append(name)
            has_learned = has_learned or not (is_same or name.endswith(_STATISTICS))
            self._digests[name] += _digest(value)
        keep = "give the experts of this base, or a regular expression of what is not merged as keep"
        self._add(label, "no", missing, keep)
        self._add(label, "tensors that the base lacks:", extra, keep)
        self._add(label, "shapes of another architecture:", shapes, keep)
        self._add(label, "other types than the base:", types, "convert one of them before merging")
        self._add(label, "integers other than the base's in", integers,
                  "they cannot be merged; quantised weights are merged before they are quantised")
        self._add(label, "complex numbers other than the base's in", complexes,
                  "they cannot be merged; take the base's with keep=REGEX")
        self._add(label, _HOLLOW, hollow, _FILL)
        self._add(label, "values that are not finite in", broken, "an expert that diverged cannot be merged")
        self._add(label, "negative variances in", negative, "save the expert anew, or take the base's with keep=REGEX")
        if not (has_learned or missing or shapes or types or integers or complexes or hollow):
            self.faults.append(f"{label} is the base itself: it has learned nothing; leave it out")

    def _add(self, label: str, what: str, names: Sequence[str], advice: str) -> None:
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            self.faults.append(f"{label} has {what} {', '.join(names[:_SHOWN])}{rest}; {advice}")

    def tied(self, names: Iterable[str]) -> dict[str, str]:
        """Matrices that are equal everywhere: the later name to the first."""
        first: dict[bytes, str] = {}
        tied = {}
        for name in names:
            if len(self.forms[name].shape) >= 2:
                original = first.setdefault(repr(self.forms[name].shape).encode() + self._digests[name], name)
                if original != name:
                    tied[name] = original
        return tied


def _is_hollow(value: Tensor) -> bool:
    """Without numbers (on the device "meta"), or not laid out as an array."""
    return value.is_meta or value.layout != torch.strided


def _is_quantised(value: Tensor) -> bool:
    """Numbers of less than 16 bits with a point, or of torch's own quantised types."""
    return value.is_quantized or (value.is_floating_point() and value.dtype not in _FLOATS)


def _digest(value: Tensor) -> bytes:
    """Of the contents of a matrix or more; nothing of smaller tensors, which are not compared."""
    if value.dim() < 2 or _is_hollow(value) or _is_quantised(value):
        return b""
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data, digest_size=16).digest()


def _kind(name: str, n_dimensions: int, embeddings: re.Pattern[str]) -> Literal["linear", "conv", "other"]:
    if name.rpartition(".")[2] != "weight" or n_dimensions < 2:
        return "other"
    if n_dimensions > 2:
        return "conv"
    return "other" if embeddings.search(name) else "linear"


def _inner_modules(names: Iterable[str]) -> frozenset[str]:
    """The modules that have others below them."""
    inner = set[str]()
    for name in names:
        owner = name.rpartition(".")[0]
        while owner:
            owner = owner.rpartition(".")[0]
            inner.add(owner)
    return frozenset(inner)


def _short(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
