"""The largest resident memory of a run of split_mnist, beside the bytes of its data and its model, and the libraries.

    python benchmarks/memory_peak.py              # writes runs/reference/memory_peak.json

The limit is what cannot be avoided: the bytes of all rows and labels of the data set, the weights, and what Python and
its packages take. These are measured twice. *Imported* is a process that has imported what a run imports and done
nothing; *used* is a whole run on the digits, less the bytes of these: it holds the code that torch, Lightning and the
report load when they are first called, and none of MNIST.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from statistics import median

from merging_speed import WATCH
from timing import write

from cl_framework.models import MLP
from cl_framework.protocol import build_model
from cl_framework.registry import load
from cl_framework.scenario import Stream

RUNS, TARGET = 5, 1.3
IMPORTS = "import cl_framework.protocol, cl_framework.launch, cl_framework.configuration"


def peak(*command: str) -> int:
    """The largest resident set of a process of its own, in bytes (Linux, where it is counted in KiB)."""
    done = subprocess.run([sys.executable, "-c", WATCH, sys.executable, *command], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=True)
    return int(done.stdout) * 1024


def run(scenario: str) -> int:
    """The largest resident set of a whole run, in a folder of its own: one that is finished is not done again."""
    with tempfile.TemporaryDirectory() as out:
        return peak("-m", "cl_framework.cli", "train", f"scenario={scenario}", "strategy=naive",
                    "track.wandb=disabled", f"out={out}")


def bytes_of(stream: Stream) -> int:
    """The rows and labels of a stream, and the weights of the network that learns it."""
    model = build_model(MLP(), stream.info, 0)
    parts = [data for index in range(len(stream)) for data in (stream[index].train, stream.test(index).data)]
    rows = {data.store_id(): data.store_bytes for data in parts}
    labels = sum(data.y.numel() * data.y.element_size() for data in parts)
    return sum(rows.values()) + labels + sum(value.numel() * value.element_size() for value in model.parameters())


def main() -> None:
    """Measure, print, write."""
    needed = {name: bytes_of(load("scenario", name)().open("single", order_seed=None))
              for name in ("split_mnist", "split_digits")}
    imported, digits, mnist = (int(median(work() for _ in range(RUNS))) for work in (
        lambda: peak("-c", IMPORTS), lambda: run("split_digits"), lambda: run("split_mnist")))
    used = digits - needed["split_digits"]
    write("memory_peak", {
        "run": "clf train scenario=split_mnist strategy=naive", "target": TARGET, "peak_bytes": mnist,
        "data_and_model_bytes": needed["split_mnist"], "libraries_bytes": {"imported": imported, "used": used},
        "over_data_and_model": {name: round((mnist - libraries) / needed["split_mnist"], 3)
                                for name, libraries in (("imported", imported), ("used", used))}})


if __name__ == "__main__":
    main()
