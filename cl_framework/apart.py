"""Whether the phases are apart and of one shape, told before a search is paid for (GTEP, rules R1 and R2).

The streams that are reported on are opened in a process of their own, which hands back sentences and ends: the process
that tunes never holds one. The halves of one scenario are apart by the contract of scenarios, so that this is done
where `search.evaluate` names another. Where their data cannot be had the search goes on, and phase 2 will tell.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from cl_framework.config import from_tree
from cl_framework.errors import ConfigError
from cl_framework.fingerprint import Fingerprint, fingerprint, overlap_faults
from cl_framework.launch import open_stream
from cl_framework.plan import Plan
from cl_framework.registry import see_current_folder
from cl_framework.tuned import FILE, configuration
from cl_framework.winner import differences, targets

Tree = dict[str, Any]
_KNOWN: dict[str, tuple[list[str], str | None]] = {}
"""What was found in this command: several strategies are tuned on one stream."""


def refuse_overlap(plan: Plan, console: Console) -> None:
    """Before a search that is to be reported on another scenario: open all streams elsewhere, and compare them.

    Raises:
        ConfigError: they share a class or an image, differ in shape, or one cannot be made from the fields.
    """
    trees = [plan.job(plan.first, seed).tree for seed in range(plan.search.seeds)]
    name = trees[0]["scenario"]["name"]
    if set(plan.search.evaluate) <= {name} or (plan.folder / FILE).exists():
        return
    n_seeds = plan.search.evaluation_seeds or plan.search.seeds
    reported = {target.scenario: [_other(trees[0], target.scenario, target.phase, seed) for seed in range(n_seeds)]
                for target in targets({"scenario": name, "evaluate": plan.search.evaluate})}
    key = json.dumps([[tree["scenario"], tree["phase"], tree["order_seed"]] for tree in
                      (*trees, *(tree for each in reported.values() for tree in each))], sort_keys=True)
    if key not in _KNOWN:
        _KNOWN[key] = _elsewhere(trees, reported)
    faults, unknown = _KNOWN[key]
    if faults:
        raise ConfigError(faults)
    if unknown is not None:
        console.print(f"note: whether the phases are apart is not known yet: {unknown}", highlight=False,
                      soft_wrap=True)


def apart_faults(tuning: Sequence[Tree], reported: Mapping[str, Sequence[Tree]]) -> tuple[list[str], str | None]:
    """Compare the tuning stream with every stream that is reported on, in the process that this is called in.

    Args:
        tuning: the configurations of its seeds.
        reported: those of each scenario to report on.

    Returns:
        Faults, and why something could not be compared, if so.
    """
    see_current_folder()
    try:
        own, shape = _seen(tuning)
        faults = []
        for name, trees in reported.items():
            try:
                print_of, other = _seen(trees)
            except ConfigError as error:
                faults += [f"search.evaluate={name}: {fault}" for fault in error.faults]
                continue
            faults += overlap_faults(own, print_of, name)
            faults += [f"{name} has {key}={here}, tuned with {there}: both phases have one scenario configuration "
                       "(rule R2)" for key, here, there in differences(other, shape)]
    except Exception as error:  # of a scenario that tuning itself never opens
        return [], f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return faults, None


def _seen(trees: Sequence[Tree]) -> tuple[Fingerprint, dict[str, Any]]:
    """What the streams of all seeds are made of, and the shape of the first."""
    jobs = [replace(from_tree(tree), experiences=0) for tree in trees]
    shape: dict[str, Any] = json.loads(json.dumps(configuration(trees[0], open_stream(jobs[0]))))
    return fingerprint(*(open_stream(job) for job in jobs)), shape


def _elsewhere(tuning: Sequence[Tree], reported: Mapping[str, Sequence[Tree]]) -> tuple[list[str], str | None]:
    from joblib.externals.loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(max_workers=1)
    try:
        found: tuple[list[str], str | None] = executor.submit(apart_faults, list(tuning), dict(reported)).result()
    except Exception as error:  # the process died: out of memory?
        return [], f"{type(error).__name__}: {error}"
    finally:
        executor.shutdown(wait=True, kill_workers=True)
    return found


def _other(tree: Tree, scenario: str, phase: str, seed: int) -> Tree:
    other = {**copy.deepcopy(tree), "phase": phase, "seed": seed, "order_seed": seed}
    other["scenario"]["name"] = scenario
    return other
