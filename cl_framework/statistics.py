"""Statistics of results over runs: intervals, paired tests, ranks of many strategies. Imports no torch.

A value is one run's metric. A block is what runs of two strategies share: an (order seed, seed) pair or a class order.
Two strategies are compared by `paired` and several such p-values adjusted by `holm`; neither depends on which others
are in the table, while mean ranks do (Benavoli, Corani & Mangili, JMLR 17(5), 2016). Many strategies are compared by
`friedman` and by mean ranks with their `critical_difference` (Demsar, JMLR 7, 2006). Where values are ranked or signs
flipped, those that agree to 12 digits of the largest are tied: the rounding of a sum makes no difference.

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
from cl_framework.summaries import Stat

Block = TypeVar("Block", bound=Hashable)
Table = Mapping[str, Mapping[Block, float]]
"""Strategy -> block -> value."""
Interval = tuple[float, float]

Array = NDArray[np.float64]

_MOST_FLIPS = 2**16
_ROUNDING = 1e-12


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's interval of the mean, m +- t_{(1 + level) / 2, n - 1} s / sqrt(n) (Biometrika 6, 1908); None for n = 1.

    >>> print("{:.3f} {:.3f}".format(*t_interval([1.0, 2.0, 3.0])))
    -0.484 4.484
    """
    _fraction("level", level)
    stat = Stat.of(_values({"values": dict(enumerate(values))})[0].tolist())
    if stat.std is None:
        return None
    half_width = float(stdtrit(stat.n - 1, (1 + level) / 2)) * stat.std / math.sqrt(stat.n)
    return stat.mean - half_width, stat.mean + half_width


def bootstrap_interval(values: Sequence[float], level: float = 0.95, n_resamples: int = 10_000,
                       seed: int = 0) -> Interval | None:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean (Efron, JASA 82, 1987); None for n = 1.

    The percentile interval where BCa is undefined, as for equal values. Too narrow for few values: see `t_interval`.

    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    from scipy import stats

    _fraction("level", level)
    data = _values({"values": dict(enumerate(values))})
    for method in ("BCa", "percentile") if len(values) > 1 else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about degenerate samples: the result tells
            ends = stats.bootstrap(data, np.mean, confidence_level=level, n_resamples=n_resamples, method=method,
                                   random_state=np.random.default_rng(seed)).confidence_interval
        if np.isfinite(ends).all():
            return float(ends.low), float(ends.high)
    return None


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
        """What no exact test on n pairs can go below: all signs alike are 2 of 2^n flips, 2^(1 - n)."""
        return 2.0 ** (1 - self.n)


def paired(first: Mapping[Block, float], second: Mapping[Block, float], level: float = 0.95,
           seed: int = 0) -> PairedTest:
    """Compare two strategies on the same blocks; the seed is that of flips that are drawn.

    >>> test = paired({0: 0.75, 1: 0.875, 2: 1.0}, {0: 0.5, 1: 0.75, 2: 0.5})
    >>> test.p_permutation, test.smallest_p, test.rank_biserial
    (0.25, 0.25, 1.0)
    """
    from scipy import stats

    values = _values({"first": first, "second": second})
    scale = float(abs(values).max())
    d = np.sign(values[0] - values[1]) * _tied(np.append(abs(values[0] - values[1]), 0.0), scale)[:-1]
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
    _values({"p": p_values})
    largest, adjusted = 0.0, dict(p_values)
    for i, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if not 0 <= p_values[name] <= 1:
            raise ConfigError(f"the p-value of '{name}' is {p_values[name]!r}; expected one from 0 to 1")
        largest = adjusted[name] = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
    return adjusted


def mean_ranks(table: Table[Block], higher_is_better: bool = True) -> dict[str, float]:
    """The mean over blocks of each strategy's rank; 1 is the best, ties share the mean of their ranks.

    >>> mean_ranks({"er": {0: 0.8, 1: 0.9}, "naive": {0: 0.2, 1: 0.9}})
    {'er': 1.25, 'naive': 1.75}
    """
    from scipy import stats

    scores = _tied(_values(table))
    ranks = stats.rankdata(-scores if higher_is_better else scores, axis=0)
    return dict(zip(table, ranks.mean(axis=1).tolist(), strict=True))


