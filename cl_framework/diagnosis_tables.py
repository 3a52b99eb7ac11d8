"""What `clf diagnose` shows in a terminal: signals by experience, the most telling layers, correlations. No torch.

Runs of one label are averaged. The most telling layers are those whose updates conflict most with the state that they
met, as the paper of GCWM ranks them; in a stream of one experience, those that moved most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cl_framework.diagnosis import Diagnosis, Kind, Layer, kinds_of, mean_of
from cl_framework.signal_correlations import Correlation

_MOST_LAYERS = 5
_LONGEST = 24
"""Letters of a layer's name that fit into a table."""
_PERCENT, _DEGREES = 100.0, 180 / math.pi

_WEIGHTS: Mapping[str, tuple[str, float, int]] = {
    "update\nnorm": ("update_norm", 1, 2), "rank\n%": ("update_rank", _PERCENT, 0),
    "un-\nchanged %": ("sparsity/bf16", _PERCENT, 1), "outputs\nturn °": ("angle/left_mean", _DEGREES, 1),
    "inputs\nturn °": ("angle/right_mean", _DEGREES, 1), "spectral\nshift %": ("spectral_shift", _PERCENT, 1),
    "in prin-\ncipal %": ("principal/0.1", _PERCENT, 1), "in low\n%": ("low/0.1", _PERCENT, 1)}
_STATE: Mapping[str, tuple[str, float, int]] = {
    "con-\nflict": ("conflict/before", 1, 2), "align-\nment": ("alignment/before", 1, 2),
    "cosine": ("cosine/before", 1, 2), "re-\ntained": ("retained", 1, 2)}
_UPDATES: Mapping[str, tuple[str, float, int]] = {
    "active\nconflict": ("active", 1, 2), "state\nconflict": ("state", 1, 2), "state\ngap": ("state_gap", 1, 2),
    "global\ngap": ("global_gap", 1, 2), "smallest\ncosine": ("cosine/smallest", 1, 2), "lambda": ("lambda", 1, 2),
    "sqrt t": ("sqrt_t", 1, 2)}
_LOST: Mapping[Kind, tuple[str, str]] = {
    "all": ("lost", "forgetting"),
    "within": ("lost within\ntheir classes", "forgetting within the classes of the experience"),
    "nats": ("nats\nlost", "forgetting in nats a token")}
"""Heading, and name, of each way to count what was lost."""
_COMPARED = (
    "update_norm", "active", "state_gap", "global_gap", "cumulative/active", "cumulative/state_gap",
    "cumulative/global_gap", "conflict/before", "alignment/before", "cosine/before", "cosine/smallest", "retained",
    "lambda", "update_rank", "sparsity/bf16", "angle/left_mean", "spectral_shift", "principal/0.1", "pair/conflict",
    "pair/alignment", "pair/cosine", "pair/held", "pair/jaccard")
"""Correlations that are shown: chosen beforehand, first those of GCWM's table, so that none is picked for its size."""


def tables(label: str, runs: Sequence[Diagnosis]) -> Iterator[RenderableType]:
    """The tables of the runs of one label."""
    known = [each.run for each in runs if each.run is not None]
    words = [known[0].scenario, known[0].model] if known else []
    seeds = f"mean of {len(runs)} runs" if len(runs) > 1 else f"seed {known[0].seed}" if known else ""
    yield Text(" · ".join(word for word in (label, *words, seeds) if word), style="bold")
    if not any(run.steps for run in runs):
        yield Text("no experience has been diagnosed yet")
        return
    if not any(step.layers for run in runs for step in run.steps):
        yield Text("the model has no weight matrix with both sides of 8 or more: nothing to diagnose")
        return
    yield Text("what learning did to the weights")
    yield _by_experience(runs, _WEIGHTS, {})
    kinds = kinds_of(runs) if known else []
    units = "points and nats a token" if "nats" in kinds else "points"
    title = "the update beside the state that it met"
    yield Text(f"{title}, and what earlier experiences lost in {units}" if kinds else title)
    yield _by_experience(runs, _STATE, {_LOST[kind][0]: _lost(kind) for kind in kinds})
    yield Text("all updates so far")
    yield _by_experience(runs, _UPDATES, {})
    start, end = shared_ends([name for run in runs for step in run.steps for name in step.layers])
    shared = " and ".join(each for each in (start, end) if each)
    yield Text(f"the most telling layers, mean over experiences{f' (all named with {shared})' if shared else ''}")
    yield _telling(runs, start, end)


