"""Merging: the experts of one base become one model, a layer at a time, without data.

An expert is the base after learning something of its own. Its update is Delta_i = theta_i - theta_0, and a rule makes
one update M of several,

    M_l = rule(Delta_1,l, ..., Delta_t,l)  for every layer l,        theta = theta_0 + c M,

c being one number for the whole model. Updates of this kind are the task vectors of Ilharco et al., "Editing Models
with Task Arithmetic", ICLR 2023, arXiv 2212.04089, section 2.

A rule sees one layer at a time: of all updates, or of two, the new one and the merged one that stands for all before
it. What it must know of the whole model is surveyed first, and comes back as a few numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cl_framework.errors import DataError, Diverged

Update = Mapping[str, Tensor]
"""What an expert learned, expert minus base, by name; float32, or float64 where the base is. May read lazily."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One tensor that is merged, as far as a rule may know it.

    Attributes:
        name: its name in the state dict.
        kind: "linear" is the weight [out, in] of a linear layer, "conv" a kernel [out, in, ...], "other" all else:
            biases, normalisation, embeddings, tokens.
        is_leaf: its module has no modules below it.
    """

    name: str
    kind: Literal["linear", "conv", "other"] = "other"
    is_leaf: bool = True


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What is known of the whole model before a merge.

    Attributes:
        n_experts: experts that have been merged; the merged update stands for them.
        mean_norm: the mean of their ||Delta_i||, over all merged tensors.
        norm: ||M||, without the factor c.
        seed: for rules that draw.
        numbers: what the rule's `survey` said of the updates to be merged now.
    """

    n_experts: int = 0
    mean_norm: float = 0.0
    norm: float = 0.0
    seed: int = 0
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Merged(NamedTuple):
    """A layer's merged update, without the factor c, and figures about it (their mean over layers is reported)."""

    update: Tensor
    notes: Mapping[str, float] = {}


