"""The real-data tables of docs/results.md: run the jobs (finished ones are skipped), then write the record.

    make reference                 # all tables
    python benchmarks/reference.py baselines

Each table is written to runs/reference/<table>.json with its command, seeds, commit and environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cl_framework.files import write_json
from cl_framework.report import groups
from cl_framework.report_files import as_json

ROOT = Path(__file__).resolve().parent.parent
COMMON = ["seed=0..4", "model.hidden=[256,256]", "train.optimizer=adam", "train.lr=0.001", "train.epochs=1",
          "launcher=local", "workers=2", "track.wandb=disabled"]
TABLES = {
    "baselines": [
        ["scenario=split_fashion,split_mnist", "strategy=naive,lwf,joint", "train.batch_size=128", *COMMON],
        ["scenario=split_fashion,split_mnist", "strategy=er,agem", "strategy.er.memory_size=500",
         "strategy.agem.memory_size=500", "train.batch_size=128", *COMMON],
        ["scenario=split_fashion,split_mnist", "strategy=ewc,psmt", "train.batch_size=128", *COMMON],
    ],
    "digits": [["scenario=split_digits", "strategy=naive,psmt,joint,er,lwf,ewc,agem", "strategy.er.memory_size=100",
                "strategy.agem.memory_size=100", "seed=0..4", "launcher=local", "workers=2", "track.wandb=disabled"]],
}


def run(table: str) -> None:
    """Run the jobs of a table and write its record."""
    commands = []
    out = ROOT / "runs" / f"table-{table}"
    for words in TABLES[table]:
        commands.append("clf train " + " ".join(words))
        done = subprocess.run([sys.executable, "-m", "cl_framework.cli", "train", *words, f"out={out}"], check=False)
        if done.returncode:
            sys.exit(done.returncode)
    environment = json.loads(next(out.rglob("environment.json")).read_text())
    environment.pop("wandb_id")
    write_json(ROOT / "runs" / "reference" / f"{table}.json",
               {"commands": commands, "environment": environment, "groups": json.loads(as_json(groups(out)))})


if __name__ == "__main__":
    for name in sys.argv[1:] or TABLES:
        run(name)
