"""The published tables of docs/results.md: run every preset that has a published number (finished runs are skipped).

    make reproduce                                   # all tables
    python benchmarks/reproduce.py hsu2018/class     # one
    python benchmarks/reproduce.py hsu2018 seed=0..2

Two processes work at a time. Runs lie in runs/reproduce; stop it at any moment and start it again. Each table is
written to runs/reference/<table>.json with its command, seeds, commits, environment and the CPU time of all its runs.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from cl_framework.comparison import as_json
from cl_framework.errors import ConfigError
from cl_framework.files import write_json
from cl_framework.published import compare, published
from cl_framework.report import groups
from cl_framework.runs import git_commit

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "reproduce"
TABLES = ("hsu2018/class", "hsu2018/domain", "hsu2018/task", "der2020_mnist/split", "gdumb2020",
          "der2020_mnist/permuted")
FEWER = {"der2020_mnist/permuted": "0..2", "gdumb2020": "0..4"}
"""Fewer seeds than ten, where a run takes minutes: by the name of a preset or of a table."""


def run(table: str, seeds: str | None) -> None:
    """Run what is missing of a table and write its record; presets with fewer seeds come last."""
    names = list(dict.fromkeys(row.experiment for row in published([table])))
    wanted: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: name.rpartition("/")[2] in FEWER):
        wanted.setdefault(seeds or FEWER.get(name.rpartition("/")[2], FEWER.get(table, "0..9")), []).append(name)
    commands = []
    for chosen, members in wanted.items():
        words = [f"experiment={','.join(members)}", f"seed={chosen}", "launcher=local", "workers=2",
                 "track.wandb=disabled"]
        commands.append("clf train " + " ".join(words))
        before = _cpu_seconds()
        done = subprocess.run([sys.executable, "-m", "cl_framework.cli", "train", *words, f"out={OUT}"], check=False,
                              stdout=subprocess.DEVNULL)
        write(table, commands, _cpu_seconds() - before)
        if done.returncode:
            sys.exit(done.returncode)


def write(table: str, commands: list[str], cpu_seconds: float) -> None:
    """Write the record of what there is of a table, and print it."""
    path = ROOT / "runs" / "reference" / f"{table.replace('/', '_')}.json"
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = compare(published([table]), groups(OUT))
    newest = max((path for path in OUT.rglob("environment.json")), key=lambda path: path.stat().st_mtime)
    environment = json.loads(newest.read_text())
    environment.pop("wandb_id")
    write_json(path, {
        "commands": commands, "environment": environment, "written_at_commit": git_commit(),
        "cpu_seconds": round(earlier.get("cpu_seconds", 0.0) + cpu_seconds, 1), "rows": json.loads(as_json(found))})
    for each in found:
        ours = "-" if each.ours is None else f"{each.ours.mean:.2f} (n={each.ours.n})"
        print(f"{table:24} {each.published.row:30} {each.published.mean:6.2f} {ours:16} {each.verdict}", flush=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    given = [word.removeprefix("seed=") for word in sys.argv[1:] if word.startswith("seed=")]
    chosen = [word for word in sys.argv[1:] if not word.startswith("seed=")]
    try:
        for name in chosen or TABLES:
            run(name, given[0] if given else None)
    except ConfigError as error:
        sys.exit(f"reproduce: {error}")
