"""Merges experts that are plain state dicts, or files of them, without a model and without a trainer.

    merge_state_dicts(rule, base, [expert, expert, ...])

`rule` is any `Merging`, e.g. an object of the class that `strategy=opcm` names. Updates are taken when a layer is
merged, in float32 (float64 where the base is), on the device of the base; the merged model has the base's types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.mergeable import EMBEDDINGS, Sorting, Weights, sort_tensors
from cl_framework.merging import Merger, Merging, fitted


class Difference(Mapping[str, Tensor]):
    """theta_i - theta_0 of some tensors, computed anew each time it is asked for.

    >>> Difference({"a": torch.ones(1)}, {"a": torch.zeros(1)}, ["a"])["a"]
    tensor([1.])
    """

    def __init__(self, expert: Weights, base: Weights, names: Sequence[str]) -> None:
        self._expert, self._base, self._names = expert, base, tuple(names)

    def __getitem__(self, name: str) -> Tensor:
        base = self._base[name]
        kind = torch.promote_types(base.dtype, torch.float32)
        return self._expert[name].to(base.device, kind) - base.to(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Merge(Mapping[str, Tensor]):
    """The merged model, each of its tensors made when it is asked for.

    Args:
        rule: how.
        base: theta_0.
        experts: at least one, by what they are called in messages.
        seed: for rules that draw.
        keep: see `sort_tensors`.
        embeddings: see `sort_tensors`.
        fresh: makes the mapping that takes a merged update, e.g. one that lies on disk.

    Attributes:
        sorting: what becomes of each tensor.
        merger: its totals and notes.

    Raises:
        ConfigError: every fault of base and experts at once.
        Diverged: a merged tensor does not fit its type.
    """

    def __init__(self, rule: Merging, base: Weights, experts: Mapping[str, Weights], *, seed: int = 0, keep: str = "",
                 embeddings: str = EMBEDDINGS, fresh: Callable[[], MutableMapping[str, Tensor]] = dict) -> None:
        if not experts:
            raise ConfigError("there are no experts; give at least one")
        self.sorting: Sorting = sort_tensors(base, experts, keep=keep, embeddings=embeddings)
        self.merger = Merger(rule, self.sorting.layers, seed=seed, fresh=fresh)
        self._base, self._experts = base, tuple(experts.values())
        self._names = frozenset(self.merger.names)
        self._statistics = frozenset(self.sorting.statistics)
        self.merger.absorb([Difference(expert, base, self.merger.names) for expert in self._experts])

    def __getitem__(self, name: str) -> Tensor:
        base = self._base[name]
        source = self.sorting.tied.get(name, name)
        if source in self._names:
            if self.merger.is_expert:
                return self._experts[0][source].to(base)
            return self.merger.weight(source, base)
        return fitted(name, self._mean(name), base) if name in self._statistics else base

    def _mean(self, name: str) -> Tensor:
        """Of one tensor over experts."""
        first = self._experts[0][name]
        mean = first.to(torch.promote_types(first.dtype, torch.float32))
        for i, expert in enumerate(self._experts[1:], 2):
            mean = torch.lerp(mean, expert[name].to(mean), 1 / i)
        return mean

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def merge_state_dicts(rule: Merging, base: Weights, experts: Sequence[Weights], *, seed: int = 0, keep: str = "",
                      embeddings: str = EMBEDDINGS) -> dict[str, Tensor]:
    """The merged model of some state dicts; none of them is changed, and the result shares no memory with them.

    Args:
        rule: how.
        base: what the experts were trained from.
        experts: at least one, in the order in which they came.
        seed: for rules that draw.
        keep: a regular expression of tensors that are the base's, e.g. heads.
        embeddings: a regular expression of weights of two dimensions that are no linear layers.

    Raises:
        ConfigError: every fault of base and experts at once.
        Diverged: a merged tensor does not fit its type.
    """
    named = {f"expert {place}": expert for place, expert in enumerate(experts, 1)}
    merged = Merge(rule, base, named, seed=seed, keep=keep, embeddings=embeddings)
    return {name: value.clone() for name, value in merged.items()}