class Merging(ABC):
    """A rule that merges updates. Its hyperparameters are fields; it keeps no state and changes nothing it is given."""

    training_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how experts are trained; they mean nothing where finished experts are merged."""
    keeps_first: ClassVar[bool] = False
    """A single expert is itself the merged model, to the bit."""

    @property
    def n_kept(self) -> int | None:
        """How many of the newest updates are kept and merged anew each time: all (None), or n. With 0 none is kept,
        and the updates to be merged are the merged one and the new one (the new one alone at first)."""
        return 0

    def survey(self, updates: Sequence[Update]) -> Mapping[str, Sequence[float]]:
        """Numbers about whole updates that their layers are merged with; they come back as `Totals.numbers`."""
        return {}

    @abstractmethod
    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """One layer's merged update.

        Args:
            layer: which layer.
            updates: of this layer, oldest first, all of one shape. With `n_kept` 0: the merged one, then the new one.
            totals: of the whole model before this merge.
        """

    def factor(self, totals: Totals) -> float:
        """The number c that the merged update is multiplied with; `totals` are those after the merge."""
        return 1.0


class Merger:
    """Merges experts as they come, and holds what must be kept between them.

    Args:
        rule: how.
        layers: what is merged.
        seed: for rules that draw.
        fresh: makes the mapping that takes a merged update, e.g. one that lies on disk.
    """

    def __init__(self, rule: Merging, layers: Sequence[Layer], *, seed: int = 0,
                 fresh: Callable[[], MutableMapping[str, Tensor]] = dict) -> None:
        self._rule, self._layers, self._fresh = rule, tuple(layers), fresh
        self.names = tuple(layer.name for layer in self._layers)
        self.totals = Totals(seed=seed)
        self.merged: Mapping[str, Tensor] = {}
        self.kept: list[Update] = []
        self.notes: dict[str, float] = {}
        self.n_still = 0
        """Tensors of which the last merge left no update."""

    def absorb(self, updates: Sequence[Update]) -> None:
        """Merge these experts with those before. An expert that fails leaves what was merged before it.

        Raises:
            DataError: an update is not finite; none was merged.
            Diverged: a merged update does not fit its type.
        """
        norms = [norm_of(update, self._layers) for update in updates]
        if self._rule.n_kept != 0:
            self._merge(_newest([*self.kept, *updates], self._rule.n_kept), norms)
            self.kept = _newest([*self.kept, *updates], self._rule.n_kept)
            return
        for update, norm in zip(updates, norms, strict=True):
            self._merge([self.merged, update] if self.totals.n_experts else [update], [norm])

    def _merge(self, active: Sequence[Update], norms: Sequence[float]) -> None:
        before = replace(self.totals, numbers=self._rule.survey(active))
        merged, sizes, notes = self._fresh(), list[float](), dict[str, list[float]]()
        for layer in self._layers:
            update, said = self._rule.merge(layer, [each[layer.name] for each in active], before)
            merged[layer.name] = update
            sizes.append(_norm(update))
            if not math.isfinite(sizes[-1]):
                raise _unfit(layer.name, update.dtype)
            for key, value in said.items():
                notes.setdefault(key, []).append(value)
        n = before.n_experts + len(norms)
        self.totals = Totals(n_experts=n, mean_norm=(before.n_experts * before.mean_norm + sum(norms)) / n,
                             norm=math.hypot(*sizes), seed=before.seed)
        self.merged, self.n_still = merged, sizes.count(0.0)
        self.notes = {key: sum(values) / len(values) for key, values in notes.items()}

    @property
    def is_expert(self) -> bool:
        """One expert has come, and it is the merged model."""
        return self._rule.keeps_first and self.totals.n_experts == 1

    @property
    def factor(self) -> float:
        """The number c."""
        return self._rule.factor(self.totals)

    def weight(self, name: str, base: Tensor) -> Tensor:
        """theta_0 + c M of one tensor, in the type and on the device of the base.

        Raises:
            Diverged: it does not fit that type.
        """
        update = self.merged[name]
        return fitted(name, base.to(update) + self.factor * update, base)

    def state_dict(self) -> dict[str, Any]:
        """Merged and kept updates, and three numbers; no tensor in them is ever changed in place."""
        return {"merged": dict(self.merged), "kept": [dict(update) for update in self.kept],
                "n_experts": self.totals.n_experts, "mean_norm": self.totals.mean_norm, "norm": self.totals.norm}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Put back what `state_dict` returned."""
        self.merged = {name: value.to(device) for name, value in state["merged"].items()}
        self.kept = [{name: value.to(device) for name, value in update.items()} for update in state["kept"]]
        self.totals = Totals(n_experts=int(state["n_experts"]), mean_norm=float(state["mean_norm"]),
                             norm=float(state["norm"]), seed=self.totals.seed)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that is kept."""
        for update in (self.merged, *self.kept):
            yield from update.values()


def norm_of(update: Update, layers: Sequence[Layer]) -> float:
    """||Delta|| over all merged tensors.

    Raises:
        DataError: names a layer that holds NaN or infinite values.
    """
    sizes = list[float]()
    for layer in layers:
        sizes.append(_norm(update[layer.name]))
        if not math.isfinite(sizes[-1]):
            raise DataError(f"the update of {layer.name} holds values that are not finite; an expert that diverged "
                            "cannot be merged, train it again with a lower learning rate")
    return math.hypot(*sizes)


def _norm(value: Tensor) -> float:
    """||value||, also where its square is beyond float64; NaN or infinite where an entry is."""
    wide = value.double()
    norm = math.sqrt(float(wide.square().sum()))
    if 0 < norm < math.inf or not bool(wide.any()):
        return norm
    top = float(wide.abs().max())
    return top * math.sqrt(float((wide / top).square().sum())) if top < math.inf else top


def fitted(name: str, value: Tensor, base: Tensor) -> Tensor:
    """A merged tensor in the type and on the device of the base.

    Raises:
        Diverged: it does not fit that type.

    >>> fitted("a", torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.float16))
    tensor([1., 2.], dtype=torch.float16)
    """
    made = value.to(base)
    if not bool(made.isfinite().all()):
        raise _unfit(name, base.dtype)
    return made


def _unfit(name: str, dtype: torch.dtype) -> Diverged:
    return Diverged(f"the merged {name} does not fit {str(dtype).removeprefix('torch.')}; lower coefficient where the "
                    "method has one, or convert base and experts to a wider type")


def _newest(updates: list[Update], n: int | None) -> list[Update]:
    return updates if n is None else updates[-n:]
