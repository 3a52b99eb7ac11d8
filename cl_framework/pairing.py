"""The strategies of one table, compared on the (order seed, seed) pairs that they share. Imports no torch.

Each strategy is compared with one reference: `statistics.paired`, its p-values adjusted by `statistics.holm`. All of
them together are ranked: `ranks.mean_ranks`, `ranks.friedman`, `ranks.critical_difference`. Pairs that share one of
several orders are not independent, so they are averaged and the order counts once; else each pair counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.ranks import cliques, critical_difference, friedman, mean_ranks
from cl_framework.registry import unknown
from cl_framework.statistics import PairedTest, holm, paired
from cl_framework.summaries import Block

Values = Mapping[str, Mapping[Block, float]]
"""Strategy -> (order seed, seed) -> its number there."""

FEWEST = 2
"""Pairs that two strategies must share to be compared."""
ALPHA = 0.05
"""The error that critical differences and sentences about too few pairs speak of."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One strategy less the reference.

    Attributes:
        strategy: which.
        test: the paired test over orders where pairs share one of several, else over pairs.
        p_holm: its permutation p, adjusted for all contrasts with the reference.
        n_pairs: how many pairs the two share.
        left_out: pairs that one of the two lacks.
    """

    strategy: str
    test: PairedTest
    p_holm: float
    n_pairs: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The reference and all that are compared with it, ranked where all of them have runs.

    Attributes:
        mean_ranks: strategy -> mean rank; 1 is the best.
        n: blocks that were ranked: orders where pairs share one of several, else pairs.
        left_out: pairs that at least one of them lacks.
        friedman_p: of equal strategies; None for two.
        critical_difference: of mean ranks, at an error of 0.05.
        cliques: groups of strategies that are not told apart by it.
    """

    mean_ranks: Mapping[str, float]
    n: int
    left_out: int
    friedman_p: float | None
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """What the shared pairs of a table's strategies say.

    Attributes:
        metric: what was compared.
        is_higher_better: which way is up.
        is_percent: whether it is a fraction, shown in percent.
        reference: with which each other strategy is compared.
        is_chosen: the reference was named; else it is the one with the best mean.
        contrasts: the others, the best first.
        apart: strategies that share fewer than two pairs with the reference.
        unit: what is counted: "pair" or "order".
        ranking: None where fewer than two blocks have runs of all.
    """

    metric: str
    is_higher_better: bool
    is_percent: bool
    reference: str
    is_chosen: bool
    contrasts: tuple[Contrast, ...]
    apart: tuple[str, ...]
    unit: str
    ranking: Ranking | None

    def plain(self) -> dict[str, Any]:
        """As plain data, not rounded."""
        contrasts = [{"strategy": each.strategy, "n_pairs": each.n_pairs, "left_out": each.left_out,
                      **asdict(each.test), "interval": None if each.test.interval is None else list(each.test.interval),
                      "smallest_p": each.test.smallest_p, "p_holm": each.p_holm} for each in self.contrasts]
        ranking = None if self.ranking is None else {
            **asdict(self.ranking), "cliques": [list(group) for group in self.ranking.cliques]}
        return {**asdict(self), "contrasts": contrasts, "apart": list(self.apart), "ranking": ranking}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric as a comparison needs it: its name, which way is up, and whether it is a fraction."""

    name: str = "average_accuracy"
    is_higher_better: bool = True
    is_percent: bool = True


DEFAULT = Measure()
"""What strategies are compared by when nothing is asked for."""
ONLINE_ERROR = Measure(name="online_error", is_higher_better=False)
"""The same on unlabelled streams."""


def pair(values: Values, measure: Measure, reference: str | None = None) -> Pairing | None:
    """Compare strategies on the pairs that they share; None where no two share enough.

    Args:
        values: strategy -> block -> number; finite.
        measure: what the numbers are.
        reference: the strategy to compare with; the one with the best mean when None.

    Raises:
        ConfigError: there is no such strategy.
    """
    if reference is not None and reference not in values:
        raise ConfigError(unknown("strategy", reference, values))
    sign = 1 if measure.is_higher_better else -1
    means = {name: sign * fmean(row.values()) for name, row in values.items() if row}
    partners = {name: [other for other in values if other != name and len({*values[name]} & {*values[other]}) >= FEWEST]
                for name in means}
    able = [name for name in means if partners[name]]
    chosen = max(able, key=means.__getitem__, default=None) if reference is None else reference
    if chosen is None or not partners.get(chosen):
        return None
    others = sorted(partners[chosen], key=means.__getitem__, reverse=True)
    shared = {name: {*values[name]} & {*values[chosen]} for name in others}
    tests = {name: paired(_units(values[name], shared[name]), _units(values[chosen], shared[name])) for name in others}
    adjusted = holm({name: test.p_permutation for name, test in tests.items()})
    contrasts = tuple(Contrast(
        strategy=name, test=tests[name], p_holm=adjusted[name], n_pairs=len(shared[name]),
        left_out=len({*values[name]} | {*values[chosen]}) - len(shared[name])) for name in others)
    is_by_order = any(each.test.n < each.n_pairs for each in contrasts)
    return Pairing(
        metric=measure.name, is_higher_better=measure.is_higher_better, is_percent=measure.is_percent, reference=chosen,
        is_chosen=reference is not None, contrasts=contrasts, unit="order" if is_by_order else "pair",
        apart=tuple(name for name in values if name != chosen and name not in others),
        ranking=_ranking({name: values[name] for name in (chosen, *others)}, measure.is_higher_better))


def repeated_orders(blocks: Collection[Block]) -> list[int | None] | None:
    """The order of each block, where there are several and one of them has several blocks; else None.

    >>> repeated_orders([(0, 0), (0, 1), (1, 0)]), repeated_orders([(0, 0), (1, 1)]), repeated_orders([(0, 0), (0, 1)])
    ([0, 0, 1], None, None)
    """
    orders = [order for order, _ in blocks]
    return orders if 1 < len(set(orders)) < len(orders) else None


def _units(row: Mapping[Block, float], shared: Collection[Block]) -> dict[Block, float]:
    """The numbers on shared blocks; their means over the blocks of an order where `repeated_orders` says so."""
    blocks = sorted(shared, key=lambda block: (-1 if block[0] is None else block[0], block[1]))
    orders = repeated_orders(blocks)
    if orders is None:
        return {block: row[block] for block in blocks}
    return {(order, 0): fmean(row[block] for block in blocks if block[0] == order) for order in dict.fromkeys(orders)}


def _ranking(values: Values, is_higher_better: bool) -> Ranking | None:
    shared = set.intersection(*({*row} for row in values.values()))
    if len(shared) < FEWEST:
        return None
    table = {name: _units(row, shared) for name, row in values.items()}
    ranks, n = mean_ranks(table, is_higher_better), len(next(iter(table.values())))
    difference = critical_difference(len(ranks), n, ALPHA)
    everything = set.union(*({*row} for row in values.values()))
    return Ranking(mean_ranks=ranks, n=n, left_out=len(everything) - len(shared), critical_difference=difference,
                   friedman_p=friedman(table) if len(ranks) > 2 else None, cliques=tuple(cliques(ranks, difference)))
