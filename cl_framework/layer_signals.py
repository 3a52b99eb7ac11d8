"""The signals of one weight matrix in one experience: what learning did to it, and how that goes with what was there.

Delta_t is the update of experience t, from its first step to the end of training; a strategy that merges has not merged
then. S_t = theta_t - theta_0 is the state that is deployed after t. What each signal is, its equation and its source:
docs/diagnostics.md.

- `signals` without a prefix compare the weight before and after learning experience t; with `origin/`, theta_0 and the
  deployed weight.
- Conflicts of a step are means over pairs of updates ("active"), over the deployed state and each update ("state"), and
  over both ("overall"). With `cumulative/` the updates are theta_i - theta_0 and not Delta_i; the same for experts that
  begin at theta_0.
- `pairs` hold what Delta_t and the update of one earlier experience have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_framework.geometry import alignment, conflict, gradient_conflict
from cl_framework.spectra import Spectrum, leading_spectrum
from cl_framework.update_geometry import (
    Singular,
    held_fraction,
    n_leading,
    retained_fraction,
    rotation,
    singular,
    spectral_shift,
    sum_ratio,
    update_rank,
)
from cl_framework.update_masks import (
    changed,
    changed_in_bfloat16,
    coverage,
    low_magnitude_mask,
    overlap,
    principal_mask,
    sparsity,
)

_TOLERANCES = {"1e-4": 1e-4, "1e-3": 1e-3, "1e-2": 1e-2}
"""eta of the sparsities."""
_SHARES = (0.1, 0.5)
"""alpha of the masks."""
_ALIGNED, _ENERGY = 16, 0.9
"""Leading inputs of an alignment: at most so many, and the fewest that carry this share (GCWM, appendix J)."""

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A weight [p, d] when an experience begins, when it was trained, and as it is deployed."""

    start: Tensor
    trained: Tensor
    deployed: Tensor


@dataclass(frozen=True, kw_only=True)
class LayerSignals:
    """What was measured; NaN where a signal is not defined. `pairs` has an entry for each earlier experience."""

    signals: Numbers
    pairs: list[Numbers]


def layer_signals(origin: Tensor, now: Moments, before: Tensor, earlier: Iterable[Moments],
                  known: Sequence[Mapping[str, float]]) -> LayerSignals:
    """Measure one weight in one experience.

    Args:
        origin: theta_0, [p, d].
        now: the weight in this experience.
        before: the weight that was deployed before it; theta_0 in the first.
        earlier: the weight in each experience before, oldest first; read once.
        known: `pairs` of all experiences before, in any order.
    """
    update, state, standing = (_Direction(new.double() - old.double()) for new, old in (
        (now.trained, now.start), (now.deployed, origin), (before, origin)))
    is_expert = torch.equal(now.start, origin)
    cumulative = update if is_expert else _Direction(now.trained.double() - origin.double())
    mask, total = changed_in_bfloat16(now.start, now.trained), update.matrix.clone()
    pairs, norms = list[Numbers](), list[float]()
    states, cumulative_states = [update.conflict(state)], [cumulative.conflict(state)]
    for past in earlier:
        other = _Direction(past.trained.double() - past.start.double())
        whole = other if torch.equal(past.start, origin) else _Direction(past.trained.double() - origin.double())
        common = overlap(changed_in_bfloat16(past.start, past.trained), mask)
        pairs.append({
            "conflict": update.conflict(other), "cumulative/conflict": cumulative.conflict(whole),
            "alignment": update.alignment(other), "cosine": update.cosine(other),
            "held": held_fraction(state.matrix, other.matrix), "o1": common.first, "o2": common.second,
            "jaccard": common.jaccard, "o1/independent": common.independent_first,
            "o2/independent": common.independent_second, "jaccard/independent": common.independent_jaccard})
        states.append(state.conflict(other))
        cumulative_states.append(state.conflict(whole))
        norms.append(other.norm)
        total += other.matrix
    sum_norm, cosines = float(torch.linalg.matrix_norm(total)), [pair["cosine"] for pair in pairs]
    change = _change(now.start, now.trained, update)
    is_whole = is_expert and torch.equal(now.trained, now.deployed)
    whole_change = change if is_whole else _change(origin, now.deployed, state)
    signals = {
        **change, "sum_norm": sum_norm, "lambda": sum_ratio(sum_norm, [*norms, update.norm]),
        "sqrt_t": math.sqrt(len(pairs) + 1),
        "retained": retained_fraction(update.matrix.float(), standing.matrix.float()) if pairs else math.nan,
        "conflict/before": update.conflict(standing) if pairs else math.nan,
        "alignment/before": update.alignment(standing) if pairs else math.nan,
        "cosine/before": update.cosine(standing) if pairs else math.nan,
        "cosine/smallest": min(cosines, default=math.nan), "cosine/negative": _mean([c < 0 for c in cosines]),
        **_step([pair["conflict"] for pair in [*known, *pairs]], states),
        **_named("cumulative", _step([pair["cumulative/conflict"] for pair in [*known, *pairs]], cumulative_states)),
        **_named("origin", whole_change),
    }
    return LayerSignals(signals=signals, pairs=pairs)


