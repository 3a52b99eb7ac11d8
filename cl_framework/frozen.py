"""What phase 1 froze: `best.yaml` read back and held against itself, so that a change by hand is found and named.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066): the
winner is carried over unchanged. Nothing here opens a stream. What no rule can name is found by the file's digest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cl_framework.configuration import hash_of
from cl_framework.errors import ClfError, ConfigError
from cl_framework.plain_files import as_written, read_yaml
from cl_framework.seal import digest_of
from cl_framework.search import draw, tuning_phase
from cl_framework.trial_faults import trial_faults
from cl_framework.trials import winner
from cl_framework.tuned import FILE, FORMAT, base_tree, digest
from cl_framework.tuning_runs import held_against
from cl_framework.winner import Made, alike, differences, hashes_of, space_of_made, trials_of

FORMATS = (1, FORMAT)
"""Of the searches that records hold; the first had no digest, no code and no list of what was opened."""
_MOST_TRIALS = 10_000
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "format": int, "protocol": (str, type(None)), "scenario": str, "strategy": str, "model": str, "phase": str,
    "evaluate": list, "winner": dict, "base": dict, "tracking": dict, "search": dict, "seeds": list,
    "evaluation_seeds": list, "space": dict,
    "space_hash": str, "study_hash": str, "configuration": dict, "scenario_hash": str, "classes": list, "data": dict,
    "chance": float, "costs": dict, "environment": dict, "trials": list,
}
_SINCE_2: Mapping[str, type | tuple[type, ...]] = {"opened": list, "code": dict, "digest": str}


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A `best.yaml` that was read."""

    path: Path
    made: Made


def read_tuned(path: Path) -> Frozen:
    """Read a `best.yaml`, or that of a study's folder.

    Raises:
        ConfigError: it is not there, damaged, of another format, or was changed; every fault at once.
    """
    file = path / FILE if path.is_dir() else path
    try:
        made = read_yaml(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}; `clf tune` writes it when a search is over") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); give the command of its search "
                          "again, finished runs are kept") from error
    with as_written(file):
        faults = shape_faults(made) or [*self_faults(made), *held_against(made, file.parent).faults] \
            or study_faults(made, file.parent) or seal_faults(made)
    if faults:
        raise ConfigError([f"{file}: {fault}" for fault in faults])
    return Frozen(path=file, made=made)


def shape_faults(made: object, formats: Collection[int] = (FORMAT,)) -> list[str]:
    """What keeps a file from being read at all, in one sentence.

    Args:
        made: what was read.
        formats: those that may be read; phase 2 begins from the newest alone.
    """
    if not isinstance(made, dict):
        return ["it holds no search; `clf tune` writes best.yaml"]
    if made.get("format", FORMAT) not in formats:
        return [f"it has format {made['format']}, this clf reads {FORMAT}; give the command of its search again, "
                "finished runs are kept"]
    kinds_of = _KINDS if made.get("format") == 1 else {**_KINDS, **_SINCE_2}
    missing = [name for name in kinds_of if name not in made]
    wrong = [f"{name}={made[name]!r}" for name, kinds in kinds_of.items()
             if name in made and not isinstance(made[name], kinds)]
    if missing or wrong:
        return ["it is no whole best.yaml: " + "; ".join(
            [f"{title} {', '.join(names)}" for title, names in (("missing", missing), ("wrong", wrong)) if names])]
    inner = [f"winner.{name}" for name in ("trial", "values", "mean", "hash") if name not in made["winner"]]
    inner += [f"search.{name}" for name in ("seeds", "trials", "sampler", "metric") if name not in made["search"]]
    inner += [f"base.{name}" for name in ("scenario", "strategy", "model", "train", "trainer")
              if not isinstance(made["base"].get(name), dict)]
    inner += [f"trials[{at}]" for at, trial in enumerate(made["trials"])
              if not isinstance(trial, dict) or not {"trial", "values", "state", "seeds", "hash"} <= set(trial)]
    return [f"it is no whole best.yaml: missing {', '.join(inner)}"] if inner else []


def self_faults(made: Made) -> list[str]:
    """Where the file contradicts itself: winner, search space, trials, scenario; each names the field."""
    return [*winner_faults(made), *space_faults(made), *scenario_faults(made)]


def seal_faults(made: Made) -> list[str]:
    """Whether anything at all was changed since the file was written; a file of format 1 cannot say."""
    if "digest" not in made or digest_of(made) == made["digest"]:
        return []
    return ["its content does not give its digest: something in it was changed by hand; give the command of its search "
            "again, finished runs are kept"]


