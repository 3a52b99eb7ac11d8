"""What reward cost, for the report page: a table and a figure of the strategies that count their replies.

    efficiency   the reference's cost of its own best reward / the row's cost of that reward
    asymptote    A of R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B), fitted through five points or more

Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 4; see `fast_slow_metrics`. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from cl_framework.fast_slow_metrics import Curve, efficiency, running_peak, saturation
from cl_framework.groups import Group
from cl_framework.page_parts import Cell, Figure, Grid
from cl_framework.page_specs import PERCENT, Spec, by, framed, hover
from cl_framework.page_theme import Theme
from cl_framework.reward_curves import COSTS, Spent, curve, spent
from cl_framework.sheets import Sheet

_NONE = Cell("-")
_COUNTS = {"samples": "samples", "rollouts": "replies", "reflector_calls": "prompts asked for"}
_NATS = {"kl_seed_held_out": "KL, seed prompt", "kl_best_held_out": "KL, best prompt"}
_HEIGHT = 280
Rows = Mapping[str, Sequence[Spent]]
"""Points by the label of their row; rows without any are left out."""


def rewards(sheet: Sheet) -> Rows:
    """What each strategy of a table had spent and reached along the stream."""
    found = {label: spent(each) for label, each in zip(sheet.labels, sheet.rows, strict=True)}
    return {label: points for label, points in found.items() if points}


def reward_table(sheet: Sheet, found: Rows) -> Grid | None:
    """Reward, its cost, and how both go together; None where nothing counts its replies."""
    if not found:
        return None
    reference = found.get(sheet.against or "")
    headings = ["strategy", "reward at the end", "best on the way", *_COUNTS.values(), *_NATS.values(),
                *(f"asymptote by {name}" for name in COSTS.values()),
                *(f"efficiency in {name}" for name in COSTS.values() if reference is not None)]
    rows = []
    for label, each in zip(sheet.labels, sheet.rows, strict=True):
        if label in found:
            curves = {name: curve(found[label], name) for name in COSTS}
            rows.append((
                Cell(label), _percent(found[label][-1].reward), _percent(max(point.reward for point in found[label])),
                *(_metric(each, name, 1, ".0f") for name in _COUNTS),
                *(_metric(each, name, 1000, ".0f") for name in _NATS), *(_asymptote(own) for own in curves.values()),
                *(_efficiency(curves[name], curve(reference, name)) for name in COSTS if reference is not None)))
    notes = ["reward on the held-out problems of the whole stream in %, mean over runs; samples are problems that "
             "weights learned from, replies all that were drawn; KL from the base in thousandths of a nat a token, on "
             "problems that are neither learned nor tested",
             "asymptote: where a curve through at least five experiences would end; a dash where there are fewer, or "
             "where the fit does not end between 0 and 100 %"]
    notes += ["give against=STRATEGY for efficiency: how many times fewer samples and replies than that strategy a row "
              "needs for that strategy's best reward"] if reference is None else [
        f"efficiency: how many times fewer than {sheet.against} a row needs for the best reward of {sheet.against}; 0 "
        "where it never has it"]
    return Grid(caption="reward and what it cost", headings=tuple(headings), rows=tuple(rows), notes=tuple(notes))


def along_rewards(found: Rows) -> Grid | None:
    """Every point of the figures; None where there is none."""
    rows = [(Cell(label), Cell(str(point.place), point.place), _percent(point.reward), *(
        Cell(f"{point.costs[name]:.0f}", point.costs[name]) for name in COSTS))
        for label, points in found.items() for point in points]
    return Grid(caption="reward and what had been spent, after each experience", rows=tuple(rows), headings=(
        "strategy", "experience", "reward in %", *COSTS.values())) if rows else None


def reward_figures(sheet: Sheet, found: Rows, theme: Theme) -> Iterator[Figure]:
    """Reward by replies and by samples, of the strategies that spend some and have two points at least."""
    for name, called in COSTS.items():
        rows = [{"label": label, "x": point.costs[name], "y": PERCENT * point.reward, "name": point.place}
                for label, points in found.items() if len(points) > 1 and points[-1].costs[name] > 0
                for point in points]
        if rows:
            yield _figure(sheet, rows, called, theme)


def _figure(sheet: Sheet, rows: Sequence[Spec], called: str, theme: Theme) -> Figure:
    x: Spec = {"field": "x", "type": "quantitative", "title": called, "scale": {"zero": True}}
    y: Spec = {"field": "y", "type": "quantitative", "title": "reward in %", "scale": {"zero": True}}
    encoding = {"x": x, "y": y, "color": by("color", sheet, theme)}
    told = hover({"label": "strategy", "name": "after experience", "x": called, "y": "reward in %"})
    layers = [{"mark": {"type": "line", "strokeWidth": 2}, "encoding": {
        **encoding, "strokeDash": {**by("strokeDash", sheet, theme), "legend": None}}},
        {"mark": {"type": "point", "filled": True, "size": 55}, "encoding": {
            **encoding, "shape": by("shape", sheet, theme), "tooltip": told}}]
    return Figure(name=f"reward by {called}", title=f"reward by {called}", notes=(
        "On the held-out problems of the whole stream after each experience, means over runs."), spec=framed(
            theme, sheet.labels, f"reward in % by {called}, a line for each strategy", layer=layers, height=_HEIGHT,
            data={"values": rows}))


def _metric(each: Group, name: str, scale: float, form: str) -> Cell:
    stat = each.metrics.get(f"strategy/{name}")
    return _NONE if stat is None else Cell(format(scale * stat.mean, form), stat.mean)


def _percent(value: float) -> Cell:
    return Cell(f"{PERCENT * value:.1f}", value)


def _asymptote(own: Curve) -> Cell:
    fitted = saturation(own)
    return _NONE if fitted is None or not 0 <= fitted.asymptote <= 1 else _percent(fitted.asymptote)


def _efficiency(own: Curve, reference: Curve) -> Cell:
    """The ratio of costs, where both have that cost and the reference was ever rewarded."""
    if own[-1][0] == 0 or reference[-1][0] == 0 or running_peak(reference)[-1][1] == 0:
        return _NONE
    found = efficiency(own, reference)
    return Cell(f"{found:.1f}", found) if math.isfinite(found) else _NONE