def _lost(kind: Kind) -> tuple[Callable[[Diagnosis, int], float], int]:
    """What was lost by experience, and its digits."""
    scale, digits = (1.0, 2) if kind == "nats" else (100.0, 1)
    return lambda run, t: scale * mean_of(run.lost(i, t, kind) for i in range(t)), digits


def _by_experience(runs: Sequence[Diagnosis], columns: Mapping[str, tuple[str, float, int]],
                   more: Mapping[str, tuple[Callable[[Diagnosis, int], float], int]]) -> Table:
    table = _table("after", [*columns, *more])
    for t in range(max(len(run.steps) for run in runs)):
        members = [run for run in runs if t < len(run.steps)]
        cells = [_cell(scale * mean_of(run.steps[t].signals.get(name, math.nan) for run in members), digits)
                 for name, scale, digits in columns.values()]
        cells += [_cell(mean_of(value(run, t) for run in members), digits) for value, digits in more.values()]
        table.add_row(str(t), *cells)
    return table


def shared_ends(names: Iterable[str]) -> tuple[str, str]:
    """What all names of layers begin and end with, whole parts of them; nothing where names are short or are one.

    >>> shared_ends(["body.encoder.layer.0.query.weight", "body.encoder.layer.1.key.weight"])
    ('body.encoder.layer.', '.weight')
    """
    different = list(dict.fromkeys(names))
    if len(different) < 2 or max(map(len, different)) <= _LONGEST:
        return "", ""
    parts = [name.split(".") for name in different]
    n_first, n_last = (sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)) for columns in
                       (zip(*parts, strict=False), zip(*(each[::-1] for each in parts), strict=False)))
    return (".".join([*parts[0][:n_first], ""]) if n_first else "",
            ".".join(["", *parts[0][-n_last:]]) if n_last else "")


def _telling(runs: Sequence[Diagnosis], start: str, end: str) -> Table:
    table = _table("layer", ["shape", "share of\nnorm² %", "con-\nflict", "align-\nment", "cosine", "outputs\nturn °",
                             "shift\n%"])
    entries: dict[str, list[Layer]] = {}
    shares: dict[str, list[float]] = {}
    for run in runs:
        for step in run.steps:
            total = math.fsum(layer.signals["update_norm"]**2 for layer in step.layers.values())
            for name, layer in step.layers.items():
                entries.setdefault(name, []).append(layer)
                shares.setdefault(name, []).append(layer.signals["update_norm"]**2 / total if total > 0 else math.nan)

    def mean(name: str, signal: str) -> float:
        return mean_of(layer.signals[signal] for layer in entries[name])

    def order(name: str) -> float:
        conflict = mean(name, "conflict/before")
        return -mean_of(shares[name]) if math.isnan(conflict) else -conflict

    for name in sorted(entries, key=order)[:_MOST_LAYERS]:
        table.add_row(Text(name.removeprefix(start).removesuffix(end)), "x".join(map(str, entries[name][0].shape)),
                      _cell(100 * mean_of(shares[name]), 1),
                      *(_cell(mean(name, f"{signal}/before"), 2) for signal in ("conflict", "alignment", "cosine")),
                      _cell(_DEGREES * mean(name, "angle/left_mean"), 1), _cell(100 * mean(name, "spectral_shift"), 1))
    return table


def correlation_tables(correlations: Mapping[Kind, Sequence[Correlation]]) -> Iterator[RenderableType]:
    """Correlations with forgetting, by how it is counted."""
    for kind, found in correlations.items():
        title = _LOST[kind][1]
        if not found:
            yield Text(f"no signal can be compared with {title}: it takes runs whose earlier experiences lost more or "
                       "less")
            continue
        yield Text(f"rank correlation of signals with {title} (Spearman; {found[0].n} pairs of experiences, "
                   f"{found[0].n_runs} runs)")
        table = _table("signal", ["rho", "95 %"])
        for each in sorted((each for each in found if each.signal in _COMPARED),
                           key=lambda each: _COMPARED.index(each.signal)):
            ends = "" if each.interval is None else f"{each.interval[0]:+.2f} to {each.interval[1]:+.2f}"
            table.add_row(Text(each.signal), f"{each.rho:+.2f}", ends)
        yield table
    yield Text("Intervals hold for one signal each, not for the largest of many. format=json has all signals")


def _table(first: str, headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cell(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