def winner_faults(made: Made) -> list[str]:
    """The winner is the trial with the largest mean over its seeds, with the values that were measured."""
    stated, listed = made["winner"], trials_of(made)
    own = next((trial for trial in listed if trial.number == stated["trial"]), None)
    if own is None:
        return [f"winner.trial is {stated['trial']}, which is not among its trials"]
    faults = [f"winner {key} is {shown}, but trial {own.number} was measured with {measured}"
              for key, shown, measured in differences(stated["values"], own.values)]
    if not faults and digest(dict(stated["values"])) != stated["hash"]:
        faults.append(f"the values of the winner have hash {digest(dict(stated['values']))}, not {stated['hash']}: "
                      f"one of {', '.join(stated['values'])} was changed")
    for entry, trial in zip(made["trials"], listed, strict=True):
        if digest(dict(trial.values)) != entry["hash"]:
            faults.append(f"trial {trial.number}: its values have hash {digest(dict(trial.values))}, not "
                          f"{entry['hash']}: one of {', '.join(trial.values)} was changed")
        if not alike(trial.mean, entry["mean"]):
            faults.append(f"trial {trial.number}: its seeds have mean {trial.mean}, the file says {entry['mean']}")
    faults += trial_faults(made, listed)
    if not alike(own.mean, stated["mean"]):
        faults.append(f"winner.mean is {stated['mean']}, but the seeds of trial {own.number} have mean {own.mean}")
    try:
        best = winner(listed)
    except ClfError as error:
        return [*faults, str(error)]
    if best.number != own.number:
        faults.append(f"winner.trial is {own.number} (mean {own.mean}), but trial {best.number} has the largest mean "
                      f"over seeds ({best.mean})")
    return faults


def space_faults(made: Made) -> list[str]:
    """Trials come from the declared grids, as the sampler draws them."""
    try:
        space = space_of_made(made)
    except ConfigError as error:
        return error.faults
    faults = [] if space.hash == made["space_hash"] else [
        f"the grids of space have hash {space.hash}, not {made['space_hash']}: a grid was changed"]
    combinations = list(space.combinations()) if made["search"]["sampler"] == "grid" else []
    if made["search"]["sampler"] == "grid" and made["search"]["trials"] != space.size:
        faults.append(f"search.trials is {made['search']['trials']}, but its grids have {space.size} combinations")
    for trial in trials_of(made):
        expected = dict(trial.values)
        if made["search"]["sampler"] == "random":
            expected = draw(space, made["strategy"], trial.number)
        elif made["search"]["sampler"] == "grid":
            expected = combinations[trial.number] if trial.number < len(combinations) else {}
        faults += [f"trial {trial.number} {key} is {shown}, but its draw is {drawn}"
                   for key, shown, drawn in differences(trial.values, expected)]
        faults += [f"trial {trial.number} {key} is {value}, which is not in its grid {list(space.grids.get(key, ()))}"
                   for key, value in trial.values.items() if value not in space.grids.get(key, ())]
    return faults


def scenario_faults(made: Made) -> list[str]:
    """The base configuration is that of the scenario configuration, whose hash is the file's."""
    stated, base = made["configuration"], made["base"]
    own = {"scenario": {name: value for name, value in base["scenario"].items() if name != "name"},
           "model": base["model"]}
    faults = [f"base {key} is {shown}, but the scenario configuration has {tuned}" for key, shown, tuned in
              differences(own, {name: stated.get(name) for name in own})]
    names = {"scenario": base["scenario"].get("name"), "strategy": base["strategy"].get("name"),
             "model": base["model"].get("name")}
    faults += [f"base {group}.name is {name}, but {group} is {made[group]}" for group, name in names.items()
               if name != made[group]]
    faults += [f"{name} is {made[name]}, but search declares {n}" for name, n in (
        ("seeds", made["search"]["seeds"]),
        ("evaluation_seeds", made["search"].get("evaluation_seeds") or made["search"]["seeds"]),
    ) if made[name] != list(range(n))]
    if made["evaluate"] != made["search"].get("evaluate", made["evaluate"]):
        faults.append(f"evaluate is {made['evaluate']}, but search.evaluate is {made['search']['evaluate']}")
    phase = tuning_phase(made["scenario"], made["evaluate"])
    if made["phase"] != phase:
        faults.append(f"phase is {made['phase']}, but with evaluate={made['evaluate']} a search opens phase={phase}")
    if digest(stated) != made["scenario_hash"]:
        faults.append(f"configuration has hash {digest(stated)}, not {made['scenario_hash']}: one of its fields was "
                      "changed")
    return faults


def study_faults(made: Made, folder: Path) -> list[str]:
    """The hash of the study, over base configuration, space, budget and protocol.

    The field is named by a run of the study, where its folder still has one.
    """
    first = {key: grid[0] for key, grid in made["space"].items()}
    search = {name: value for name, value in made["search"].items() if name != "storage"}
    hashes = hashes_of(made, first, 0, made["phase"], code=made.get("code"))
    n = search["trials"]
    declared = range(n, _MOST_TRIALS + 1) if search["sampler"] == "grid" else (n,)  # a grid may be below its budget
    expected = (hash_of({"first": own, "space": made["space_hash"], "search": {**search, "trials": trials},
                         "protocol": made["protocol"]}) for trials in declared for own in hashes)
    if made["study_hash"] in expected:
        return []
    space = space_of_made(made)
    for file in sorted(folder.glob("runs/*/*/*/seed*/config.yaml")):
        tuned = base_tree(read_yaml(file), space)
        faults = [f"base {key} is {shown}, but was tuned with {run}" for key, shown, run in
                  differences({**made["base"]}, tuned)]
        if faults:
            return faults
    return [f"study_hash is {made['study_hash']}, but the base configuration, the search section, the space and the "
            "protocol of this file give another one: one of them was changed"]
