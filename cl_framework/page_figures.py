"""The figures of the report page, each a function from numbers to a Vega-Lite specification.

Vega-Lite: Satyanarayan, Moritz, Wongsuphasawat & Heer, A Grammar of Interactive Graphics, IEEE TVCG 23(1), 2017. Texts
of runs are data of a figure and never part of an expression. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cl_framework.columns import is_labelled
from cl_framework.estimates import estimate
from cl_framework.page_curves import MOST_EXPERIENCES, Point
from cl_framework.page_parts import Figure, Square
from cl_framework.page_specs import PERCENT, Spec, by, choice, domain, framed, hover
from cl_framework.page_theme import Theme
from cl_framework.sheets import Sheet
from cl_framework.wandb_keys import HEAT_TURN

_ROW = 30
_HEIGHT = 280
_WIDEST_SPREAD = 20.0
_LOG = {"type": "log", "nice": False, "padding": 15}
SECONDS = "seconds"
"""The field of a summary that costs are read from; it is beside its metrics."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A metric on an axis of a figure."""

    metric: str
    title: str
    scale: float = PERCENT


def intervals(sheet: Sheet, theme: Theme) -> Figure | None:
    """The mean of each strategy with its 95 % interval, and each run; None where no run has the metric."""
    scale, name = (100 if sheet.measure.is_percent else 1), sheet.measure.name.replace("_", " ")
    title = f"{name} in %" if sheet.measure.is_percent else name
    rows, runs = list[Spec](), list[Spec]()
    for label, each in zip(sheet.labels, sheet.rows, strict=True):
        found = estimate(each, sheet.measure.name)
        if found is None:
            continue
        ends = (None, None) if found.interval is None else (scale * found.interval[0], scale * found.interval[1])
        rows.append({"label": label, "mean": scale * found.stat.mean, "low": ends[0], "high": ends[1]})
        runs += [{"label": label, "value": scale * value} for value in found.values.values()]
    if not rows:
        return None
    y = {"field": "label", "type": "nominal", "sort": [*sheet.labels], "title": None, "axis": {"labelLimit": 160}}
    known = [end for row in rows for end in (row["mean"], row["low"], row["high"]) if end is not None]
    x = {"type": "quantitative", "title": title, "scale": domain(
        [*known, *(run["value"] for run in runs)], sheet.measure.is_percent)}
    colour = {**by("color", sheet, theme), "legend": None}
    layers = [
        {"data": {"values": runs}, "mark": {"type": "point", "opacity": 0.45, "size": 40, "color": theme.ink},
         "encoding": {"y": y, "x": {**x, "field": "value"}, "tooltip": hover({"label": "strategy", "value": "run"})}},
        {"data": {"values": rows}, "mark": {"type": "rule", "strokeWidth": 2.5},
         "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour}},
        {"data": {"values": rows}, "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
         "encoding": {"y": y, "x": {**x, "field": "mean"}, "color": colour,
                      "shape": {**by("shape", sheet, theme), "legend": None},
                      "tooltip": hover({"label": "strategy", "mean": "mean", "low": "from", "high": "to"})}},
    ]
    return Figure(name="intervals", title=f"{name}: mean, 95 % interval, runs", notes=(
        "Filled marks are means, lines Student's 95 % intervals of the mean, hollow circles single runs."),
        spec=framed(theme, sheet.labels, f"{title}: mean and 95 % interval of each strategy", layer=layers,
                   height=max(_ROW * len(rows), _HEIGHT)))


def curves(sheet: Sheet, found: Sequence[Point], theme: Theme) -> Figure | None:
    """Accuracy or error along the stream with a band of one deviation; None where nothing was measured along it."""
    if not found:
        return None
    what = "accuracy" if is_labelled(sheet.rows) else "online error"
    rows = [{"label": point.label, "place": point.place, "name": point.name, "on": point.on,
             "mean": 100 * point.stat.mean, "std": 100 * (point.stat.std or 0.0),
             "low": max(100 * (point.stat.mean - (point.stat.std or 0.0)), 0.0),
             "high": min(100 * (point.stat.mean + (point.stat.std or 0.0)), 100.0)} for point in found]
    on, places = list(dict.fromkeys(point.on for point in found)), dict.fromkeys(point.place for point in found)
    is_named = len({(point.place, point.name) for point in found}) == len(places) <= MOST_EXPERIENCES
    x = {"field": "name", "type": "nominal", "sort": None,
         "axis": {"labelAngle": 0 if all(point.name.isdigit() for point in found) else -40, "labelLimit": 110}
         } if is_named else {"field": "place", "type": "quantitative", "axis": {"tickMinStep": 1}}
    x |= {"title": f"{'after learning' if is_labelled(sheet.rows) else 'while meeting'} experience"}
    y = {"type": "quantitative", "title": f"{what} in %", "scale": {"zero": True}}
    faded = {"condition": {"test": "only === null || datum.label === only", "value": 1}, "value": 0.12}
    tips = hover({"label": "strategy", "name": "experience", "on": "measured on", "mean": "mean", "std": "deviation"})
    line = {"x": x, "y": {**y, "field": "mean"}, "color": by("color", sheet, theme), "opacity": faded}
    labels = dict.fromkeys(point.label for point in found)
    params = [choice("only", "show ", {None: "all", **{label: label for label in labels}})]
    params += [choice("on", "measured on ", {each: each for each in on})] if len(on) > 1 else []
    layers = [
        {"transform": [{"filter": "only === null || datum.label === only"}],
         "mark": {"type": "area", "opacity": 0.16},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": line["color"]}},
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {
            **line, "strokeDash": {**by("strokeDash", sheet, theme), "legend": None}}},
        {"mark": {"type": "point", "filled": True, "size": 55},
         "encoding": {**line, "shape": by("shape", sheet, theme), "tooltip": tips}},
    ]
    return Figure(name="curves", title=f"{what} over the stream", notes=(
        "Lines are means over runs, bands one standard deviation."), spec=framed(
            theme, sheet.labels, f"{what} in % {x['title']}, a line for each strategy", params=params, layer=layers,
            height=_HEIGHT, data={"values": rows}, transform=[{"filter": "datum.on === on"}] if len(on) > 1 else []))


def plane(sheet: Sheet, x: Axis, y: Axis, name: str, title: str, theme: Theme, notes: str = "") -> Figure | None:
    """Two metrics against each other: a large mark a strategy, a small one a run; None where one was not measured."""
    rows: list[Spec] = [
        {"label": label, "x": x.scale * _value(run.metrics, run.seconds, x.metric),
         "y": y.scale * _value(run.metrics, run.seconds, y.metric)}
        for label, each in zip(sheet.labels, sheet.rows, strict=True) for run in each.runs
        if _has(run.metrics, run.seconds, x.metric) and _has(run.metrics, run.seconds, y.metric)]
    if not rows:
        return None
    low, high = (end(row["x"] for row in rows) for end in (min, max))
    is_log = x.metric == SECONDS and low > 0 and high / low > _WIDEST_SPREAD
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x.title,
              "scale": _LOG if is_log else {"zero": True, "nice": True} if x.metric == SECONDS else
              domain([row["x"] for row in rows], is_percent=True)},
        "y": {"field": "y", "type": "quantitative", "title": y.title, "scale": domain(
            [row["y"] for row in rows], is_percent=y.scale == PERCENT)},
        "color": by("color", sheet, theme), "shape": by("shape", sheet, theme)}
    tips = hover({"label": "strategy", "x": x.title, "y": y.title})
    mean = [{"aggregate": [{"op": "mean", "field": field, "as": field} for field in "xy"], "groupby": ["label"]}]
    layers = [{"mark": {"type": "point", "size": 40, "opacity": 0.7}, "encoding": {**encoding, "tooltip": tips}},
              {"transform": mean, "mark": {"type": "point", "filled": True, "size": 150, "opacity": 1},
               "encoding": {**encoding, "tooltip": tips}}]
    return Figure(name=name, title=title, notes=f"Small marks are runs, large ones their means.{notes}",
                  spec=framed(theme, sheet.labels, f"{y.title} against {x.title}", data={"values": rows}, layer=layers,
                             height=_HEIGHT))


