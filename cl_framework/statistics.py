"""Statistics of results over runs: intervals, sources of deviation, paired tests. Imports no torch.

A value is one run's metric. A block is what runs of two strategies share: an (order seed, seed) pair or a class order.
Two strategies are compared by `paired` and several such p-values adjusted by `holm`; many by `ranks`. Where values are
ranked or signs flipped, those that agree to 12 digits of the largest are tied, so that the rounding of a sum makes no
difference.

Every function raises ConfigError for no values, a value that is not finite, or a block that not all strategies have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from cl_framework.errors import ConfigError
from cl_framework.groups import Stat

Block = TypeVar("Block", bound=Hashable)
Table = Mapping[str, Mapping[Block, float]]
"""Strategy -> block -> value."""
Interval = tuple[float, float]

Array = NDArray[np.float64]

_MOST_FLIPS = 2**16
_DIGITS = 12
_ROUNDING = 10.0**-_DIGITS


def t_interval(values: Sequence[float], level: float = 0.95, clusters: Sequence[Hashable] | None = None
               ) -> Interval | None:
    """Student's interval of the mean, m +- t_{(1 + level) / 2, n - 1} s / sqrt(n) (Biometrika 6, 1908); None for n = 1.

    With a cluster a value, e.g. its order, values of one cluster need not be independent: the interval is
    m +- t_{a - 1} sqrt(a / (a - 1) sum_c r_c^2) / n, r_c being the sum over cluster c of x - m, for a clusters
    (Cameron & Miller, Journal of Human Resources 50(2), 2015); that of the clusters' means where they are equally
    large; None for a = 1.

    >>> print("{:.3f} {:.3f}".format(*t_interval([1.0, 2.0, 3.0])))
    -0.484 4.484
    """
    check_fraction("level", level)
    stat = Stat.of(as_array({"values": dict(enumerate(values))})[0].tolist())
    if clusters is not None:
        totals, counts = _by_cluster(values, clusters)
        a = len(totals)
        error = math.sqrt(a / (a - 1) * float(((totals - counts * stat.mean)**2).sum())) / stat.n if a > 1 else 0.0
    else:
        a, error = stat.n, 0.0 if stat.std is None else stat.std / math.sqrt(stat.n)
    if a == 1:
        return None
    half_width = float(stdtrit(a - 1, (1 + level) / 2)) * error
    return stat.mean - half_width, stat.mean + half_width


def bootstrap_interval(values: Sequence[float], level: float = 0.95, n_resamples: int = 10_000, seed: int = 0,
                       clusters: Sequence[Hashable] | None = None) -> Interval | None:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean (Efron, JASA 82, 1987); None for n = 1.

    The percentile interval where BCa is undefined. Too narrow for few values: see `t_interval`. With a cluster a value,
    whole clusters are drawn.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    from scipy import stats

    check_fraction("level", level)
    data = as_array({"values": dict(enumerate(values))})
    totals, counts = _by_cluster(values, range(len(values)) if clusters is None else clusters)
    if len(totals) > 1 and (data == data[0, 0]).all():
        return float(data[0, 0]), float(data[0, 0])

    scale = float(abs(data).max())

    def mean(totals: Array, counts: Array, axis: int = -1) -> Array:
        found: Array = totals.sum(axis=axis) / counts.sum(axis=axis) / scale
        rounded: Array = found.round(_DIGITS) * scale  # BCa counts the resamples whose mean is that of the sample
        return rounded

    for method in ("BCa", "percentile") if len(totals) > 1 else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about degenerate samples: the result tells
            ends = stats.bootstrap((totals, counts), mean, paired=True, vectorized=True, confidence_level=level,
                                   n_resamples=n_resamples, method=method,
                                   random_state=np.random.default_rng(seed)).confidence_interval
        if np.isfinite(ends).all():
            return float(ends.low), float(ends.high)
    return None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Standard deviations from two sources: between clusters, e.g. orders, and within one, e.g. training seeds."""

    between: float
    within: float


def split_deviation(values: Sequence[float], clusters: Sequence[Hashable]) -> Split | None:
    """Tell the two sources of x_cj = mu + a_c + e_cj apart, by the mean squares of the one-way analysis of variance.

    within^2 = MSW, between^2 = max(0, (MSB - MSW) / n_0), n_0 = (N - sum_c n_c^2 / N) / (a - 1), for a clusters of n_c
    values and N in all (Searle, Casella & McCulloch, Variance Components, 1992, chapter 3). None where a source cannot
    be seen: one cluster, or no cluster with two values.

    >>> split_deviation([1.0, 3.0, 11.0, 13.0], ["a", "a", "b", "b"])  # MSW = 2, MSB = 100, n_0 = 2
    Split(between=7.0, within=1.4142135623730951)
    """
    x = as_array({"values": dict(enumerate(values))})[0]
    totals, counts = _by_cluster(values, clusters)
    a, n = len(totals), len(x)
    if a == 1 or a == n:
        return None
    means = dict(zip(dict.fromkeys(clusters), (totals / counts).tolist(), strict=True))
    within = sum((value - means[cluster])**2 for value, cluster in zip(x.tolist(), clusters, strict=True)) / (n - a)
    among = float((counts * (totals / counts - x.mean())**2).sum()) / (a - 1)
    size = (n - float((counts**2).sum()) / n) / (a - 1)
    return Split(between=math.sqrt(max(0.0, (among - within) / size)), within=math.sqrt(within))


