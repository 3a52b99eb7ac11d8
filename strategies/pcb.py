"""PCB: weigh each expert's parameters by how they compete, within the expert and between experts.

With n updates tau_i of d numbers each, N(x) = (x - min x) / (max x - min x) over an expert's d numbers, and a_i the
magnitudes |tau_i|, cut to their order statistics at d q and d (1 - q):

    b_i = exp(n N(a_i)^2) tanh(tau_i sum_j tau_j)            within, and between
    s_i = N(max(b_i, its value of rank d (1 - r)))           drop all but the share r; 0 where dropped
    M   = sum_i s_i sign(tau_i) a_i / sum_i s_i              0 where all drop,         theta = theta_0 + c M,

entry by entry. Du et al., "Parameter Competition Balancing for Model Merging", NeurIPS 2024, arXiv 2410.02396, as the
released program computes it. `balance` chooses the second factor:

    product       tanh(tau_i sum_j tau_j)
    sign_product  tanh(tau_i sum_j sign(tau_j) N(a_j))                     the release's vision experiments
    pairs         sum_j tanh(sign(tau_i) N(a_i) sign(tau_j) N(a_j))        its evolutionary search
    softmax       sum_j softmax(N(tau_i tau_j))                            the paper's text

The softmax is taken over all d parameters, which the text leaves open; of the first factor it would change a constant
alone. exp(n (N^2 - 1)) is computed, which s cannot tell apart and which does not overflow. d counts all merged tensors,
and nothing is held but one layer: ranks are found by counting.

`mode=joint` keeps all updates and merges them anew, which is the published method. `mode=sequential`, a variant of
ours, keeps the merged update alone and merges it with the new one, n = 2; its scores count as often as the experts
that it stands for, else each step would halve what was known. It depends on the order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.merging import Layer, Merged, Totals, Update
from cl_framework.order_statistics import order_statistic

from ._experts import Experts

Numbers = Mapping[str, Sequence[float]]
"""What is known of whole updates. One number an update: `low` and `high`, where magnitudes are cut; `floor` and `top`,
the value of b below which entries drop, and the largest. One number a pair, row by row: `pair_low`, `pair_high` and
`pair_total` of the softmax."""


@dataclass(kw_only=True, eq=False)
class PCB(Experts):
    """Merges by balanced competition of parameters. A single expert is the model itself."""

    keeps_first: ClassVar[bool] = True

    coefficient: float = tunable(1.2, 0.8, 1.0, 1.2, 1.5, low=0.0)
    """The factor c; the published one for images is 1.2."""
    density: float = tunable(0.1, 0.05, 0.1, 0.2, low=0.0, high=1.0)
    """The share r of each update that stays."""
    mode: Literal["joint", "sequential"] = "joint"
    """Merge all updates anew, or the new one into the merged one."""
    balance: Literal["product", "sign_product", "pairs", "softmax"] = "product"
    """The competition between experts."""
    tail: float = bounded(1e-4, low=0.0, high=0.5)
    """The share q of magnitudes that is cut at either end; 0.01 in the published vision experiments."""

    @property
    def n_kept(self) -> int | None:
        """All updates, or none."""
        return None if self.mode == "joint" else 0

    def factor(self, totals: Totals) -> float:
        """c."""
        return self.coefficient

    def survey(self, updates: Sequence[Update]) -> Numbers:
        """What `Numbers` says; nothing of a single expert."""
        if len(updates) == 1:
            return {}
        d = sum(value.numel() for value in updates[0].values())
        low, high, dropped = (_rank(d, share) for share in (self.tail, 1 - self.tail, 1 - self.density))
        magnitudes = [_parts([update], lambda layer: layer[0].abs()) for update in updates]
        numbers: dict[str, Sequence[float]] = {"low": [order_statistic(each, low) for each in magnitudes],
                                               "high": [order_statistic(each, high) for each in magnitudes]}
        if self.balance == "softmax":
            numbers |= _pairs(updates)
        scores = [_parts(updates, partial(self._competition, i, numbers)) for i in range(len(updates))]
        return numbers | {"floor": [order_statistic(each, dropped) for each in scores],
                          "top": [max(float(part.max()) for part in each() if part.numel()) for each in scores]}

    def merge(self, layer: Layer, updates: Sequence[Tensor], totals: Totals) -> Merged:
        """The mean weighted by scores, and the share of entries that each expert keeps."""
        n, numbers = len(updates), totals.numbers
        if n == 1:
            return Merged(updates[0].clone())
        counts = [1.0] * n if self.mode == "joint" else [float(totals.n_experts), 1.0]
        total, weight, kept = torch.zeros_like(updates[0]), torch.zeros_like(updates[0]), 0.0
        for i, (update, count) in enumerate(zip(updates, counts, strict=True)):
            floor, top = numbers["floor"][i], numbers["top"][i]
            score = _normalised(self._competition(i, numbers, updates).clamp_min(floor), floor, top)
            kept += float((score > 0).double().mean()) / n
            total += count * score * update.sign() * update.abs().clamp(numbers["low"][i], numbers["high"][i])
            weight += count * score
        return Merged(total / weight.clamp_min(1e-12), {"kept": kept})

    def _competition(self, i: int, numbers: Numbers, updates: Sequence[Tensor]) -> Tensor:
        """b_i of one layer."""
        within = (len(updates) * (_size(i, numbers, updates).square() - 1)).exp()
        return within * self._between(i, numbers, updates)

    def _between(self, i: int, numbers: Numbers, updates: Sequence[Tensor]) -> Tensor:
        """The competition of expert i with all."""
        total = torch.zeros_like(updates[i])
        for j, other in enumerate(updates):
            if self.balance == "product":
                total += other
            elif self.balance == "sign_product":
                total += other.sign() * _size(j, numbers, updates)
            elif self.balance == "pairs":
                sizes = _size(i, numbers, updates) * _size(j, numbers, updates)
                total += (updates[i].sign() * other.sign() * sizes).tanh()
            else:
                low, high, mass = (numbers[f"pair_{name}"][i * len(updates) + j] for name in ("low", "high", "total"))
                total += _normalised(updates[i] * other, low, high).exp() / mass
        return (updates[i] * total).tanh() if self.balance in ("product", "sign_product") else total


def _parts(updates: Sequence[Update], what: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[], Iterable[Tensor]]:
    """What is made of all updates, layer by layer, each time it is asked for."""
    return lambda: (what([update[name] for update in updates]) for name in updates[0])


def _pairs(updates: Sequence[Update]) -> dict[str, Sequence[float]]:
    """Least and largest tau_i tau_j of each pair, and the sum of exp N(tau_i tau_j)."""
    found: dict[str, list[float]] = {"pair_low": [], "pair_high": [], "pair_total": []}
    for pair in itertools.product(updates, repeat=2):
        products = _parts(pair, lambda layer: layer[0] * layer[1])
        extremes = [part.aminmax() for part in products() if part.numel()]
        low, high = min(float(each.min) for each in extremes), max(float(each.max) for each in extremes)
        masses = [float(_normalised(part, low, high).double().exp().sum()) for part in products()]
        for name, value in (("low", low), ("high", high), ("total", sum(masses))):
            found[f"pair_{name}"].append(value)
    return {**found}


def _rank(d: int, share: float) -> int:
    return min(int(d * share), d - 1)


def _size(i: int, numbers: Numbers, updates: Sequence[Tensor]) -> Tensor:
    """N(a_i) of one layer."""
    low, high = numbers["low"][i], numbers["high"][i]
    return _normalised(updates[i].abs().clamp(low, high), low, high)


def _normalised(value: Tensor, low: float, high: float) -> Tensor:
    """(x - low) / (high - low), 0 where both are equal."""
    return (value - low) / (high - low) if high > low else torch.zeros_like(value)
