"""Two-phase and conventional protocol on real data, on one budget: what does tuning on the reported stream overstate?

    make protocol
    python benchmarks/two_phase.py report       # write the records of what there is

1. `fashion_to_mnist_lite`: tuned on Fashion-MNIST, reported on MNIST and on the glyphs A to J.
2. The conventional protocol: the same search on MNIST and on the glyphs themselves; what it reports is the winner's
   number in its own search.
3. `grey_lite`: both kinds of transfer, on halves of the classes.

Both protocols end on the same stream with the same seeds, so that their difference, seed by seed, is what the
conventional one overstates. Everything goes on where it was stopped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cl_framework.files import write_json
from cl_framework.runs import git_commit
from cl_framework.seal import sealed
from cl_framework.statistics import paired, t_interval

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "two_phase"
REFERENCE = ROOT / "runs" / "reference" / "protocols"
STRATEGIES = ("naive", "er", "der", "lwf", "ewc", "agem", "psmt", "joint")
TARGETS = ("split_mnist", "split_glyphs_letters")
SHARED = ["launcher=local", "workers=2", "track.wandb=disabled"]
PROTOCOLS = ("fashion_to_mnist_lite", "grey_lite")


def two_phase(protocol: str) -> list[str]:
    """The command of a protocol."""
    return ["protocol", f"protocol={protocol}", f"strategy={','.join(STRATEGIES)}", *SHARED]


def conventional(target: str) -> list[str]:
    """The command of the same search on a stream that is reported."""
    return ["tune", f"scenario={target}", f"strategy={','.join(STRATEGIES)}", "search.trials=10", "search.seeds=3",
            "search.evaluate=[split_fashion]", *SHARED]


def run(words: list[str], out: Path) -> None:
    """Run a command, or go on with it."""
    done = subprocess.run([sys.executable, "-m", "cl_framework.cli", *words, f"out={out}"], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def report() -> None:
    """Write the records of what there is."""
    for protocol in PROTOCOLS:
        for comparison in (OUT / protocol).glob("tune/*/comparison/*/comparison.json"):
            made = json.loads(comparison.read_text())
            folder = REFERENCE / protocol
            for row in made["rows"]:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(row["record"], folder / f"{row['strategy']}.json")
                row["record"] = f"{row['strategy']}.json"
            write_json(folder / "comparison.json", sealed({**made, "command": "clf " + " ".join(two_phase(protocol))}))
    if all((OUT / "conventional" / target).exists() for target in TARGETS):
        write_json(REFERENCE / "overstatement.json", {
            "commands": ["clf " + " ".join(conventional(target)) for target in TARGETS],
            "written_at_commit": git_commit(),
            "rows": [overstatement(strategy, target) for target in TARGETS for strategy in STRATEGIES]})


def overstatement(strategy: str, target: str) -> dict[str, Any]:
    """Conventional less two-phase number of a strategy on one stream, paired by seed."""
    (path,) = (OUT / "conventional" / target).glob(f"tune/{target}/{strategy}/*/best.yaml")
    best = yaml.safe_load(path.read_text())
    record = json.loads((REFERENCE / PROTOCOLS[0] / f"{strategy}.json").read_text())
    part = next(part for part in record["evaluation"] if part["scenario"] == target)
    honest = {run["seed"]: run["value"] for run in part["runs"]}
    default = {run["seed"]: run["value"] for run in part["default"]["runs"]}
    claimed = _winner_scores(best)
    shared = sorted(set(honest) & set(claimed))
    test = paired({seed: claimed[seed] for seed in shared}, {seed: honest[seed] for seed in shared})
    return {"strategy": strategy, "scenario": target, "metric": record["metric"], "seeds": shared,
            "conventional": list(claimed.values()), "two_phase": [honest[seed] for seed in shared],
            "two_phase_all_seeds": list(honest.values()), "default": list(default.values()),
            "overstates": test.mean_difference, "interval": test.interval, "p_permutation": test.p_permutation,
            "two_phase_interval": t_interval(list(honest.values())),
            "winner_conventional": best["winner"]["values"], "winner_two_phase": record["winner"],
            "tuning_stream_number": record["tuning"]["result"]["mean"]}


def _winner_scores(best: Mapping[str, Any]) -> dict[int, float]:
    trial = next(trial for trial in best["trials"] if trial["trial"] == best["winner"]["trial"])
    return {int(seed): float(score["value"]) for seed, score in trial["seeds"].items()}


if __name__ == "__main__":
    if sys.argv[1:] != ["report"]:
        run(two_phase(PROTOCOLS[0]), OUT / PROTOCOLS[0])
        for name in TARGETS:
            run(conventional(name), OUT / "conventional" / name)
        run(two_phase(PROTOCOLS[1]), OUT / PROTOCOLS[1])
    report()
