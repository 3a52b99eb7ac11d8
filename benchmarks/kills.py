"""Kill a run at random moments, take it up again, and compare its bits with a run that was never stopped.

    make kills                 # 20 kills of er, 20 of psmt; writes runs/reference/kills.json
    python benchmarks/kills.py er 3

Each attempt is a process of its own that is sent SIGKILL at a random moment after it began to learn; the same command
takes it up again. When a run ends before its kill, it is compared and a new one begins.
"""

from __future__ import annotations

import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cl_framework.files import write_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "kills.json"


def command(strategy: str, out: Path) -> list[str]:
    """A run of about two seconds that writes a checkpoint after every chunk of steps."""
    memory = ["strategy.memory_size=100"] if strategy == "er" else []
    return [sys.executable, "-m", "cl_framework.cli", "train", "scenario=split_digits", f"strategy={strategy}", *memory,
            "train.epochs=30", "train.checkpoint_every=0", "track.wandb=disabled", f"out={out}"]


def attempt(strategy: str, out: Path, patience: float | None) -> bool:
    """Run, and kill after `patience` seconds of learning; whether it was killed."""
    process = subprocess.Popen(command(strategy, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "learns" in line or "goes on" in line:
            break
    if patience is not None:
        time.sleep(patience)
        process.send_signal(signal.SIGKILL)
    rest = process.stderr.read()
    process.wait()
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"the run failed: {rest}")
    return process.returncode != 0


def final(out: Path) -> dict[str, Any]:
    """Everything that the finished run ended with, but for its times."""
    newest = max(out.glob("*/*/*/seed0/checkpoints/*.pt"))
    state: dict[str, Any] = torch.load(newest, weights_only=True)
    state["record"].pop("seconds")
    return {name: state[name] for name in ("model", "strategy", "record", "matrix", "cursor", "rng")}


def differing(a: Any, b: Any, path: str = "") -> list[str]:
    """The places where two states differ in a bit."""
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
        return [] if same else [path]
    if isinstance(a, dict):
        return [place for key in a.keys() | b.keys() for place in differing(a.get(key), b.get(key), f"{path}.{key}")]
    if isinstance(a, list | tuple):
        return [place for i, (x, y) in enumerate(zip(a, b, strict=True)) for place in differing(x, y, f"{path}[{i}]")]
    return [] if a == b else [path]


def kill_often(strategy: str, n_kills: int, folder: Path) -> dict[str, Any]:
    """Kill and take up until `n_kills` are reached; every finished run is compared."""
    draws = random.Random(n_kills)
    start = time.perf_counter()
    attempt(strategy, folder / "whole", None)
    span = min(2.0, (time.perf_counter() - start) / 3)
    whole = final(folder / "whole")
    kills, runs, faults, is_last = 0, 0, list[str](), False
    while not is_last:
        is_last = kills >= n_kills
        out = folder / f"cut{runs}"
        if attempt(strategy, out, None if is_last else draws.uniform(0.0, span)):
            kills += 1
        else:
            faults += differing(whole, final(out))
            runs += 1
    return {"strategy": strategy, "kills": kills, "finished_runs_compared": runs, "differing": faults}


def main() -> None:
    """Kill, compare, print, write."""
    strategies = sys.argv[1:2] or ["er", "psmt"]
    n_kills = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory() as folder:
        found = [kill_often(strategy, n_kills, Path(folder) / strategy) for strategy in strategies]
    print(found)
    if not sys.argv[1:]:
        write_json(RESULT, {"command": "make kills", "git_commit": git_commit(), "torch": torch.__version__,
                            "python": platform.python_version(), "results": found})
    sys.exit(any(row["differing"] for row in found))


if __name__ == "__main__":
    main()
