"""A strategy's own figures, as a run records them: finite numbers by name."""

from __future__ import annotations

import math

from cl_framework.errors import PluginError
from cl_framework.strategy import Strategy


def own_figures(strategy: Strategy) -> dict[str, float]:
    """The strategy's own figures; those that are not finite are left out.

    Raises:
        PluginError: one is no number.
    """
    own: dict[str, float] = {}
    for name, value in strategy.metrics().items():
        try:
            own[name] = float(value)
        except (TypeError, ValueError):
            raise PluginError(f"metrics() give '{name}' as {value!r}; expected a number") from None
    return {name: value for name, value in own.items() if math.isfinite(value)}
