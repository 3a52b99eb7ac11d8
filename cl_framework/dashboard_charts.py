"""The charts of the W&B dashboard that W&B has none of, in Vega-Lite: the accuracy matrix, and the plane over seeds.

W&B puts the rows of a run's table, with the run's name as `name`, in the place of the data, and columns in the place of
`${field:...}`; its `id` tells runs of one name apart. Colours are those of Okabe & Ito (2008).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cl_framework.dashboard_panels import CHART_OF_MATRIX, CHART_OF_PLANE
from cl_framework.page_theme import PAPER
from cl_framework.wandb_keys import HEAT_TURN

_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_PERCENT = ".1%"


def _field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"field": f"${{field:{name}}}", "type": kind, **more}


def _tip(title: str, name: str, kind: str = "nominal", **more: Any) -> dict[str, Any]:
    return _field(name, kind, title=title, **more)


def _matrix() -> dict[str, Any]:
    """A heat map for each run; a cell says its number, and is outlined under the pointer."""
    place = {"x": _field("on", "ordinal", title="on experience"),
             "y": _field("after", "ordinal", title="after learning experience")}
    tips = [{"field": "run"}, _tip("after learning", "after"), _tip("on", "on"),
            _tip("accuracy", "accuracy", "quantitative", format=".2%")]
    cells = {"params": [{"name": "pointed", "select": {"type": "point", "on": "pointerover", "clear": "pointerout"}}],
             "mark": {"type": "rect", "tooltip": True, "stroke": PAPER.ink},
             "encoding": {"color": _field("accuracy", "quantitative", title="accuracy",
                                          scale={"domain": [0, 1], "range": ["#ffffff", PAPER.heat],
                                                 "interpolate": "rgb"},
                                          legend={"format": ".0%"}),
                          "strokeWidth": {"condition": {"param": "pointed", "empty": False, "value": 2}, "value": 0},
                          "tooltip": tips}}
    words = {"mark": {"type": "text", "fontSize": 11},
             "encoding": {"text": _field("accuracy", "quantitative", format=_PERCENT),
                          "color": {"value": PAPER.on_pale, "condition": {
                              "test": f"datum['${{field:accuracy}}'] > {HEAT_TURN}", "value": PAPER.on_heat}}}}
    return {"$schema": _SCHEMA, "data": {"name": "wandb"}, "title": "${string:title}", "columns": 3,
            "transform": [{"calculate": "datum.name + ' ' + datum.id", "as": "run"}],
            "facet": {"field": "run", "type": "nominal", "title": None},
            "spec": {"width": {"step": 44}, "height": {"step": 26}, "encoding": place, "layer": [cells, words]}}


def _plane() -> dict[str, Any]:
    """A point for each run, and a large one for the mean of each group; it can be moved and zoomed."""
    colour = _field("strategy", "nominal", title="strategy", scale={"range": list(PAPER.series)})
    both = {"scale": {"zero": False, "nice": False, "padding": 16}, "axis": {"format": _PERCENT, "tickCount": 6}}
    x = {**both, "title": "plasticity: learning accuracy"}
    y = {**both, "title": "stability: accuracy on earlier experiences"}
    tips = [_tip(name, name) for name in ("scenario", "strategy", "group")]
    runs = {"params": [{"name": "moved", "select": "interval", "bind": "scales"}],
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.5},
            "encoding": {"x": _field("learning_accuracy", "quantitative", **x),
                         "y": _field("stability", "quantitative", **y),
                         "tooltip": [*tips, _tip("seed", "seed"),
                                     _tip("plasticity", "learning_accuracy", "quantitative", format=".2%"),
                                     _tip("stability", "stability", "quantitative", format=".2%")]}}
    means = {"mark": {"type": "point", "filled": True, "size": 220, "stroke": PAPER.ink},
             "encoding": {"x": _field("learning_accuracy", "quantitative", aggregate="mean", **x),
                          "y": _field("stability", "quantitative", aggregate="mean", **y),
                          "detail": _field("group", "nominal"),
                          "tooltip": [*tips, {"aggregate": "count", "title": "runs"}]}}
    return {"$schema": _SCHEMA, "data": {"name": "wandb"}, "title": "${string:title}", "width": 360, "height": 320,
            "encoding": {"color": colour, "shape": _field("strategy", "nominal", title="strategy")},
            "layer": [runs, means]}


def charts() -> Mapping[str, Mapping[str, Any]]:
    """The charts by name."""
    return {CHART_OF_MATRIX: _matrix(), CHART_OF_PLANE: _plane()}
