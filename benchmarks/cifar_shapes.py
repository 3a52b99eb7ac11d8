"""Every preset of split CIFAR-10 and CIFAR-100, end to end, on generated images in CIFAR's own files.

    python benchmarks/cifar_shapes.py

It shows that the commands run, from files to table; the numbers mean nothing. One epoch instead of fifty and a few
images a class; everything else is the preset's. Writes runs/reference/cifar_shapes.json, and runs nothing that is in it
already.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cl_framework.files import write_json
from cl_framework.presets import preset_names
from cl_framework.runs import git_commit

ROOT = Path(__file__).resolve().parent.parent
N_TRAIN, N_TEST = 2, 1


def generate(folder: Path) -> None:
    """Files of CIFAR's format: rows of 3,072 bytes, a class's images around a colour of its own."""
    draw = np.random.default_rng(0)

    def write(path: Path, labels: np.ndarray, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.random.default_rng(1).integers(0, 256, (100, 3072))
        data = np.clip(colours[labels] // 2 + draw.integers(0, 128, (len(labels), 3072)), 0, 255).astype(np.uint8)
        path.write_bytes(pickle.dumps({b"data": data, key.encode(): labels.tolist()}, protocol=2))

    for number in range(1, 6):
        write(folder / "cifar10/cifar-10-batches-py" / f"data_batch_{number}", np.arange(10 * N_TRAIN) % 10, "labels")
    write(folder / "cifar10/cifar-10-batches-py/test_batch", np.arange(10 * N_TEST) % 10, "labels")
    write(folder / "cifar100/cifar-100-python/train", np.arange(100 * N_TRAIN) % 100, "fine_labels")
    write(folder / "cifar100/cifar-100-python/test", np.arange(100 * N_TEST) % 100, "fine_labels")


def main() -> None:
    """Run all of them and write the record."""
    record = ROOT / "runs" / "reference" / "cifar_shapes.json"
    rows = json.loads(record.read_text())["rows"] if record.exists() else []
    done_before = {row["experiment"] for row in rows}
    names = [name for name in preset_names("experiment") if "cifar" in name and name not in done_before]
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for name in names:
            start = time.monotonic()
            words = ["train", f"experiment={name}", "scenario.is_official=false", "train.epochs=1",
                     "track.wandb=disabled", f"out={folder}/runs"]
            done = subprocess.run([sys.executable, "-m", "cl_framework.cli", *words], capture_output=True, text=True,
                                  env={**os.environ, "CLF_DATA": folder}, check=False)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            summary = max(Path(folder).rglob("summary.json"), key=lambda path: path.stat().st_mtime)
            metrics = json.loads(summary.read_text())["metrics"]
            rows.append({"experiment": name, "seconds": round(time.monotonic() - start, 1),
                         "n_parameters": metrics["n_parameters"], "memory_bytes": metrics["memory_bytes"]})
            write_json(record, {"command": "python benchmarks/cifar_shapes.py", "git_commit": git_commit(),
                                "rows": rows})
            print(f"{name:32} {rows[-1]['seconds']:6.1f} s  {metrics['n_parameters']:,.0f} parameters  "
                  f"{metrics['memory_bytes']:,.0f} bytes kept", flush=True)


if __name__ == "__main__":
    main()
