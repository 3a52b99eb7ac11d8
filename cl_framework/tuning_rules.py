"""Rules R1 to R8 of the two-phase protocol: what is tuned, on what, and what is carried over.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cl_framework.declared import changed_keys, departures
from cl_framework.errors import ConfigError
from cl_framework.frozen import scenario_faults, space_faults, winner_faults
from cl_framework.isolation import described
from cl_framework.search import tuning_phase
from cl_framework.tuned import digest
from cl_framework.verdicts import ALONE, Finding, Record, finding
from cl_framework.winner import differences

MOST = (30, 5)
"""Trials and seeds of the published protocol."""


def nothing_shared(record: Record, beside: Sequence[Record]) -> Finding:
    """Tuning and evaluation share no class and no image; both are recorded as sorted lists and digests."""
    faults = []
    tuning = record["tuning"]
    for part in record["evaluation"]:
        shared = sorted(set(tuning["classes"]) & set(part["classes"]))
        if shared:
            faults.append(f"{part['scenario']} shares the classes {', '.join(shared)}")
        if part["shared_images"] or part["images"] == tuning["images"]:
            faults.append(f"{part['scenario']} shares images")
        if part["classes"] != sorted(part["classes"]) or not part["images"]:
            faults.append(f"{part['scenario']} has no sorted list of classes, or no digest of images")
    return finding(faults, f"{len(tuning['classes'])} classes and {tuning['distinct_images']} images apart")


def one_configuration(record: Record, beside: Sequence[Record]) -> Finding:
    """The scenario configuration is the same in both phases, field by field."""
    tuned = record["tuned"]["configuration"]
    faults = [f"{part['scenario']} has {key}={here}, tuned with {there}" for part in record["evaluation"]
              for key, here, there in differences(part["configuration"], tuned)]
    faults += scenario_faults(record["tuned"])
    if digest(tuned) != record["hashes"]["scenario"]:
        faults.append("the hash of the scenario configuration is another one")
    return finding(faults, f"scenario hash {record['hashes']['scenario']}")


def declared_space(record: Record, beside: Sequence[Record]) -> Finding:
    """The search space is declared before tuning and stored; every trial is drawn from it."""
    faults = space_faults(record["tuned"])
    if record["hashes"]["space"] != record["tuned"]["space_hash"]:
        faults.append("the hash of the search space is another one")
    n = len(record["tuned"]["trials"])
    return finding(faults, f"space hash {record['hashes']['space']}, {n} trials drawn from it")


def same_budget(record: Record, beside: Sequence[Record]) -> Finding:
    """Every compared algorithm has the same number of trials and seeds, 30 x 5 or what its preset declares."""
    own = _budget(record)
    unequal = [f"{other['strategy']} has {_shown(_budget(other))}, {record['strategy']} {_shown(own)}"
               for other in beside if _budget(other) != own]
    unequal += _not_as_declared(record)
    if unequal:
        return False, "; ".join(unequal)
    return (True, f"{_shown(own)} for all {len(beside) + 1}") if beside else (None, f"{_shown(own)}; {ALONE}")


def blind_tuning(record: Record, beside: Sequence[Record]) -> Finding:
    """The tuning code has no handle on the evaluation data."""
    tuned = record["tuned"]
    faults = []
    if tuned["phase"] != tuning_phase(tuned["scenario"], tuned["evaluate"]):
        faults.append(f"tuned with phase={tuned['phase']} while {tuned['evaluate'] or 'its own half'} is reported on")
    faults += [f"{part['scenario']} is reported on with phase={part['phase']}" for part in record["evaluation"]
               if (part["phase"] == "evaluation") != (tuned["phase"] == "tuning")]
    if tuned["classes"] != record["tuning"]["classes"]:
        faults.append("the classes that were tuned on are not those of the tuning stream")
    own, opened = described(tuned["scenario"], tuned["phase"]), tuned.get("opened")
    faults += [f"{stream} was opened while tuning, which opens {own} alone" for stream in opened or () if stream != own]
    if not faults and not opened:
        return None, "the file of phase 1 does not say which streams were opened"
    return finding(faults, f"opened while tuning: {own}; a process that tunes is refused every other stream")


def one_scalar(record: Record, beside: Sequence[Record]) -> Finding:
    """The winner is chosen by one declared number of the tuning stream alone."""
    return finding(winner_faults(record["tuned"]), f"the largest mean over seeds of {record['metric']}")


def frozen_winner(record: Record, beside: Sequence[Record]) -> Finding:
    """The winner is the same for every task and seed of phase 2, and nothing is chosen afterwards."""
    own, tuned = digest(dict(record["winner"])), record["tuned"]["winner"]
    faults = [f"winner {key} is {here}, tuned as {there}"
              for key, here, there in differences(record["winner"], tuned["values"])]
    if not faults and own != record["hashes"]["winner"]:
        faults.append("the hash of the winner is another one")
    for part in record["evaluation"]:
        faults += [f"seed {run['seed']} of {part['scenario']} ran with other hyperparameters" for run in part["runs"]
                   if run["winner_hash"] != own]
    if not faults and record["format"] == 1:
        return None, "a record of format 1 has its hashes of the winner from phase 1, and not from the runs"
    return finding(faults, f"winner hash {own} in the configuration of every run")


def all_fixed_listed(record: Record, beside: Sequence[Record]) -> Finding:
    """What is not in the search space is fixed and listed."""
    base = record["tuned"]["base"]
    faults = [f"base has no {name}" for name in ("scenario", "strategy", "model", "train", "trainer")
              if not base.get(name)]
    for key in record["tuned"]["space"]:
        head, _, rest = key.partition(".")
        part, _, name = rest.rpartition(".")
        if name in base.get(head, {}).get(part, {} if part else base.get(head, {})):
            faults.append(f"{key} is searched and also fixed")
    faults += [f"{key} is in the winner and not in the space" for key in record["winner"]
               if key not in record["tuned"]["space"]]
    return finding(faults, "every other field is in the base configuration")


def _not_as_declared(record: Record) -> list[str]:
    """Where the search is not that of the preset that it names; without a preset, not that of the paper."""
    tuned, own = record["tuned"], _budget(record)
    name, search = tuned["protocol"], dict(tuned["search"])
    if search["sampler"] == "grid":  # the number of combinations, which may be below what was declared
        del search["trials"]
    if name is None:
        least = f"the budget is {_shown(own)}, not {MOST[0]} x {MOST[1]}, and no protocol preset is named"
        return [] if own[:2] == MOST else [least]
    if changed_keys(name):
        return [f"{name} is another protocol than the preset: {_shown(own)}"]
    try:
        chosen = {f"train.{key}": value for key, value in tuned["base"]["train"].items()}
        changed = departures(name, search, chosen, tuned["space"])
    except ConfigError:
        return [f"protocol={name} is no preset of this clf, so that nobody can tell what it declares"]
    return [f"{_shown(own)} is not what protocol={name} declares: {', '.join(changed)}"] if changed else []


def _budget(record: Record) -> tuple[Any, ...]:
    search = record["tuned"]["search"]
    return (search["trials"], search["seeds"], search.get("sampler"), search.get("stop"), search.get("experiences"),
            len(record["tuned"]["evaluation_seeds"]))


def _shown(budget: Sequence[Any]) -> str:
    trials, seeds, sampler, stop, experiences, reported = budget
    extra = "".join([f", stop={stop}" if stop not in (None, "none") else "",
                     f", first {experiences} experiences" if experiences else "",
                     f", {reported} seeds reported" if reported != seeds else ""])
    return f"{trials} trials x {seeds} seeds, {sampler}{extra}"
