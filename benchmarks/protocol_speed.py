"""The whole two-phase protocol of one strategy on Fashion-MNIST: time, and how busy the cores are.

    python benchmarks/protocol_speed.py

10 trials of 3 seeds on one half of the classes, 5 seeds of the winner on the other, two processes; er on an MLP.
Written to runs/reference/protocol_speed.json. The share of the cores is CPU time over two times wall-clock time,
start-up and all, which other work on the machine takes away from.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cl_framework.files import write_json
from cl_framework.runs import git_commit

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["protocol", "scenario=split_fashion", "strategy=er", "protocol=gtep_lite", "baselines=false", "defaults=false",
         "scenario.sizes=[2,2,1]", "launcher=local", "workers=2", "track.wandb=disabled"]


def main() -> None:
    """Run it once in an empty folder, and write the record."""
    with tempfile.TemporaryDirectory() as out:
        began, load = time.monotonic(), os.getloadavg()[0]
        done = subprocess.run([sys.executable, "-m", "cl_framework.cli", *WORDS, f"out={out}"], check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"clf {' '.join(WORDS)} ended with status {done.returncode}:\n{done.stderr}")
        wall = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        (record,) = Path(out).rglob("protocol.json")
        made = json.loads(record.read_text())
    cpu = used.ru_utime + used.ru_stime
    costs = made["costs"]
    found = {"command": "clf " + " ".join(WORDS), "git_commit": git_commit(), "python": platform.python_version(),
             "torch": torch.__version__, "load_before": round(load, 2), "wall_seconds": round(wall, 1),
             "cpu_seconds": round(cpu, 1), "share_of_two_cores": round(cpu / wall / 2, 3),
             "tuning_wall_seconds": round(costs["tuning"]["wall_seconds"], 1),
             "tuning_train_seconds": round(costs["tuning"]["train_seconds"], 1),
             "runs": costs["tuning"]["runs"] + len(made["evaluation"][0]["runs"])}
    write_json(ROOT / "runs" / "reference" / "protocol_speed.json", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
