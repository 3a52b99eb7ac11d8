"""What reward cost, for the report page: a table and a figure of the strategies that count their replies.

    efficiency   the reference's cost of its own best reward / the row's cost of that reward
    asymptote    A of R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B), through five points or more, C_mid among them

Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 4; see `fast_slow_metrics`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from cl_framework.columns import percent
from cl_framework.fast_slow_metrics import Curve, efficiency, saturation
from cl_framework.groups import Group
from cl_framework.page_parts import Cell, Figure, Grid
from cl_framework.page_specs import PERCENT, Spec, by, framed, hover
from cl_framework.page_theme import Theme
from cl_framework.reward_curves import COSTS, Spent, curve, spent
from cl_framework.sheets import Sheet

_NONE = Cell("-")
_NATS = {"kl_seed_held_out": "KL, seed prompt", "kl_best_held_out": "KL, best prompt"}
_HEIGHT = 280
_SLACK = 1e-6
_NOTES = (
    "reward on the held-out problems of the whole stream in %, mean over runs; samples are problems whose replies "
    "weights learned from (answers that were taught are none), replies all that were drawn to learn from; KL from the "
    "base in thousandths of a nat a token, on problems that are neither learned nor tested",
    "asymptote: where a curve through at least five experiences would end; a dash where there are fewer or one cost "
    "nothing, where rewards do not differ, and where the curve has not bent or does not end between 0 and 100 %")
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
    headings = ["strategy", "reward at the end", "best on the way", *COSTS.values(), "prompts asked for",
                *_NATS.values(), *(f"asymptote by {name}" for name in COSTS.values()),
                *(f"efficiency in {name}" for name in COSTS.values() if reference is not None)]
    rows = tuple((Cell(label), *_row(each, found[label], reference))
                 for label, each in zip(sheet.labels, sheet.rows, strict=True) if label in found)
    return Grid(caption="reward and what it cost", headings=tuple(headings), rows=rows,
                notes=(*_NOTES, *_about(sheet, found)))


def _row(each: Group, points: Sequence[Spent], reference: Sequence[Spent] | None) -> Iterator[Cell]:
    """The cells of a strategy, behind its name."""
    is_whole = points[-1].place == len(each.runs[0].accuracy_matrix) - 1
    yield _percent(points[-1].reward) if is_whole else _NONE
    yield _percent(max(point.reward for point in points))
    yield from (_whole(points[-1].costs[name]) for name in COSTS)
    asked = each.metrics.get("strategy/reflector_calls")
    yield _NONE if asked is None else _whole(asked.mean)
    yield from (_nats(each, name) for name in _NATS)
    yield from (_asymptote(curve(points, name)) for name in COSTS)
    if reference is not None:
        yield from (_efficiency(curve(points, name), curve(reference, name)) for name in COSTS)


def _about(sheet: Sheet, found: Rows) -> Iterator[str]:
    """What is said of efficiency, and of rows that are left out."""
    if sheet.against is None:
        yield "give against=STRATEGY for efficiency: how many times less than it a row needs for its best reward"
    elif sheet.against in found:
        yield (f"efficiency: how many times fewer samples and replies than {sheet.against} a row needs for the best "
               f"reward of {sheet.against}; a dash where either spends none")
    else:
        yield f"no efficiency: {sheet.against} does not tell what each of its experiences cost"
    lost = [label for label, each in zip(sheet.labels, sheet.rows, strict=True)
            if label not in found and "strategy/rollouts" in each.metrics]
    if lost:
        yield (f"left out: {', '.join(lost)}; a metrics.jsonl of their runs is missing or changed, or they differ in "
               "length")


def along_rewards(found: Rows) -> Grid | None:
    """Every point of the figures; None where there is none."""
    rows = [(Cell(label), Cell(str(point.place), point.place), _percent(point.reward),
             *(_whole(point.costs[name]) for name in COSTS)) for label, points in found.items() for point in points]
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


def _percent(value: float) -> Cell:
    return Cell(percent(value), value)


def _whole(value: float) -> Cell:
    return Cell(f"{value:,.0f}", value)


def _nats(each: Group, name: str) -> Cell:
    """In thousandths."""
    stat = each.metrics.get(f"strategy/{name}")
    return _NONE if stat is None else Cell(f"{round(1000 * stat.mean, 1) + 0.0:.1f}", stat.mean)


def _is_spent(own: Curve) -> bool:
    """Whether every experience cost something."""
    costs = [0.0, *(cost for cost, _ in own)]
    return all(now > before for before, now in pairwise(costs))


def _asymptote(own: Curve) -> Cell:
    """A of the fit; a dash where the curve has not passed its own middle, so that any end would fit it."""
    fitted = saturation(own) if _is_spent(own) else None
    if fitted is None or fitted.midpoint > own[-1][0] or not -_SLACK <= fitted.asymptote <= 1 + _SLACK:
        return _NONE
    return _percent(min(max(fitted.asymptote, 0.0), 1.0))


def _efficiency(own: Curve, reference: Curve) -> Cell:
    """The ratio of costs, where both spend and the reference was ever rewarded."""
    peak = max(value for _, value in reference)
    if not _is_spent(own) or not _is_spent(reference) or peak == 0:
        return _NONE
    found = efficiency(own, reference)
    return Cell(f"{found:.2g}", found) if found else Cell("never", 0.0)
