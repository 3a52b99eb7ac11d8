"""Test-time adaptation on real data: every strategy on streams of corrupted Fashion-MNIST and MNIST.

    make adaptation                              # all tables; goes on where it was stopped
    python benchmarks/adaptation.py continual_cnn
    python benchmarks/adaptation.py report       # write the records of what has been run

Nothing is tuned on what is reported: hyperparameters are the defaults of each strategy, those of its paper, and in
`tuned` the winners of a search on the four hold-out corruptions. Each table is written to
runs/reference/adaptation_<table>.json, the records of `tuned` to runs/reference/protocols/ctta_lite.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from cl_framework.experience_figures import domain_of
from cl_framework.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PAPER = ["strategy=psmt", "strategy.psmt.variant=paper", "strategy.psmt.n_views=4"]
"""Views of the teacher, of `psmt` and `cotta`: 4 for 32, which cost eight times as much."""
ROWS = {
    **{name: [f"strategy={name}"] for name in ("source", "bn_stats", "tent", "eata", "sar")},
    "cotta": ["strategy=cotta", "strategy.cotta.n_views=4"],
    **{name: [f"strategy={name}"] for name in ("rotta", "roid")},
    "psmt release": ["strategy=psmt", "strategy.psmt.variant=release"],
    "psmt paper": PAPER,
    "- mean teacher alone": [*PAPER, "strategy.psmt.selected_fraction=0", "strategy.psmt.penalty_strength=0"],
    "- anchor alone": [*PAPER, "strategy.psmt.selected_fraction=0"],
    "- selective average alone": [*PAPER, "strategy.psmt.penalty_strength=0"],
    "- mask reversed": [*PAPER, "strategy.psmt.mask=least"],
}
"""What is compared, by its name in the tables; the last four are parts of `psmt paper`."""
COMMON = ["scenario=corrupted", "launcher=local", "workers=2", "track.wandb=disabled"]
CNN = ["scenario.batch_size=100", "model=cnn", "train.epochs=3", "seed=0..4"]
SLIM = ["model=slim_resnet18", "train.epochs=1", "scenario.source_seed=0", "order_seed=0..4"]
"""One source model, five orders of the corruptions: its training takes minutes."""
BOTH, FASHION = "scenario.dataset=fashion_mnist,mnist", "scenario.dataset=fashion_mnist"
TABLES = {
    "continual_cnn": [*CNN, BOTH, "scenario.n_images=500"],
    "gradual_cnn": [*CNN, BOTH, "scenario.n_images=100", "scenario.stream=gradual"],
    "rounds_cnn": [*CNN, FASHION, "scenario.n_images=100", "scenario.rounds=10"],
    "continual_slim": ["scenario.batch_size=100", *SLIM, BOTH, "scenario.n_images=100"],
    "gradual_slim": ["scenario.batch_size=50", *SLIM, FASHION, "scenario.n_images=50", "scenario.stream=gradual"],
}


TUNED = {
    **{name: ROWS[name] for name in ("bn_stats", "tent", "eata", "sar", "cotta", "roid", "psmt release",
                                     "psmt paper", "- mean teacher alone")},
}
"""What is tuned; a field that a row fixes is not searched."""


def folder_of(label: str) -> str:
    """A label as the name of a folder."""
    return "_".join(label.replace(",", " ").replace("-", " ").split())


def tune() -> None:
    """Both phases of each strategy, and its record."""
    folder = ROOT / "runs" / "reference" / "protocols" / "ctta_lite"
    commands = {}
    for label, words in TUNED.items():
        name = folder_of(label)
        out = ROOT / "runs" / "adaptation" / "tuned" / name
        words = ["protocol", "protocol=ctta_lite", *words, FASHION, "scenario.n_images=300", "scenario.batch_size=100",
                 "launcher=local", "workers=2", "track.wandb=disabled"]
        done = subprocess.run([sys.executable, "-m", "cl_framework.cli", *words, f"out={out}"], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        (comparison,) = out.glob("tune/*/comparison/*/comparison.json")
        strategy = TUNED[label][0].partition("=")[2]
        row = next(row for row in json.loads(comparison.read_text())["rows"] if row["strategy"] == strategy)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row["record"], folder / f"{name}.json")
        commands[label] = {"record": f"{name}.json", "command": "clf " + " ".join(words)}
        write_json(folder / "rows.json", commands)


def rows_of(table: str) -> list[str]:
    """The rows of a table; parts of `psmt paper` are told apart on the plain stream alone."""
    return [label for label in ROWS if table.startswith("continual") or not label.startswith("-")]


def run(table: str) -> None:
    """Run what is missing of a table and write its record."""
    for label in rows_of(table):
        words, out = command(table, label)
        done = subprocess.run([sys.executable, "-m", "cl_framework.cli", "train", *words, f"out={out}"], check=False)
        if done.returncode:
            sys.exit(done.returncode)
    write(table)


def command(table: str, label: str) -> tuple[list[str], Path]:
    """The keys of a row's runs, and where they lie."""
    out = ROOT / "runs" / "adaptation" / table / folder_of(label)
    return [*ROWS[label], *COMMON, *TABLES[table]], out


def write(table: str) -> None:
    """Write a table's record."""
    environment = json.loads(next((ROOT / "runs" / "adaptation" / table).rglob("environment.json")).read_text())
    environment.pop("wandb_id", None)
    made = {label: command(table, label) for label in rows_of(table)}
    write_json(ROOT / "runs" / "reference" / f"adaptation_{table}.json", {
        "commands": ["clf train " + " ".join(words) for words, _ in made.values()], "environment": environment,
        "git_commits": sorted({json.loads(path.read_text())["git_commit"] for _, out in made.values()
                               for path in out.rglob("summary.json")}),
        "rows": [row for label, (_, out) in made.items() for row in measured(label, out)]})


def measured(label: str, out: Path) -> list[dict[str, Any]]:
    """A row for each data set: the metrics of each run, its mean error in each corruption and in each round."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(out.rglob("summary.json")):
        data = yaml.safe_load((path.parent / "config.yaml").read_text())["scenario"]["dataset"]
        found[data].append(json.loads(path.read_text()))
    rows = []
    for data, runs in found.items():
        domains: dict[str, list[float]] = defaultdict(list)
        rounds: dict[int, list[float]] = defaultdict(list)
        for run in runs:
            for experience in run["experiences"]:
                domains[domain_of(experience["name"])].append(experience["online_error"])
                rounds[experience["round"]].append(experience["online_error"])
        rows.append({"row": label, "dataset": data, "n": len(runs),
                     "domains": {name: mean(errors) for name, errors in domains.items()},
                     "rounds": [mean(rounds[number]) for number in sorted(rounds)],
                     "metrics": {name: [run["metrics"].get(name) for run in runs] for name in
                                 ("online_error", "calibration_error", "source_forgetting", "collapse",
                                  "train_seconds", "memory_bytes", "n_parameters")}})
    return rows


if __name__ == "__main__":
    if sys.argv[1:] == ["report"]:
        for name in TABLES:
            if (ROOT / "runs" / "adaptation" / name).exists():
                write(name)
    else:
        for name in sys.argv[1:] or [*TABLES, "tuned"]:
            tune() if name == "tuned" else run(name)
