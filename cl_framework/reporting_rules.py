"""Rules R9 to R15 of the two-phase protocol: what is reported, and beside what.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_framework.tuned import digest
from cl_framework.verdicts import ALONE, Finding, Record, finding
from cl_framework.winner import alike, statistic, trials_of

SMALLEST_SHARE = 0.8
"""Of the runs of a search that must finish; ours, as the source says nothing of it."""


def baselines(is_labelled: bool) -> tuple[str, ...]:
    """What rule R15 asks for: fine-tuning, replay and the joint upper bound; on a stream without labels the model as
    it is and with the statistics of the batch."""
    return ("naive", "er", "joint") if is_labelled else ("source", "bn_stats")


def every_seed(record: Record, beside: Sequence[Record]) -> Finding:
    """Every seed of phase 2 is reported, with mean, deviation and n."""
    faults = []
    for part in record["evaluation"]:
        seeds = [run["seed"] for run in part["runs"]]
        if seeds != record["tuned"]["evaluation_seeds"]:
            faults.append(f"{part['scenario']} has the seeds {seeds}, declared {record['tuned']['evaluation_seeds']}")
        elif not _same(part["result"], statistic([run["value"] for run in part["runs"]])):
            faults.append(f"the mean, deviation or n of {part['scenario']} is not that of its seeds")
        faults += _not_chance(part, part["runs"])
    return finding(faults, f"{len(record['tuned']['evaluation_seeds'])} seeds for each evaluation stream")


def all_reported(record: Record, beside: Sequence[Record]) -> Finding:
    """Both phases' numbers, ranks in both, forgetting, parameters, wall-clock time and tuning cost are reported."""
    faults = []
    first = next((trial for trial in trials_of(record["tuned"])
                  if trial.number == record["tuned"]["winner"]["trial"]), None)
    if first is None or not _same(record["tuning"]["result"],
                                  statistic([score.value for score in first.scores.values()])):
        faults.append("the number of phase 1 is not the winner's")
    if not record["evaluation"]:
        faults.append("there is no number of phase 2")
    shape = record["tuned"]["configuration"]
    needed = ["n_parameters", "train_seconds", "memory_bytes"]
    if not shape["is_labelled"]:
        needed.append("source_forgetting")
    elif shape["n_experiences"] > 1:
        needed.append("forgetting/max")
    for part in record["evaluation"]:
        faults += [f"seed {run['seed']} of {part['scenario']} has no {name}" for run in part["runs"]
                   for name in needed if run["failure"] is None and name not in run["metrics"]]
    faults += [f"the cost of {phase} is not there" for phase in ("tuning", "evaluation")
               if "train_seconds" not in record["costs"].get(phase, {})]
    return finding(faults, "all of them" if beside else f"all of them; ranks {ALONE}")


def both_flavours(record: Record, beside: Sequence[Record]) -> Finding:
    """The result across data sets stands next to that on other classes of the same data set."""
    flavours = {part["flavour"] for each in (record, *beside) if each["strategy"] == record["strategy"]
                for part in each["evaluation"]}
    if len(flavours) > 1:
        return True, " and ".join(sorted(flavours))
    reason = f"only {next(iter(flavours), 'nothing')} is reported; search.evaluate names the streams to report on"
    return (False, reason) if beside else (None, f"{reason}; another record may show the other kind")


def default_row(record: Record, beside: Sequence[Record]) -> Finding:
    """The default hyperparameters of the method are reported, too."""
    faults = []
    for part in record["evaluation"]:
        if part["default"] is None:
            faults.append(f"{part['scenario']} has no row of the defaults")
        elif [run["seed"] for run in part["default"]["runs"]] != record["tuned"]["evaluation_seeds"]:
            faults.append(f"the defaults of {part['scenario']} have other seeds")
        elif not _same(part["default"]["result"], statistic([run["value"] for run in part["default"]["runs"]])):
            faults.append(f"the mean of the defaults of {part['scenario']} is not that of its seeds")
        faults += [] if part["default"] is None else _not_chance(part, part["default"]["runs"])
    return finding(faults, "the defaults of the plugin, on the same seeds")


def honest_claims(record: Record, beside: Sequence[Record]) -> Finding:
    """Superiority is claimed on the evaluation stream alone, and only where intervals do not overlap."""
    faults = []
    for claim in record["claims"]:
        better, worse = claim["intervals"]
        if claim["phase"] != "evaluation":
            faults.append(f"{claim['better']} over {claim['worse']} is claimed on the {claim['phase']} stream")
        elif better is None or worse is None or better[0] <= worse[1]:
            faults.append(f"{claim['better']} over {claim['worse']} on {claim['scenario']}: their intervals overlap")
    if not faults and any(part["result"]["interval"] is None for part in record["evaluation"]):
        return None, "one seed has no interval; nothing can be claimed"
    return finding(faults, f"{len(record['claims'])} claims")


def failures_listed(record: Record, beside: Sequence[Record]) -> Finding:
    """Failed runs are listed; at least 80 % of a search has finished."""
    tuned, listed = record["tuned"], trials_of(record["tuned"])
    failed = [(trial.number, seed) for trial in listed for seed in trial.failures]
    n_runs = sum(len(trial.scores) for trial in listed)
    faults = []
    if [trial.number for trial in listed] != list(range(tuned["search"]["trials"])):
        faults.append(f"{len(listed)} of {tuned['search']['trials']} trials are listed")
    faults += [f"trial {trial.number} is {trial.state} with {len(trial.scores)} of {len(tuned['seeds'])} seeds"
               for trial in listed if trial.state != "pruned" and len(trial.scores) < len(tuned["seeds"])]
    distinct = {(digest(dict(trial.values)), seed) for trial in listed for seed in trial.failures}
    if tuned["costs"]["failed_runs"] not in (len(failed), len(distinct)) \
            or [(entry["trial"], entry["seed"]) for entry in record["tuning"]["failed"]] != failed:
        faults.append("the failed runs of the trials are not those of the list")
    if n_runs and 1 - len(failed) / n_runs < SMALLEST_SHARE:
        faults.append(f"{len(failed)} of {n_runs} runs failed; at most {1 - SMALLEST_SHARE:.0%} may")
    late = sum(run["failure"] is not None for part in record["evaluation"] for run in part["runs"])
    return finding(faults, f"{len(failed)} failed while tuning, {late} while evaluating")


def baselines_there(record: Record, beside: Sequence[Record]) -> Finding:
    """Fine-tuning, replay and the joint upper bound are always included (without labels: source and bn_stats)."""
    expected = baselines(record["tuned"]["configuration"]["is_labelled"])
    missing = [name for name in expected if name not in {each["strategy"] for each in (record, *beside)}]
    if not beside:
        return None, ALONE
    return finding([f"{name} is missing" for name in missing], f"{', '.join(expected)} are there")


def _not_chance(part: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Failed runs that count as something else than chance."""
    return [f"seed {run['seed']} of {part['scenario']} failed and counts {run['value']}, not chance ({part['chance']})"
            for run in runs if run["failure"] is not None and not alike(run["value"], part["chance"])]


def _same(stated: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return stated["n"] == expected["n"] and all(alike(stated[name], expected[name]) for name in ("mean", "std"))
