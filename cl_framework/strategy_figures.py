"""A strategy's own figures, as a run records them: finite numbers by name."""

from __future__ import annotations

import logging
import math

from cl_framework.errors import PluginError
from cl_framework.experience_figures import is_figure
from cl_framework.strategy import Strategy

log = logging.getLogger(__name__)


def own_figures(strategy: Strategy) -> dict[str, float]:
    """The strategy's own figures; NaN is what was not measured, and one that is infinite, or beyond 1e100, is left out
    with a warning.

    Raises:
        PluginError: one is no number.
    """
    own: dict[str, float] = {}
    for name, value in strategy.metrics().items():
        try:
            own[name] = float(value)
        except (TypeError, ValueError):
            raise PluginError(f"metrics() give '{name}' as {value!r}; expected a number") from None
    for name in (name for name, value in own.items() if not (is_figure(value) or math.isnan(value))):
        log.warning("metrics() give '%s' as %s; it is left out of the tables", name, own[name])
    return {name: value for name, value in own.items() if is_figure(value)}
