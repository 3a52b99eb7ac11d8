"""How each signal goes with forgetting, over runs: Spearman's rank correlation with a bootstrap interval over runs.

A sample is a pair of experiences i < t of one run: what i lost when t was learned (see `diagnosis`), beside the
signals of experience t, and those of the pair (names that begin with `pair/`). Samples of one run are not independent,
so whole runs are drawn: the percentile interval of 2000 resamples of runs (Wang et al., "Geometry Conflict", 2026,
arXiv 2605.09608, section 3 and appendix F). With fewer than five runs there is none. Imports no torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cl_framework.diagnosis import Diagnosis, Kind

Array = NDArray[np.float64]

_FEWEST_RUNS = 5
_FEWEST_SAMPLES = 3
_RESAMPLES = 2000
_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Of one signal with forgetting.

    Attributes:
        rho: in [-1, 1]; above 0, where the signal is larger more is forgotten.
        interval: 95 %, None where there are too few runs.
        n, n_runs: samples, and runs that they come from.
    """

    signal: str
    rho: float
    interval: tuple[float, float] | None
    n: int
    n_runs: int


def correlations(runs: Sequence[Diagnosis], kind: Kind = "all", *, seed: int = 0) -> list[Correlation]:
    """Of each signal; without those that are constant or have fewer than three samples.

    Args:
        runs: finished runs of one stream or several.
        kind: how forgetting is counted.
        seed: of the resamples.
    """
    samples = [_samples(run, kind) for run in runs]
    samples = [rows for rows in samples if rows]
    names = dict.fromkeys(name for rows in samples for signals, _ in rows for name in signals)
    found = [_correlation(name, [[(signals.get(name, math.nan), lost) for signals, lost in rows] for rows in samples],
                          seed) for name in names]
    return [each for each in found if each is not None]


def _samples(run: Diagnosis, kind: Kind) -> list[tuple[Mapping[str, float], float]]:
    rows = list[tuple[Mapping[str, float], float]]()
    for learned, step in enumerate(run.steps):
        for earlier, pair in enumerate(step.pairs):
            lost = run.lost(earlier, learned, kind)
            if not math.isnan(lost):
                rows.append(({**step.signals, **{f"pair/{name}": value for name, value in pair.items()}}, lost))
    return rows


def _correlation(name: str, runs: Sequence[Sequence[tuple[float, float]]], seed: int) -> Correlation | None:
    kept = [[pair for pair in rows if not math.isnan(pair[0])] for rows in runs]
    kept = [rows for rows in kept if rows]
    n = sum(map(len, kept))
    if n < _FEWEST_SAMPLES:
        return None
    padded = np.full((len(kept), max(map(len, kept)), 2), np.nan)
    for place, rows in enumerate(kept):
        padded[place, :len(rows)] = rows
    rho = float(spearman(padded[..., 0].ravel(), padded[..., 1].ravel()))
    if math.isnan(rho):
        return None
    return Correlation(signal=name, rho=rho, interval=_interval(padded, seed), n=n, n_runs=len(kept))


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rho along the last axis; ties have mean ranks, places where both are NaN are left out; NaN where one
    is constant.

    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 40.0, 90.0])).round(6))
    1.0
    """
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=-1, nan_policy="omit") for values in (x, y)]
    a, b = (each - np.nanmean(each, axis=-1, keepdims=True) for each in ranks)
    product, squares = np.nansum(a * b, axis=-1), np.nansum(a * a, axis=-1) * np.nansum(b * b, axis=-1)
    rho: Array = np.where(squares > 0, product / np.sqrt(np.where(squares > 0, squares, 1.0)), np.nan)
    return rho


def _interval(padded: Array, seed: int) -> tuple[float, float] | None:
    from scipy import stats

    n_runs = len(padded)
    if n_runs < _FEWEST_RUNS:
        return None

    def statistic(drawn: NDArray[np.int64], axis: int) -> Array:
        chosen = padded[drawn].reshape(*drawn.shape[:-1], -1, 2)
        return spearman(chosen[..., 0], chosen[..., 1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about resamples without a correlation: they are left out below
        drawn = stats.bootstrap((np.arange(n_runs),), statistic, vectorized=True, n_resamples=_RESAMPLES, batch=_BATCH,
                                method="percentile", random_state=np.random.default_rng(seed)).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)
