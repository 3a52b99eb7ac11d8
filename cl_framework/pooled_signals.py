"""The signals of many layers as those of one experience: means weighted by how much each layer moved.

A layer l counts with ||Delta_t^(l)||_F, so that layers that stayed do not dilute what happened in those that learned.
Beside it stand the plain mean over layers, which papers on merging report (GCWM, arXiv 2605.09608, appendix E), and the
median. Norms are those of all layers together, (sum_l ||.||^2)^{1/2}. NaN of a layer is left out. Imports no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Numbers = Mapping[str, float]


class Pooled(NamedTuple):
    """Weighted means, plain means and medians over layers; NaN where no layer has the signal."""

    signals: dict[str, float]
    means: dict[str, float]
    medians: dict[str, float]


def pooled(layers: Sequence[Numbers], weights: Sequence[float]) -> Pooled:
    """Signals of at least one layer, all of the same names.

    >>> pooled([{"lambda": 1.0}, {"lambda": 3.0}], [3.0, 1.0]).signals
    {'lambda': 1.5}
    """
    result = Pooled({}, {}, {})
    for name in layers[0]:
        found = [(layer[name], weight) for layer, weight in zip(layers, weights, strict=True)
                 if not math.isnan(layer[name])]
        values, total = [value for value, _ in found], math.fsum(weight for _, weight in found)
        mean = statistics.fmean(values) if values else math.nan
        weighted = math.fsum(value * weight for value, weight in found) / total if total > 0 else mean
        result.signals[name], result.means[name] = weighted, mean
        result.medians[name] = statistics.median(values) if values else math.nan
    return result


def whole_model(layers: Sequence[Numbers], past_norms: Sequence[float]) -> dict[str, float]:
    """What is no mean over layers: norms of the whole update in both usual definitions, its lambda, and the smallest
    cosine.

    Args:
        layers: the signals of each layer.
        past_norms: `update_norm` of the whole model in each experience before.
    """
    norm, sum_norm = (math.hypot(*(layer[name] for layer in layers)) for name in ("update_norm", "sum_norm"))
    mean = math.fsum([*past_norms, norm]) / (len(past_norms) + 1)
    cosines = [layer["cosine/smallest"] for layer in layers if not math.isnan(layer["cosine/smallest"])]
    return {"update_norm": norm, "update_norm/sum": math.fsum(layer["update_norm"] for layer in layers),
            "origin/update_norm": math.hypot(*(layer["origin/update_norm"] for layer in layers)), "sum_norm": sum_norm,
            "lambda": sum_norm / mean if mean > 0 else math.nan, "cosine/smallest": min(cosines, default=math.nan)}
