"""What a metric is, and which are installed: a pure function of a `StreamRecord` with a name, an axis and a source."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from cl_framework.errors import ClfError, PluginError
from cl_framework.experience_figures import is_figure
from cl_framework.offers import imported, usable
from cl_framework.record import StreamRecord

_LOG = logging.getLogger(__name__)

Axis = Literal["stability", "plasticity", "transfer", "cost", "calibration", "drift"]
"""What a metric speaks of."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A named number of a run; called on a record it gives the number, NaN where it is absent.

    Attributes:
        function: the number from a record.
        name: its name in summaries; it carries the definition where the field disagrees ("forgetting/max").
        axis: what it speaks of.
        higher_is_better: which way is up.
        formula: in terms of R, k rows done.
        source: where the definition comes from.
        is_share: whether it is a fraction, which reports show in percent; never on the axes of cost and drift.
    """

    function: Callable[[StreamRecord], float]
    name: str
    axis: Axis
    higher_is_better: bool
    formula: str
    source: str
    is_share: bool = True

    def __post_init__(self) -> None:
        if self.axis not in get_args(Axis):
            raise PluginError(f"metric '{self.name}' has axis '{self.axis}'; choose among {', '.join(get_args(Axis))}")
        vars(self)["__doc__"] = self.function.__doc__
        vars(self)["__wrapped__"] = self.function

    def __call__(self, record: StreamRecord) -> float:
        """The number, NaN where it is absent."""
        return float(self.function(record))


def metric(*, name: str, axis: Axis, higher_is_better: bool, formula: str, source: str,
           is_share: bool = True) -> Callable[[Callable[[StreamRecord], float]], Metric]:
    """Make a function of a record a `Metric`.

    >>> @metric(name="worst", axis="stability", higher_is_better=True, formula="min_j R[k-1, j]", source="ours")
    ... def worst(record: StreamRecord) -> float:
    ...     return float(record.accuracy[record.n_done - 1].min())
    >>> worst.name, worst.axis
    ('worst', 'stability')
    """
    return lambda function: Metric(function, name, axis, higher_is_better, formula, source, is_share)


def compute_all(record: StreamRecord, metrics: Iterable[Metric]) -> dict[str, float]:
    """Every metric that is there, by name; the absent ones are left out, and with a warning those that fail.

    Raises:
        PluginError: two metrics have one name.
    """
    values: dict[str, float] = {}
    for each in metrics:
        if each.name in values:
            raise PluginError(f"two metrics are named '{each.name}'; rename one")
        try:
            values[each.name] = each(record)
        except Exception as error:  # the run behind it is done, and its other numbers stand
            _LOG.warning("metric '%s' is left out, it fails: %s: %s", each.name, type(error).__name__, error)
            values[each.name] = math.nan
        if not (is_figure(values[each.name]) or math.isnan(values[each.name])):
            _LOG.warning("metric '%s' is left out, it is %s", each.name, values[each.name])
    return {name: value for name, value in values.items() if is_figure(value)}


def installed_metrics() -> list[Metric]:
    """The metrics of the entry-point group `cl_framework.metrics`, in the order of their names.

    One that cannot be had (its import fails, it is no metric, another package offers its name, too) is left out, with
    a warning: it is measured after a run, which it may not take down. A name of our own stays ours.
    """
    return list(_installed())


@cache
def _installed() -> tuple[Metric, ...]:
    found: dict[str, Metric] = {}
    for point in usable("metric", "cl_framework.metrics"):
        name = point.name
        try:
            plugin = imported("metric", point)
            if not isinstance(plugin, Metric):
                raise PluginError(f"metric '{name}' is {reprlib.repr(plugin)}; expected a function decorated with "
                                  "@cl_framework.metric(...)")
            if plugin.name in [other.name for other in found.values()]:
                raise PluginError(f"metric '{name}' calls itself '{plugin.name}', as another one does; rename it")
        except ClfError as error:
            _LOG.warning("left out: %s", error)
        else:
            found[name] = plugin
    return tuple(found[name] for name in sorted(found))
