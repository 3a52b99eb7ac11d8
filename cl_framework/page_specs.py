"""What Vega-Lite specifications are made of: the frame of a figure, and a strategy's colour, mark and line style.

Vega-Lite: Satyanarayan, Moritz, Wongsuphasawat & Heer, A Grammar of Interactive Graphics, IEEE TVCG 23(1), 2017.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_framework.page_theme import Theme
from cl_framework.sheets import Sheet

PERCENT = 100.0
"""What fractions are multiplied by."""
_LEAST_SPAN = 10.0
Spec = dict[str, Any]
"""A specification, or a part of one."""


def framed(theme: Theme, labels: Sequence[str], description: str, **parts: Any) -> Spec:
    """A figure as wide as its place.

    Args:
        theme: how it looks.
        labels: the strategies in its legend.
        description: what it shows, for those who do not see it.
        parts: the rest.
    """
    return {"description": description, "config": theme.config(labels), "width": "container",
            "autosize": {"type": "fit-x", "contains": "padding"},
            "resolve": {"legend": {"strokeDash": "independent"}}, **parts}


def by(channel: str, sheet: Sheet, theme: Theme) -> Spec:
    """A channel (color, shape, strokeDash) that tells strategies apart, as in every other figure of the table."""
    return {"field": "label", "type": "nominal", "scale": theme.series_of(sheet.labels)[channel], "legend": {}}


def domain(values: Sequence[float], is_percent: bool) -> Spec:
    """A scale of shares that shows ten points at least, so that noise does not fill a figure; any other as it comes."""
    if not is_percent:
        return {"zero": False, "nice": True}
    low, high = min(values), max(values)
    room = max(_LEAST_SPAN - (high - low), 0.1 * (high - low)) / 2
    ends = [max(low - room, 0.0) if low >= 0 else low - room, min(high + room, PERCENT)]
    return {"domain": ends, "nice": False, "padding": 12}


def choice(name: str, text: str, options: Mapping[str | None, str]) -> Spec:
    """What a reader may choose, as a native control: value -> what it is called; the first is chosen at first."""
    return {"name": name, "value": next(iter(options)), "bind": {
        "input": "select", "options": [*options], "labels": [*options.values()], "name": text}}


def hover(fields: Mapping[str, str]) -> list[Spec]:
    """What is shown of a mark that is pointed at: field -> what it is called."""
    numbers = ("mean", "std", "low", "high", "value", "x", "y")
    return [{"field": field, "title": title, **({"type": "quantitative", "format": ".2f"} if field in numbers else
                                                {"type": "nominal"})} for field, title in fields.items()]
