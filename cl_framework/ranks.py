"""Ranks of many strategies over the blocks that they share, and of the same strategies in two phases. Imports no torch.

Many strategies are compared by `friedman` and by mean ranks with their `critical_difference` (Demsar, JMLR 7, 2006).
Whether two of them differ then depends on which others are in the table, which is not so for `statistics.paired`
(Benavoli, Corani & Mangili, JMLR 17(5), 2016). Values that agree to 12 digits of the largest are tied.

Every function raises ConfigError for no values, a value that is not finite, or a block that not all strategies have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cl_framework.errors import ConfigError
from cl_framework.statistics import Block, Table, as_array, check_fraction, tied


def mean_ranks(table: Table[Block], higher_is_better: bool = True) -> dict[str, float]:
    """The mean over blocks of each strategy's rank; 1 is the best, ties share the mean of their ranks.

    >>> mean_ranks({"er": {0: 0.8, 1: 0.9}, "naive": {0: 0.2, 1: 0.9}})
    {'er': 1.25, 'naive': 1.75}
    """
    from scipy import stats

    scores = tied(as_array(table))
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

    scores = tied(as_array(table))
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

    check_fraction("alpha", alpha)
    if n_strategies < 2 or n_blocks < 1:
        raise ConfigError(f"expected two strategies or more and a block, got {n_strategies} and {n_blocks}")
    q = float(stats.studentized_range.ppf(1 - alpha, n_strategies, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_strategies * (n_strategies + 1) / (6 * n_blocks))


def cliques(ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """The maximal groups of strategies, two or more, whose ranks all lie within less than a difference; best first.

    >>> cliques({"a": 1.0, "b": 1.5, "c": 2.25, "d": 4.0}, 1.0)
    [('a', 'b'), ('b', 'c')]
    """
    as_array({"ranks": ranks})
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

    as_array({"first": first, "second": second})
    phases = [mean_ranks({name: {0: value} for name, value in phase.items()}, higher_is_better)
              for phase in (first, second)]
    x, y = ([ranks[name] for name in first] for ranks in phases)
    is_constant = min(len(set(x)), len(set(y))) == 1
    return RankAgreement(
        kendall_tau=None if is_constant else float(stats.kendalltau(x, y).statistic),
        spearman=None if is_constant else float(stats.spearmanr(x, y).statistic),
        ranks={name: (phases[0][name], phases[1][name]) for name in first})