def friedman(table: Table[Block]) -> float:
    """The p-value of equal strategies, by chi-squared with k - 1 degrees of freedom (Friedman, JASA 32, 1937).

    Corrected for ties; conservative for few blocks (Iman & Davenport, Communications in Statistics 9, 1980).

    Raises:
        ConfigError: fewer than three strategies.

    >>> round(friedman({"a": {0: 3, 1: 3}, "b": {0: 2, 1: 2}, "c": {0: 1, 1: 1}}), 4)  # chi-squared = 4, exp(-2)
    0.1353
    """
    from scipy import stats

    scores = _tied(_values(table))
    if len(scores) < 3:
        raise ConfigError(f"friedman() compares three strategies or more, got {len(scores)}; use paired() for two")
    return 1.0 if (scores == scores[0]).all() else float(stats.friedmanchisquare(*scores).pvalue)


def critical_difference(n_strategies: int, n_blocks: int, alpha: float = 0.05) -> float:
    """Mean ranks of k strategies over N blocks differ if by at least q_alpha sqrt(k (k + 1) / (6 N)).

    q_alpha is the studentized range's for infinite degrees of freedom over sqrt(2) (Nemenyi, Distribution-free Multiple
    Comparisons, 1963; Demsar, 2006, section 3.2.2).

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    from scipy import stats

    _fraction("alpha", alpha)
    if n_strategies < 2 or n_blocks < 1:
        raise ConfigError(f"expected two strategies or more and a block, got {n_strategies} and {n_blocks}")
    q = float(stats.studentized_range.ppf(1 - alpha, n_strategies, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_strategies * (n_strategies + 1) / (6 * n_blocks))


def cliques(ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """The maximal groups of strategies, two or more, whose ranks all lie within less than a difference; best first.

    >>> cliques({"a": 1.0, "b": 1.5, "c": 2.25, "d": 4.0}, 1.0)
    [('a', 'b'), ('b', 'c')]
    """
    _values({"ranks": ranks})
    names = sorted(ranks, key=ranks.__getitem__)
    groups = [tuple(name for name in names[i:] if ranks[name] - ranks[best] < difference)
              for i, best in enumerate(names)]
    return [group for before, group in zip([(), *groups], groups, strict=False)
            if len(group) > 1 and not set(group) <= set(before)]


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """How alike two phases rank the same strategies; correlations are None where a phase ranks all equal.

    Attributes:
        kendall_tau: tau-b, which corrects for ties (Kendall, Biometrika 33, 1945).
        spearman: the correlation of the ranks (Spearman, American Journal of Psychology 15, 1904).
        ranks: each strategy's rank in the first phase and in the second; 1 is the best.
    """

    kendall_tau: float | None
    spearman: float | None
    ranks: Mapping[str, tuple[float, float]]


def rank_agreement(first: Mapping[str, float], second: Mapping[str, float],
                   higher_is_better: bool = True) -> RankAgreement:
    """Compare how two phases, as tuning and evaluation, rank strategies: by rank alone, as data differ in difficulty.

    >>> rank_agreement({"er": 0.9, "si": 0.5, "naive": 0.2}, {"er": 0.7, "si": 0.1, "naive": 0.3}).ranks
    {'er': (1.0, 1.0), 'si': (2.0, 3.0), 'naive': (3.0, 2.0)}
    """
    from scipy import stats

    _values({"first": first, "second": second})
    phases = [mean_ranks({name: {0: value} for name, value in phase.items()}, higher_is_better)
              for phase in (first, second)]
    x, y = ([ranks[name] for name in first] for ranks in phases)
    is_constant = min(len(set(x)), len(set(y))) == 1
    return RankAgreement(
        kendall_tau=None if is_constant else float(stats.kendalltau(x, y).statistic),
        spearman=None if is_constant else float(stats.spearmanr(x, y).statistic),
        ranks={name: (phases[0][name], phases[1][name]) for name in first})


def _fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name}={value!r} is not between 0 and 1")


def _values(table: Table[Block]) -> Array:
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


def _tied(values: Array, scale: float | None = None) -> Array:
    """The values, each group that differs by rounding alone made equal to its smallest."""
    scale = float(abs(values).max()) if scale is None else scale
    levels, places = np.unique(values.ravel(), return_inverse=True)
    is_first = np.diff(levels, prepend=-np.inf) > _ROUNDING * scale
    tied: Array = levels[is_first][np.cumsum(is_first)[places] - 1].reshape(values.shape)
    return tied
