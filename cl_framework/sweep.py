"""`clf sweep`: a W&B sweep over a strategy's search space, for those who tune there. Its agent calls `clf train`.

The sweep opens the tuning stream alone, as `clf tune` does, but W&B chooses: single runs, by one number, and not the
mean over seeds. What it finds is no phase 1 of the two-phase protocol, and its runs say so.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from cl_framework.errors import ConfigError
from cl_framework.files import write_atomic
from cl_framework.grammar import Command, parse_values
from cl_framework.keys import single

_METHODS = {"random": "random", "grid": "grid", "tpe": "bayes"}
_FILE, _RUNS = "sweep.yaml", "runs/sweep"
_UNBROKEN = 10_000
_NOTE = """\
# Made by clf sweep. Give: wandb sweep {file}, then the line that it prints: wandb agent ENTITY/PROJECT/ID
# Its runs are tuned elsewhere: no phase 1 of the two-phase protocol.
"""

_REFUSED = {
    "protocol": "W&B chooses single runs, which no protocol of ours does; `clf tune protocol=...` searches by one",
    "search.stop": "give W&B's own early_terminate in the file",
    "search.storage": "W&B keeps the trials",
    "search.experiences": "a run learns the whole tuning stream",
    "track.wandb": "a sweep's runs are always sent",
}


def sweep_verb(command: Command) -> int:
    """Write a W&B sweep over a search space."""
    from cl_framework.plan import plans

    values = dict(command.values)
    file, runs = Path(str(single(values, "out", _FILE))), str(single(values, "runs", _RUNS))
    faults = [f"{key} is not for clf sweep: {reason}" for key, reason in _REFUSED.items() if key in values]
    if len(values.get("strategy", [])) > 1:
        faults.append(f"a sweep has one strategy, got {len(values['strategy'])}; write one file for each with out=FILE")
    if faults:
        raise ConfigError(faults)
    plan = plans(values, Path(runs))[0]
    made = definition(plan, runs)
    write_atomic(file, _NOTE.format(file=file) + yaml.safe_dump(made, sort_keys=False, width=_UNBROKEN))
    print(f"{file}: {made['method']}, {made['run_cap']} runs over {', '.join(plan.space.grids)}\n"
          f"next: wandb sweep {file}")
    return 0


def definition(plan: Any, runs: str) -> dict[str, Any]:
    """The sweep as W&B takes it.

    Args:
        plan: a `Plan`, checked: what is searched, and what is the same in every run.
        runs: root of the run folders; every run has one of its own, so that an equal draw is not taken for finished.
    """
    search, fixed = plan.search, dict(plan.chosen)
    project, entity = fixed.pop("track.project", None), fixed.pop("track.entity", None)
    job = plan.job(plan.first, 0)
    words = ["clf", "train", *(word(key, value) for key, value in {**fixed, "strategy": plan.strategy}.items()),
             f"phase={job.phase.value}", "track.wandb=online"]
    script = f'exec {shlex.join(words)} out={shlex.quote(runs)}/"$WANDB_RUN_ID" "$@"'
    grids = {**plan.space.grids, "seed": tuple(range(search.seeds))}
    return {
        "name": f"{job.name('scenario')} {plan.strategy}",
        **({"project": project} if project else {"project": job.tracking.project}),
        **({"entity": entity} if entity else {}),
        "program": "clf", "method": _METHODS[search.sampler],
        "metric": {"name": search.metric, "goal": "maximize"}, "run_cap": plan.n_trials * search.seeds,
        "parameters": {key: {"values": [_plain(key, value) for value in grid]} for key, grid in grids.items()},
        "command": ["/bin/sh", "-c", script, "clf", "${args_no_hyphens}"],
    }


def word(key: str, value: Any) -> str:
    """A key with one value, as the command line takes it.

    >>> word("model.hidden", [64, 64]), word("train.clip", None), word("scenario.path", "a,b")
    ('model.hidden=[64, 64]', 'train.clip=null', 'scenario.path="a,b"')
    """
    return f"{key}={_plain(key, value)}"


def _plain(key: str, value: Any) -> Any:
    """A number, or a text that clf reads back as the value: W&B writes Python's `True` and `None`, which it does not.

    Raises:
        ConfigError: it cannot be written on a command line.
    """
    texts = [str(value)] if isinstance(value, str) else []
    for text in [*texts, json.dumps(value)]:
        if _is_read_as(text, value):
            return value if _is_number(value) and _is_read_as(str(value), value) else text
    raise ConfigError(f"{key}={value!r} cannot be given on a command line; take it out of the grid")


def _is_read_as(text: str, value: Any) -> bool:
    try:
        read = parse_values(text)
    except ConfigError:
        return False
    return len(read) == 1 and read[0] == value and isinstance(read[0], bool) == isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