def heat_map(square: Square, theme: Theme) -> Figure:
    """An accuracy matrix: experience learned (rows) against experience asked for (columns); numbers where few."""
    n = len(square.rows)
    rows = [{"after": after, "on": on, "value": 100 * value}
            for after, row in enumerate(square.rows) for on, value in enumerate(row) if value is not None]
    x = {"field": "on", "type": "ordinal", "title": "accuracy on experience", "axis": {
        "orient": "top", "labelAngle": 0, "labelOverlap": True}}
    y = {"field": "after", "type": "ordinal", "title": "after experience", "axis": {"labelOverlap": True}}
    ramp = {"field": "value", "type": "quantitative", "scale": {"domain": [0, 100], "range": [0.04, 1]}, "legend": None}
    layers: list[Spec] = [{"mark": {"type": "rect", "color": theme.heat}, "encoding": {
        "x": x, "y": y, "fillOpacity": ramp,
        "tooltip": hover({"after": "after experience", "on": "on experience", "value": "accuracy in %"})}}]
    if n <= MOST_EXPERIENCES:
        ink = {"value": theme.on_pale, "condition": {
            "test": f"datum.value > {100 * HEAT_TURN:g}", "value": theme.on_heat}}
        layers.append({"mark": {"type": "text", "fontSize": 11}, "encoding": {
            "x": x, "y": y, "text": {"field": "value", "format": ".1f"}, "color": ink}})
    return Figure(name=f"matrix {square.label}", title=f"accuracy matrix of {square.label}", spec=framed(
        theme, [], f"accuracy in % of {square.label} on each experience after each experience",
        data={"values": rows}, layer=layers, height=min(28 * n + 10, 420)))


