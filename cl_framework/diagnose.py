"""`clf diagnose run=PATH`: what the updates of runs did to the weights, and how that goes with forgetting.

As text, or every number as JSON or CSV; with `out=FILE` a picture. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cl_framework.csv_tables import as_csv
from cl_framework.diagnosis import Diagnoses, Diagnosis, Kind, kinds_of, read_diagnoses
from cl_framework.diagnosis_tables import correlation_tables, tables
from cl_framework.signal_correlations import Correlation, correlations

_NAMES: Mapping[Kind, str] = {"all": "forgetting", "within": "forgetting_within_classes", "nats": "forgetting_nats"}
"""Correlations as JSON has them, by how forgetting is counted."""
_COLUMNS = ("folder", "label", "seed", "order_seed", "experience", "earlier", "layer", "signal", "value")


def diagnose(path: Path, style: str, out: Path | None) -> None:
    """Print the diagnostics of the runs at a path, and draw them.

    Args:
        path: a run folder, or a folder with run folders below it.
        style: a name of `FORMATS`.
        out: a .png, .svg or .pdf file for the picture.

    Raises:
        ConfigError: no runs, none with diagnostics, or a picture of another kind.
    """
    found = read_diagnoses(path)
    if out is not None:
        from cl_framework.signal_curves import signal_curves

        signal_curves(found.by_label(), out)
    FORMATS[style](found)
    if out is not None and style == "text":
        print(f"wrote {out}")


def _as_text(found: Diagnoses) -> None:
    console = Console(markup=False)
    for label, runs in found.by_label().items():
        for part in (*tables(label, runs), Text("")):
            console.print(part)
    if len(_finished(found)) > 1:
        for part in correlation_tables(_correlations(found)):
            console.print(part)
    for note in found.notes:
        console.print(Text(note))


def _as_json(found: Diagnoses) -> None:
    rows = _correlations(found) if len(_finished(found)) > 1 else {}
    print(json.dumps({
        "runs": [{**_identity(run), "experiences": [_step(run, t) for t in range(len(run.steps))]}
                 for run in found.runs],
        "correlations": {name: [asdict(each) for each in rows.get(kind, [])] for kind, name in _NAMES.items()},
        "notes": list(found.notes)}, indent=2, allow_nan=False))


def _as_csv(found: Diagnoses) -> None:
    print(as_csv([_COLUMNS, *([*_identity(run).values(), *row] for run in found.runs for row in _rows(run))]), end="")


FORMATS: Mapping[str, Callable[[Diagnoses], None]] = {"text": _as_text, "json": _as_json, "csv": _as_csv}


def _finished(found: Diagnoses) -> list[Diagnosis]:
    return [run for run in found.runs if run.run is not None]


def _correlations(found: Diagnoses) -> dict[Kind, list[Correlation]]:
    runs = _finished(found)
    return {kind: correlations(runs, kind) for kind in kinds_of(runs)}


def _identity(run: Diagnosis) -> dict[str, Any]:
    return {"folder": str(run.folder), "label": run.label, "seed": None if run.run is None else run.run.seed,
            "order_seed": None if run.run is None else run.run.order_seed}


def _step(run: Diagnosis, t: int) -> dict[str, Any]:
    step = run.steps[t]
    return {"experience": t, "signals": _nullable(step.signals),
            "pairs": [{"earlier": i, "lost": _number(run.lost(i, t)),
                       "lost_within_classes": _number(run.lost(i, t, "within")),
                       "lost_nats": _number(run.lost(i, t, "nats")), "signals": _nullable(pair)}
                      for i, pair in enumerate(step.pairs)],
            "layers": {name: {"shape": list(layer.shape), "signals": _nullable(layer.signals),
                              "pairs": [{"earlier": i, "signals": _nullable(pair)}
                                        for i, pair in enumerate(layer.pairs)]}
                       for name, layer in step.layers.items()}}


def _rows(run: Diagnosis) -> Iterator[list[object]]:
    """Experience, earlier experience, layer, signal and value; empty where there is none."""
    for t, step in enumerate(run.steps):
        for layer, signals, pairs in (("", step.signals, step.pairs), *((name, *layer[1:])
                                                                        for name, layer in step.layers.items())):
            for earlier, values in (("", signals), *enumerate(pairs)):
                yield from ([t, earlier, layer, name, "" if math.isnan(value) else value]
                            for name, value in values.items())


def _nullable(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
