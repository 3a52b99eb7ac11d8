"""`clf check protocol=PATH`: a protocol record against its own digest, the streams themselves, and the 15 rules.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_framework.errors import ClfError, DataError
from cl_framework.evaluation import configuration_faults, fingerprint_of, overlap_faults
from cl_framework.fingerprint import Fingerprint
from cl_framework.frozen import self_faults, shape_faults, study_faults
from cl_framework.protocol_record import FILE, digest_of, judged, read_record
from cl_framework.rules import check
from cl_framework.runs import RunFolder
from cl_framework.verdicts import Verdict
from cl_framework.winner import alike, job_of


def check_record(path: Path) -> list[Verdict]:
    """Judge a record; the first verdicts are about the file, then one for each rule.

    Raises:
        ConfigError: there is no record.
    """
    record = read_record(path)
    folder = path if path.is_dir() else path.parent
    fresh = check(record)
    edits = [] if digest_of(record) == record["digest"] else ["its content does not give its digest: it was edited"]
    if judged(record, fresh)["status"] != record["status"]:
        edits.append(f"it says {record['status']}, its rules say {judged(record, fresh)['status']}")
    found = [_verdict("digest", edits, f"{record['digest'][:10]} is that of {FILE}"),
             _verdict("winner", _tuned_faults(record, folder), "the file of phase 1 gives the winner again"),
             _splits(record), _verdict("runs", list(_run_faults(record, folder)),
                                       "the folders that are still there hold the numbers of the record")]
    return [*found, *fresh]


def _verdict(name: str, faults: list[str], kept: str) -> Verdict:
    return Verdict(name, not faults, "; ".join(faults) or kept)


def _tuned_faults(record: Mapping[str, Any], folder: Path) -> list[str]:
    made = record["tuned"]
    try:
        return shape_faults(made) or self_faults(made) or study_faults(made, folder)
    except ClfError as error:
        return [str(error)]


def _splits(record: Mapping[str, Any]) -> Verdict:
    """Open every stream again and compare classes, images and configuration."""
    made = record["tuned"]
    faults = []
    try:
        job = job_of(made, record["winner"], made["seeds"][0], made["phase"])
        tuning = fingerprint_of(made, made["seeds"], made["phase"])
        faults += _fingerprint_faults("the tuning stream", record["tuning"], tuning)
        faults += configuration_faults(made, job, "the tuning stream")
        for part in record["evaluation"]:
            job = job_of(made, record["winner"], made["seeds"][0], part["phase"], part["scenario"])
            own = fingerprint_of(made, made["evaluation_seeds"], part["phase"], part["scenario"])
            faults += _fingerprint_faults(part["scenario"], part, own) + overlap_faults(tuning, own, part["scenario"])
            faults += configuration_faults(made, job, part["scenario"])
    except DataError as error:
        return Verdict("splits", None, f"the data cannot be had here: {str(error).splitlines()[0]}")
    except (ClfError, KeyError, TypeError) as error:
        faults.append(f"the streams cannot be opened from the record: {error}")
    return _verdict("splits", faults, "classes and images of every stream are those of the record")


def _fingerprint_faults(name: str, stated: Mapping[str, Any], own: Fingerprint) -> list[str]:
    return [f"{key} of {name} {'are' if key in ('classes', 'images', 'rows') else 'is'} not those of the record"
            for key, value in own.plain().items() if stated.get(key) != value]


def _run_faults(record: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Configuration and number of every run."""
    made = record["tuned"]
    for part in record["evaluation"]:
        rows = [(record["winner"], part["runs"]), ({}, part["default"]["runs"] if part["default"] else [])]
        for values, runs in rows:
            for run in runs:
                name = f"{run['folder']} ({part['scenario']})"
                try:
                    job = job_of(made, values, run["seed"], part["phase"], part["scenario"])
                    summary = RunFolder(folder / run["folder"]).summary()
                except ClfError as error:
                    yield f"{name}: {error}"
                    continue
                if job.hash != run["config_hash"]:
                    yield f"{name} has another configuration than the record gives"
                if summary is not None and run["failure"] is None:
                    measured = summary["metrics"].get(record["metric"])
                    if not alike(measured, run["value"]):
                        yield f"{name} measured {record['metric']}={measured}, the record says {run['value']}"
