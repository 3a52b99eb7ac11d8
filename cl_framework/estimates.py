"""What a group's runs say of one metric: mean, deviation, intervals, and where the deviation comes from.

Where orders are drawn and some have several training seeds, runs of one order are not independent. The intervals then
count orders (`statistics.t_interval` with clusters), and the deviation is split between orders and within one. Imports
no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from cl_framework.groups import Group, Stat
from cl_framework.pairing import repeated_orders
from cl_framework.statistics import Interval, Split, bootstrap_interval, split_deviation, t_interval
from cl_framework.summaries import Block


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One metric of a group.

    Attributes:
        stat: mean, deviation and n over its runs.
        values: the number of each run, by block.
        interval: Student's 95 % interval of the mean; None for one run, or where the runs are not at hand.
        split: the deviation between orders and within one; None where not both vary.
    """

    stat: Stat
    values: dict[Block, float]
    interval: Interval | None
    split: Split | None

    @property
    def bootstrap(self) -> Interval | None:
        """The 95 % BCa bootstrap interval of the mean."""
        if not self.values:
            return None
        return bootstrap_interval([*self.values.values()], clusters=repeated_orders(self.values))


def estimate(group: Group, metric: str) -> Estimate | None:
    """What a group says of a metric; None where no run has it."""
    if metric not in group.metrics:
        return None
    values = group.values(metric)
    orders = repeated_orders(values)
    return Estimate(stat=group.metrics[metric], values=values,
                    interval=t_interval([*values.values()], clusters=orders) if values else None,
                    split=None if orders is None else split_deviation([*values.values()], orders))
