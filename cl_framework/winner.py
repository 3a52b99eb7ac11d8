"""What a `best.yaml` stands for: its trials, its space, and the runs of its winner in phase 2. Opens no stream."""

from __future__ import annotations

import copy
import math
import platform
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cl_framework.config import from_tree
from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError
from cl_framework.job import Job
from cl_framework.plugin_code import Code, changed_code, code_of, own_code
from cl_framework.runs import git_commit
from cl_framework.search import Space, tuning_phase
from cl_framework.statistics import t_interval
from cl_framework.trials import Score, Trial

Made = Mapping[str, Any]
"""The content of a `best.yaml`."""
_ALIKE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Target:
    """A stream that the winner is reported on.

    Attributes:
        scenario: its name.
        phase: the half that was kept apart, or all of a scenario that was not tuned on.
        flavour: which of the two kinds of transfer it shows.
    """

    scenario: str
    phase: str
    flavour: str


def tree_of(made: Made, values: Mapping[str, Any], seed: int, phase: str, scenario: str | None = None
            ) -> dict[str, Any]:
    """The configuration of a run: the base, some values of what was searched, and what the protocol sets."""
    tree = copy.deepcopy(dict(made["base"]))
    if scenario is not None:
        tree["scenario"]["name"] = scenario
    for key, value in values.items():
        head, _, rest = key.partition(".")
        part, _, name = rest.rpartition(".")
        branch = tree[head].setdefault(part, {}) if part else tree[head]
        branch[name] = value
    return {**tree, "track": dict(made["tracking"]), "seed": seed, "order_seed": seed, "phase": phase}


def values_in(tree: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """What a run's configuration has for dotted keys; `absent` where it lacks one."""
    found = {}
    for key in keys:
        head, _, rest = key.partition(".")
        part, _, name = rest.rpartition(".")
        branch = tree.get(head, {})
        found[key] = (branch.get(part, {}) if part else branch).get(name, "absent")
    return found


def hashes_of(made: Made, values: Mapping[str, Any], seed: int, phase: str, scenario: str | None = None,
              code: Code | None = None) -> set[str]:
    """The hashes that a run may go by: as it is written, and as it is resolved now, with and without the fields that
    plugins have got since; with the code that it had.

    Args:
        made, values, seed, phase, scenario: as in `tree_of`.
        code: of the plugins, as the record has it; as it is now when None.
    """
    job = job_of(made, values, seed, phase, scenario)
    written = tree_of(made, values, seed, phase, scenario)
    known = _within(job.tree, tree_of(made, made["winner"]["values"], seed, phase, scenario))
    if code is None:
        return {hash_of(written), hash_of(known), job.hash}
    return {hash_of({**tree, **own_code(code)}) for tree in (written, known, job.tree)}


def _within(tree: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without the keys that another one lacks."""
    return {key: _within(value, known[key]) if isinstance(value, dict) and isinstance(known[key], dict) else value
            for key, value in tree.items() if key in known}


def job_of(made: Made, values: Mapping[str, Any], seed: int, phase: str, scenario: str | None = None) -> Job:
    """The run of `tree_of`; what has no value has the default of its plugin.

    Raises:
        ConfigError: the configuration cannot be resolved any more.
    """
    try:
        job = from_tree(tree_of(made, values, seed, phase, scenario))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"its base holds no whole configuration any more ({error!r}); tune again") from error
    except ConfigError as error:
        raise ConfigError([f"scenario {scenario or made['scenario']}: {fault}" for fault in error.faults]) from error
    return replace(job, protocol=protocol_of(made))


def protocol_of(made: Made) -> str:
    """The name that every number of the protocol carries."""
    return str(made["protocol"] or "two-phase")


def targets(made: Made) -> list[Target]:
    """The streams that are reported on."""
    phase = "evaluation" if tuning_phase(made["scenario"], made["evaluate"]) == "tuning" else "single"
    return [Target(scenario=name, phase=phase, flavour="other classes of the same data set" if name == made["scenario"]
                   else "across data sets") for name in made["evaluate"] or [made["scenario"]]]


def trials_of(made: Made) -> list[Trial]:
    """The trials of the file."""
    names = {spec.name for spec in fields(Score)}
    return [Trial(number=entry["trial"], values=entry["values"], state=entry["state"],
                  scores={int(seed): Score(**{"n_parameters": math.inf, **{key: value for key, value in score.items()
                                                                         if key in names}})
                          for seed, score in entry["seeds"].items()}) for entry in made["trials"]]


def space_of_made(made: Made) -> Space:
    """The search space of the file."""
    return Space({key: tuple(grid) for key, grid in made["space"].items()})


def changes(made: Made) -> list[str]:
    """What is another version now than in phase 1, and which plugins have another source."""
    then = made["environment"]
    found = [("code commit", then.get("git_commit"), git_commit()), ("python", then.get("python"),
                                                                    platform.python_version())]
    found += [(name, known, _version(name)) for name, known in then.get("packages", {}).items()]
    notes = [f"{name} was {before} while tuning and is {now} now" for name, before, now in found if before != now]
    job = job_of(made, made["winner"]["values"], made["seeds"][0], made["phase"])
    return notes + [f"the source of {plugin} has changed since tuning" for plugin in changed_code(made["code"],
                                                                                                  code_of(job))]


def differences(stated: Mapping[str, Any], expected: Mapping[str, Any], path: str = "") -> Iterator[
        tuple[str, Any, Any]]:
    """The fields in which two configurations differ: dotted name, first value, second value."""
    for key in dict.fromkeys([*stated, *expected]):
        first, second = stated.get(key, "absent"), expected.get(key, "absent")
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from differences(first, second, f"{path}{key}.")
        elif first != second:
            yield f"{path}{key}", first, second


def alike(first: float | None, second: float | None) -> bool:
    """Equal but for rounding."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=_ALIKE, abs_tol=_ALIKE)


def statistic(values: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation, n and Student's 95 % interval of one value a seed, as plain data."""
    interval = t_interval(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values), "interval": None if interval is None else list(interval)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
