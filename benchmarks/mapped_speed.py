"""Data larger than memory: rows of a file that is mapped, beside the same rows in memory, in one process.

    python benchmarks/mapped_speed.py             # writes runs/reference/mapped_speed.json

There is no loader with workers: the data cache maps its files, and pages come when rows are read and go when memory is
short. The file here is 1.5 times as large as the memory of the machine, and sparse, so that it takes no room on the
disk: what is measured is the way through the mapping, to which a real disk adds its own time. Rows of the epoch lie
evenly over the whole file. `mapped` finds its pages in the system's cache, `cold` is the first epoch, for which there
are none. Pages that were read count as cache, not as memory of the process, so that is what is asked of the kernel: its
anonymous bytes before and after.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import json
import os
import re
import struct
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from throughput import Watch
from timing import in_turns, ratio, write

from cl_framework.data import Dataset
from cl_framework.mapped_arrays import mapped
from cl_framework.models import MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo

SHAPE, N_READ, BATCH_SIZE, REPEATS, LARGER = (3, 32, 32), 10_000, 128, 5, 1.5
INFO = StreamInfo(n_experiences=1, n_classes=10, input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)


def sparse(path: Path, n_bytes: int) -> int:
    """Write a safetensors file of zeros that takes no room; how many rows it has."""
    row = int(np.prod(SHAPE))
    n = n_bytes // row
    head = json.dumps({"x": {"dtype": "U8", "shape": [n, *SHAPE], "data_offsets": [0, n * row]}}).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + n * row)
    return n


def forgotten(path: Path) -> None:
    """Let the system's cache forget a file, of which no page may be mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous() -> int:
    """Bytes of this process that no file is behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def learn(data: Dataset) -> float:
    """Processor time of one epoch through the whole framework."""
    test = Dataset(torch.zeros(10, *SHAPE, dtype=torch.uint8), torch.arange(10))
    part = Part(train=data, test=test, classes=tuple(range(10)), class_names=tuple("0123456789"))
    watch = Watch("cpu")
    run_stream(Strategy(), ResidentStream(INFO, [part]), build_model(MLP(hidden=[100, 100]), INFO, 0),
               recipe=Recipe(optimizer="sgd", lr=0.05, batch_size=BATCH_SIZE), observer=watch)
    return watch.seconds[0]


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        n = sparse(path, int(LARGER * memory))
        rows, y = torch.linspace(0, n - 1, N_READ, dtype=torch.float64).long(), torch.arange(N_READ) % 10
        resident = Dataset(torch.zeros(N_READ, *SHAPE, dtype=torch.uint8), y)
        learn(resident)
        before = anonymous()
        forgotten(path)
        store = mapped(path)["x"]
        cold = learn(Dataset(store, y, rows))
        seconds = in_turns({"mapped": lambda: learn(Dataset(store, y, rows)), "resident": lambda: learn(resident)},
                           REPEATS)
        write("mapped_speed", {
            "memory_bytes": memory, "file_bytes": path.stat().st_size, "rows_of_the_file": n, "rows_read": N_READ,
            "batch_size": BATCH_SIZE, "repeats": REPEATS, "mapped_over_resident": ratio(seconds, "mapped", "resident"),
            "cold_over_resident": round(cold / median(seconds["resident"]), 2),
            "growth_over_file_bytes": round((anonymous() - before) / path.stat().st_size, 5)})


if __name__ == "__main__":
    main()
