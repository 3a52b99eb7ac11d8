"""The runs of phase 2 against their folders, where these still are: configuration, winner, numbers and failures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.evaluation import winner_hash
from cl_framework.runs import RunFolder
from cl_framework.tuning_runs import Held
from cl_framework.winner import alike, hashes_of


def reported_held(record: Mapping[str, Any], folder: Path) -> Held:
    """Compare every run of a record, those with default hyperparameters too.

    Args:
        record: of one strategy.
        folder: where it lies; the folders of its runs are named from there.
    """
    faults, n_there, n_all = list[str](), 0, 0
    for part, values, run in _listed(record):
        name, place = f"{run['folder']} ({part['scenario']})", RunFolder(folder / run["folder"])
        n_all += 1
        hashes = hashes_of(record["tuned"], values, run["seed"], part["phase"], part["scenario"], record.get("code"))
        if run["config_hash"] not in hashes:
            faults.append(f"{name} has another configuration than the record gives")
        if not (place.path / "config.yaml").exists():
            continue
        try:
            summary = place.summary()
        except ConfigError as error:
            faults += error.faults
            continue
        if summary is None and run["failure"] is None:
            faults.append(f"{name} is not finished, the record says {record['metric']}={run['value']}")
            continue
        n_there += 1
        own = winner_hash(place, record["tuned"])
        if run["winner_hash"] is not None and own != run["winner_hash"]:
            faults.append(f"{name} ran with other hyperparameters (hash {own}, the record says {run['winner_hash']})")
        faults += [f"{name} {fault}" for fault in _differences(record["metric"], run, summary or {})]
    return Held(faults=faults, n_there=n_there, n_all=n_all)


def _listed(record: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]:
    """Every run with its stream and the values of its hyperparameters."""
    for part in record["evaluation"]:
        yield from ((part, record["winner"], run) for run in part["runs"])
        yield from ((part, {}, run) for run in (part["default"]["runs"] if part["default"] else []))


def _differences(metric: str, run: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    measured = summary.get("metrics", {})
    if run["failure"] is not None:
        value = measured.get(metric)
        if value is not None and math.isfinite(value):
            yield f"measured {metric}={value}, the record lists it as failed ({run['failure']})"
        return
    for name, stated in {metric: run["value"], **run["metrics"]}.items():
        if not alike(measured.get(name), stated):
            yield f"measured {name}={measured.get(name)}, the record says {stated}"
