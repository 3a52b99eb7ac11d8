"""What runs and searches leave on the disk: bytes and files of a run folder, and of a study, with what a trial costs.

    python benchmarks/disk_use.py                 # writes runs/reference/disk_use.json

Runs are whole ones by the real command. A study is filled by the framework's own ledger, three seeds a trial, as
`clf tune` does it; the processor time of a trial is measured over the last twenty.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from timing import clocked, write

from cl_framework.search import Space
from cl_framework.study import JOURNAL, Ledger
from cl_framework.trials import Score

RUNS = {"er, mlp": ("split_fashion", "er", "mlp"), "naive, slim_resnet18": ("split_digits", "naive", "slim_resnet18")}
TRIALS, SEEDS, LAST = (100, 1_000), 3, 20
SPACE = Space({"strategy.alpha": (0.1, 0.2, 0.3, 0.5, 1.0), "strategy.beta": (0.1, 0.5, 1.0),
               "train.lr": (0.01, 0.03, 0.1), "train.batch_size": (10, 32, 128)})


def run(scenario: str, strategy: str, model: str) -> dict[str, Any]:
    """A finished run's folder."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([sys.executable, "-m", "cl_framework.cli", "train", f"scenario={scenario}",
                        f"strategy={strategy}", f"model={model}", "track.wandb=disabled", f"out={out}"], check=True,
                       capture_output=True)
        files = [file for file in Path(out).rglob("*") if file.is_file()]
        checkpoints = [file.stat().st_size for file in files if file.suffix == ".pt"]
        return {"scenario": scenario, "files": len(files), "bytes": sum(file.stat().st_size for file in files),
                "checkpoint_bytes": sum(checkpoints), "checkpoints": len(checkpoints)}


def study(n_trials: int) -> dict[str, Any]:
    """A study of so many trials in a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger("study", SPACE, Path(folder), None, "here")
        values = {key: grid[0] for key, grid in SPACE.grids.items()}
        ledger.put_down([values] * n_trials)

        def trials(first: int, stop: int) -> None:
            for number in range(first, stop):
                assert ledger.claim(number)
                for seed in range(SEEDS):
                    ledger.record(number, seed, Score(value=0.5, average_accuracy=0.5, n_parameters=1e5, seconds=10.0))
                ledger.end(number, "complete", 0.5)

        trials(0, n_trials - LAST)
        seconds = clocked(lambda: trials(n_trials - LAST, n_trials))
        return {"trials": n_trials, "bytes_a_trial": round((Path(folder) / JOURNAL).stat().st_size / n_trials),
                "milliseconds_a_trial": round(1e3 * seconds / LAST, 2)}


def main() -> None:
    """Measure, print, write."""
    write("disk_use", {"runs": {name: run(*words) for name, words in RUNS.items()}, "seeds": SEEDS,
                       "study": [study(n) for n in TRIALS]})


if __name__ == "__main__":
    main()