def ranks(places: Mapping[str, Sequence[float]], title: str, theme: Theme) -> Figure:
    """The place of each strategy in tuning and in evaluation, joined by a line."""
    rows = [{"label": label, "phase": phase, "rank": rank} for label, pair in places.items()
            for phase, rank in zip(("tuning", "evaluation"), pair, strict=True)]
    labels, scales = [*places], theme.series_of([*places])
    encoding: Spec = {
        "x": {"field": "phase", "type": "nominal", "sort": None, "title": None,
              "axis": {"labelAngle": 0, "orient": "top"}, "scale": {"padding": 0.2}},
        "y": {"field": "rank", "type": "quantitative", "title": "rank (1 is the best)", "axis": {"tickMinStep": 1},
              "scale": {"reverse": True, "domain": [0.7, len(labels) + 0.3], "nice": False}}}
    encoding |= {channel: {"field": "label", "type": "nominal", "scale": scales[channel], "legend": {}}
                 for channel in ("color", "shape")}
    dash = {"field": "label", "type": "nominal", "scale": scales["strokeDash"], "legend": None}
    tips = hover({"label": "strategy", "phase": "phase", "rank": "rank"})
    layers = [{"mark": {"type": "line", "strokeWidth": 2}, "encoding": {
        **{channel: encoding[channel] for channel in ("x", "y", "color")}, "strokeDash": dash}},
        {"mark": {"type": "point", "filled": True, "size": 90, "opacity": 1}, "encoding": {**encoding,
                                                                                           "tooltip": tips}}]
    return Figure(name="ranks", title=title, notes="Where lines cross, the phases disagree on the order.",
                  spec=framed(theme, labels, title, data={"values": rows}, layer=layers, height=40 * len(labels) + 40))


def _has(metrics: Mapping[str, float], seconds: float | None, name: str) -> bool:
    return seconds is not None if name == SECONDS else name in metrics


def _value(metrics: Mapping[str, float], seconds: float | None, name: str) -> float:
    return (seconds or 0.0) if name == SECONDS else metrics[name]


def of_sheet(sheet: Sheet, found: Sequence[Point], theme: Theme) -> Iterator[Figure]:
    """The figures of a table, in the order of the page, but for its matrices."""
    labelled = is_labelled(sheet.rows)
    scale, name = (100.0 if sheet.measure.is_percent else 1.0), sheet.measure.name.replace("_", " ")
    main = Axis(metric=sheet.measure.name, title=f"{name} in %" if sheet.measure.is_percent else name, scale=scale)
    balance = (Axis(metric="learning_accuracy", title="plasticity: learning accuracy in %"),
               Axis(metric="stability", title="stability: accuracy on earlier experiences in %")) if labelled else (
        Axis(metric="online_error", title="adaptation: online error in %"),
        Axis(metric="source_forgetting", title="stability: source forgetting in %"))
    corner = " The upper right corner is the best." if labelled else " The lower left corner is the best."
    best = f" The {'upper' if sheet.measure.is_higher_better else 'lower'} left corner is the best."
    drawn = (intervals(sheet, theme), curves(sheet, found, theme),
             plane(sheet, *balance, "stability and plasticity", "stability against plasticity", theme, corner),
             plane(sheet, Axis(metric=SECONDS, title="training time in seconds", scale=1.0), main, "cost",
                   f"cost against {name}", theme, best))
    return (figure for figure in drawn if figure is not None)
