"""`clf check protocol=PATH`: a protocol record against its own digest, its runs, the streams themselves, and the rules.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cl_framework.chance import chance_of
from cl_framework.check_comparison import check_comparison
from cl_framework.compared import is_comparison
from cl_framework.errors import ClfError, DataError
from cl_framework.evaluation import configuration_faults, fingerprint_of
from cl_framework.fingerprint import Fingerprint, overlap_faults
from cl_framework.frozen import FORMATS, seal_faults, self_faults, shape_faults, study_faults
from cl_framework.launch import open_stream
from cl_framework.plain_files import as_written
from cl_framework.protocol_record import FILE, judged, read_record
from cl_framework.reported_runs import reported_held
from cl_framework.rules import check
from cl_framework.seal import digest_of
from cl_framework.tuning_runs import Held, held_against
from cl_framework.verdicts import Verdict
from cl_framework.winner import alike, job_of


def check_record(path: Path) -> list[Verdict]:
    """Judge a record, or a comparison of several; the first verdicts are about the file, then one for each rule.

    Raises:
        ConfigError: there is no record, or not all that clf writes into one.
    """
    with as_written(path):
        return check_comparison(path) if is_comparison(path) else _check_record(path)


def _check_record(path: Path) -> list[Verdict]:
    record = read_record(path)
    folder = path if path.is_dir() else path.parent
    fresh = check(record)
    edits = [] if digest_of(record) == record["digest"] else ["its content does not give its digest: it was edited"]
    if judged(record, fresh)["status"] != record["status"]:
        edits.append(f"it says {record['status']}, its rules say {judged(record, fresh)['status']}")
    found = [_verdict("digest", edits, f"{record['digest'][:10]} is that of {FILE}"),
             _verdict("winner", _tuned_faults(record, folder), "the file of phase 1 gives the winner again"),
             _splits(record), _held("trials", "phase 1", lambda: held_against(record["tuned"], folder)),
             _held("runs", "phase 2", lambda: reported_held(record, folder))]
    return [*found, *fresh]


def _held(name: str, phase: str, compared: Callable[[], Held]) -> Verdict:
    """Broken by any difference; kept where every run is still there."""
    try:
        held = compared()
    except (ClfError, KeyError, TypeError, AttributeError) as error:
        return Verdict(name, False, f"the runs of {phase} cannot be told from the record: {error}")
    there = f"{held.n_there} of {held.n_all} runs of {phase} are beside the record"
    if held.faults:
        return Verdict(name, False, "; ".join(held.faults))
    if held.n_there < held.n_all:
        return Verdict(name, None, f"{there}; nobody can tell what the others measured")
    return Verdict(name, True, f"{there} and hold its numbers")


def _verdict(name: str, faults: list[str], kept: str) -> Verdict:
    return Verdict(name, not faults, "; ".join(faults) or kept)


def _tuned_faults(record: Mapping[str, Any], folder: Path) -> list[str]:
    made = record["tuned"]
    try:
        return shape_faults(made, FORMATS) or self_faults(made) or study_faults(made, folder) or seal_faults(made)
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
            chance = part["chance"] if record["format"] == 1 else chance_of(open_stream(job))[record["metric"]]
            if not alike(chance, part["chance"]):
                faults.append(f"chance of {part['scenario']} is {chance}, not {part['chance']}")
    except DataError as error:
        return Verdict("splits", None, f"the data cannot be had here: {str(error).splitlines()[0]}")
    except (ClfError, KeyError, TypeError) as error:
        faults.append(f"the streams cannot be opened from the record: {error}")
    return _verdict("splits", faults, "classes and images of every stream are those of the record")


def _fingerprint_faults(name: str, stated: Mapping[str, Any], own: Fingerprint) -> list[str]:
    return [f"{key} of {name} {'are' if key in ('classes', 'images', 'rows') else 'is'} not those of the record"
            for key, value in own.plain().items() if stated.get(key) != value]