class _Direction:
    """An update and its geometry, in float64."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.norm = float(torch.linalg.matrix_norm(self.matrix))
        self.values, self._vectors = leading_spectrum(self.matrix)
        self._factor = Spectrum(self.values, self._vectors).factor

    def conflict(self, other: _Direction) -> float:
        return float(conflict(self._factor, other._factor))

    def alignment(self, other: _Direction) -> float:
        return float(alignment(self.matrix, other.matrix, self._leading(), other._leading()))

    def cosine(self, other: _Direction) -> float:
        return gradient_conflict([torch.stack([self.matrix, other.matrix])]).mean

    def _leading(self) -> Tensor:
        squares = self.values.square()
        n = int((squares.cumsum(0) - squares < _ENERGY * self.norm**2).count_nonzero())
        return self._vectors[:, :min(n, _ALIGNED)]


def _named(prefix: str, numbers: Mapping[str, float]) -> Numbers:
    return {f"{prefix}/{name}": value for name, value in numbers.items()}


def _step(active: Sequence[float], state: Sequence[float]) -> Numbers:
    """Conflicts of a step, and the signed gaps: see `geometry.Signals`."""
    means = {"active": _mean(active), "state": _mean(state), "overall": _mean([*active, *state])}
    return {**means, "state_gap": means["state"] - means["active"], "global_gap": means["overall"] - means["active"]}


def _change(before: Tensor, after: Tensor, update: _Direction) -> Numbers:
    """Norm, rank, sparsity, rotation, shift, and where the changed entries lie."""
    whole, k = float(before.double().norm()), n_leading(before)
    noise = torch.finfo(after.dtype).eps * float(after.double().norm())
    old, new = singular(before), singular(after)
    mask = changed_in_bfloat16(before, after)
    principal, low = {}, {}
    for share in _SHARES:
        principal[share], low[share] = principal_mask(old, k, share), low_magnitude_mask(before, share)
    return {
        "update_norm": update.norm, "relative_norm": update.norm / whole if whole > 0 else math.nan,
        "update_rank": update_rank(update.values, noise),
        **{f"sparsity/{name}": sparsity(changed(before, after, eta)) for name, eta in _TOLERANCES.items()},
        "sparsity/bf16": sparsity(mask), **_angles(old, new, k),
        "spectral_shift": spectral_shift(old.values, new.values),
        **{f"principal/{share}": coverage(principal[share], mask) for share in _SHARES},
        **{f"low/{share}": coverage(low[share], mask) for share in _SHARES},
        **{f"principal_not_low/{share}": coverage(principal[share] & ~low[share], mask) for share in _SHARES},
    }


def _angles(old: Singular, new: Singular, k: int) -> Numbers:
    """Rotation of the leading directions; no angles where the cut after them is arbitrary."""
    turn = rotation(old, new, k)
    angles = turn._asdict()
    gap = angles.pop("gap")
    return {**{f"angle/{name}": math.nan if turn.is_degenerate else angle for name, angle in angles.items()},
            "spectral_gap": gap}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