def _by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    """The sum and the number of the values of each cluster."""
    totals, counts = dict[Hashable, float](), dict[Hashable, float]()
    for value, cluster in zip(values, clusters, strict=True):
        totals[cluster] = totals.get(cluster, 0.0) + value
        counts[cluster] = counts.get(cluster, 0.0) + 1.0
    return np.array(list(totals.values())), np.array(list(counts.values()))


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two strategies on the same blocks; d is the first one's value less the second's. The tests are two-sided.

    Attributes:
        n: blocks.
        mean_difference, interval: the mean of d and its Student interval, None for one block.
        p_permutation: of the mean of d under flips of signs (Fisher, The Design of Experiments, 1935, section 21).
        is_exact: p_permutation counts all 2^n flips (n up to 16); else 65536 drawn ones.
        p_wilcoxon: of the signed-rank test (Wilcoxon, Biometrics Bulletin 1, 1945), zeros dropped as there; exact for
            up to 50 differences without ties and 13 with, else normal; None for fewer than two that are not 0.
        d_z: mean(d) / std(d) with divisor n - 1 (Cohen, Statistical Power Analysis, 1988, 2.3.5); None for equal d.
        rank_biserial: (R+ - R-) / (R+ + R-), the rank sums of positive and negative d without zeros; 1 where the first
            is always above (Kerby, Comprehensive Psychology 3, 2014); None where all d are 0.
    """

    n: int
    mean_difference: float
    interval: Interval | None
    p_permutation: float
    is_exact: bool
    p_wilcoxon: float | None
    d_z: float | None
    rank_biserial: float | None

    @property
    def smallest_p(self) -> float:
        """What p_permutation cannot go below: all signs alike are 2 of 2^n flips; one more than the drawn ones."""
        return 2.0 ** (1 - self.n) if self.is_exact else 1 / (_MOST_FLIPS + 1)


def paired(first: Mapping[Block, float], second: Mapping[Block, float], level: float = 0.95,
           seed: int = 0) -> PairedTest:
    """Compare two strategies on the same blocks; the seed is that of flips that are drawn.

    >>> test = paired({0: 0.75, 1: 0.875, 2: 1.0}, {0: 0.5, 1: 0.75, 2: 0.5})
    >>> test.p_permutation, test.smallest_p, test.rank_biserial
    (0.25, 0.25, 1.0)
    """
    from scipy import stats

    values = as_array({"first": first, "second": second})
    scale = float(abs(values).max())
    d = np.sign(values[0] - values[1]) * tied(np.append(abs(values[0] - values[1]), 0.0), scale)[:-1]
    stat, nonzero = Stat.of(d.tolist()), d[d != 0]
    ranks = stats.rankdata(abs(nonzero))
    return PairedTest(
        n=stat.n, mean_difference=stat.mean, interval=t_interval(d.tolist(), level),
        p_permutation=_sign_flip_p(d, scale, seed), is_exact=2**stat.n <= _MOST_FLIPS,
        p_wilcoxon=float(stats.wilcoxon(nonzero).pvalue) if nonzero.size > 1 else None,
        d_z=None if stat.std is None or stat.std == 0 else stat.mean / stat.std,
        rank_biserial=float(ranks @ np.sign(nonzero) / ranks.sum()) if nonzero.size else None)


def _sign_flip_p(d: Array, scale: float, seed: int) -> float:
    """The share of sums of flipped differences at least as far from 0 as theirs; of drawn ones, theirs is one more."""
    from scipy import stats

    if d.size == 1:
        return 1.0
    flips = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=_MOST_FLIPS, batch=2**13,
                                   random_state=np.random.default_rng(seed))
    drawn = 0 if 2**d.size <= _MOST_FLIPS else 1
    n_extreme = np.count_nonzero(abs(flips.null_distribution) >= abs(flips.statistic) - _ROUNDING * scale * d.size)
    return float((n_extreme + drawn) / (flips.null_distribution.size + drawn))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for their number m: the i-th smallest becomes max_{j <= i} min(1, (m - j + 1) p_(j)).

    The step-down method of Holm (Scandinavian Journal of Statistics 6, 1979): whatever is then below alpha holds with
    an error for any of them of at most alpha. Own lines because scipy has none and statsmodels brings pandas.

    >>> holm({"a": 0.25, "b": 0.125, "c": 0.5})
    {'a': 0.5, 'b': 0.375, 'c': 0.5}
    """
    as_array({"p": p_values})
    largest, adjusted = 0.0, dict(p_values)
    for i, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if not 0 <= p_values[name] <= 1:
            raise ConfigError(f"the p-value of '{name}' is {p_values[name]!r}; expected one from 0 to 1")
        largest = adjusted[name] = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
    return adjusted


def check_fraction(name: str, value: float) -> None:
    """Refuse a level that is no fraction."""
    if not 0 < value < 1:
        raise ConfigError(f"{name}={value!r} is not between 0 and 1")


def as_array(table: Table[Block]) -> Array:
    """The values as (strategies, blocks), the blocks in the first strategy's order."""
    blocks = list(dict.fromkeys(block for row in table.values() for block in row))
    if not blocks:
        raise ConfigError("there are no values to compare; expected one a run")
    faults = [f"'{name}' has no value at {block!r}, where others have one; add that run, or leave {block!r} out for all"
              if block not in row else f"'{name}' is {row[block]!r} at {block!r}; expected a finite number"
              for name, row in table.items() for block in blocks if not math.isfinite(row.get(block, math.nan))]
    if faults:
        raise ConfigError(faults)
    return np.array([[row[block] for block in blocks] for row in table.values()], dtype=np.float64)


def tied(values: Array, scale: float | None = None) -> Array:
    """The values, each group that differs by rounding alone made equal to its smallest."""
    scale = float(abs(values).max()) if scale is None else scale
    levels, places = np.unique(values.ravel(), return_inverse=True)
    is_first = np.diff(levels, prepend=-np.inf) > _ROUNDING * scale
    smallest: Array = levels[is_first][np.cumsum(is_first)[places] - 1].reshape(values.shape)
    return smallest
