"""`clf check protocol=PATH` of a `comparison.json`: its records, its numbers, and the rules of all strategies.

The rules about comparisons (R4, R11, R15) are judged here alone. The records are found by the names in the rows; those
of one strategy each are checked one by one with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_framework.compared import FILE, read_comparison
from cl_framework.contest import compare
from cl_framework.errors import ConfigError
from cl_framework.evaluation import Evaluated
from cl_framework.protocol_record import read_record
from cl_framework.rules import RULES
from cl_framework.seal import digest_of
from cl_framework.verdicts import Verdict

_NUMBERS = ("protocol", "scenario", "metric", "claims", "ranks", "tests")
_OF_A_ROW = ("strategy", "digest", "tuning", "tuning_cost", "evaluation")


def check_comparison(path: Path) -> list[Verdict]:
    """Judge a comparison; the first verdicts are about the file, then one for each rule, of every strategy.

    Raises:
        ConfigError: there is no comparison.
    """
    made = read_comparison(path, is_sealed=False)
    folder = path if path.is_dir() else path.parent
    done, missing, faults = _records(made, folder)
    found = [_digest(made), _verdict("records", faults, missing, f"{len(done)} records have the digests of the rows")]
    if not done or missing:
        return [*found, *(Verdict(rule, None, "not every record is there") for rule in RULES)]
    fresh = compare(done)
    found.append(_verdict("numbers", _number_faults(made, fresh), [], "the records give every number, rank and claim"))
    if fresh["status"] != made["status"]:
        found.append(Verdict("status", False, f"it says {made['status']}, its rules say {fresh['status']}"))
    return [*found, *_by_rule(fresh["verdicts"], len(done))]


def _records(made: Mapping[str, Any], folder: Path) -> tuple[list[Evaluated], list[str], list[str]]:
    """The records that are there, the names of the others, and what is wrong with them."""
    done, missing, faults = [], [], []
    for row in made["rows"]:
        file = Path(row["record"])
        file = next((each for each in (folder / file, file) if each.exists()), file)
        if not file.exists():
            missing.append(f"there is no {row['record']} of {row['strategy']}")
            continue
        try:
            record = read_record(file)
        except ConfigError as error:
            faults += error.faults
            continue
        if not digest_of(record) == record["digest"] == row["digest"]:
            faults.append(f"{file} of {row['strategy']} is not the record that was compared: its digest is another one")
        done.append(Evaluated(Path(row["record"]), record))
    return done, missing, faults


def _digest(made: Mapping[str, Any]) -> Verdict:
    if digest_of(made) == made["digest"]:
        return Verdict("digest", True, f"{made['digest'][:10]} is that of {FILE}")
    if made["format"] == 1:
        return Verdict("digest", None, "files of format 1 were copied with shorter paths, which their digest does not "
                                       "know; rows and numbers are compared with the records")
    return Verdict("digest", False, "its content does not give its digest: it was edited")


def _number_faults(made: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    """What the records give otherwise; a file of before may lack a field, which then shows nothing."""
    own: dict[str, Any] = json.loads(json.dumps(fresh))
    faults = [f"{name} is not that of the records" for name in _NUMBERS if name in made and made[name] != own[name]]
    for row, expected in zip(made["rows"], own["rows"], strict=False):
        faults += [f"{name} of {row['strategy']} is not that of its record" for name in _OF_A_ROW
                   if row[name] != expected[name]]
    return faults


def _by_rule(verdicts: Sequence[Mapping[str, Any]], n: int) -> list[Verdict]:
    """One verdict for each rule; the strategies are named where they are not of one mind."""
    found = []
    for rule in RULES:
        own = [verdict for verdict in verdicts if verdict["rule"].split()[0] == rule]
        for kept in (False, None, True):
            same = [verdict for verdict in own if verdict["kept"] is kept]
            if same:
                break
        reasons = dict.fromkeys(verdict["reason"] for verdict in same)
        who = "" if len(same) == n else f"{', '.join(verdict['rule'].split()[1] for verdict in same)}: "
        found.append(Verdict(rule, kept, who + "; ".join(list(reasons)[:3])))
    return found


def _verdict(name: str, faults: Sequence[str], missing: Sequence[str], kept: str) -> Verdict:
    if faults:
        return Verdict(name, False, "; ".join(faults))
    return Verdict(name, None, "; ".join(missing)) if missing else Verdict(name, True, kept)
