"""What merging with opcm costs: the time of a projection, and the memory of `clf merge` as experts are added.

The thin form of the projection needs the 768 leading singular vectors of either side of a layer of 768 x 3072; the form
as written multiplies with a basis of 3072 x 3072. Both are timed in turn, in one process on one thread of the
processor, and their results compared. The target is a median ratio of 4 at least. Beside them stand the products and
the decomposition that the thin form cannot do without, and nothing else; it should take at most 1.3 of their time.

Models of such layers are merged from files, 2 experts and 6, each in a process of its own whose largest resident set
is read. The target is that four more experts take less than half a model more.

    python benchmarks/merging_speed.py

It writes runs/reference/merging_speed.json.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file
from torch import Tensor

from cl_framework.files import write_json
from cl_framework.projection import Reading, basis_of, cut_of, projected
from cl_framework.runs import git_commit

RECORD = Path(__file__).resolve().parent.parent / "runs" / "reference" / "merging_speed.json"
TARGET, ARITHMETIC_TARGET = 4.0, 1.3
SHAPE = (768, 3072)
ALPHA = 0.5
REPEATS, BLOCK = 7, 256
N_LAYERS = 8
FEW, MANY = 2, 6
MEMORY_TARGET = 0.5
"""Models that MANY experts may take more than FEW."""
WATCH = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
         "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
"""Stands between, small itself: a process begins with the resident set of the one that starts it."""


def with_full_basis(update: Tensor, merged: Tensor, reading: Reading) -> Tensor:
    """U (M * U^T T V) V^T with the full V, as the projection is defined."""
    u, sigma, vh = torch.linalg.svd(merged, full_matrices=True)
    mask = torch.ones_like(update)
    mask.fill_diagonal_(0)
    r = cut_of(sigma, ALPHA, reading)
    if reading == "code":
        mask[:r, :r] = 0
    else:
        mask[:r], mask[:, :r] = 0, 0
    return u @ (mask * (u.mT @ update @ vh.mT)) @ vh


def thin(update: Tensor, merged: Tensor, reading: Reading) -> Tensor:
    """The same from the thin decomposition."""
    basis = basis_of(merged)
    return projected(update, basis, cut_of(basis.sigma, ALPHA, reading), reading)


def arithmetic(update: Tensor, merged: Tensor, r: int) -> Tensor:
    """What cannot be left out: half of D D^T and its eigenvectors in float64, V = D^T U, U^T T, the cut, and U back."""
    wide = merged.double()
    gram = wide.new_zeros(len(wide), len(wide))
    for start in range(0, len(wide), BLOCK):
        torch.mm(wide[start:start + BLOCK], wide[:start + BLOCK].mT, out=gram[start:start + BLOCK, :start + BLOCK])
    u = torch.linalg.eigh(gram)[1].to(update)
    v, left = merged.mT @ u, u.mT @ update
    left[:r] = left[:r] @ v[:, :r] @ v[:, :r].mT
    return torch.addmm(update, u, left, alpha=-1)


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor time of a piece of work, which other processes do not lengthen, and what it made."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def measure(reading: Reading) -> dict[str, object]:
    """Times of both forms, and how far their results lie apart."""
    draw = torch.Generator().manual_seed(0)
    merged, update = (torch.randn(SHAPE, generator=draw) for _ in range(2))
    ratios, apart, thin_seconds, full_seconds = list[float](), 0.0, list[float](), list[float]()
    over_arithmetic, r = list[float](), cut_of(basis_of(merged).sigma, ALPHA, reading)
    for _ in range(REPEATS):
        thin_time, ours = seconds(lambda: thin(update, merged, reading))
        full_time, theirs = seconds(lambda: with_full_basis(update, merged, reading))
        ratios.append(full_time / thin_time)
        over_arithmetic.append(thin_time / seconds(lambda: arithmetic(update, merged, r))[0])
        thin_seconds.append(thin_time)
        full_seconds.append(full_time)
        apart = max(apart, float((ours - theirs).norm() / theirs.norm()))
    return {"reading": reading, "repeats": REPEATS, "thin_seconds": round(median(thin_seconds), 3),
            "full_seconds": round(median(full_seconds), 3), "median_ratio": round(median(ratios), 2),
            "over_arithmetic": round(median(over_arithmetic), 2), "arithmetic_target": ARITHMETIC_TARGET,
            "lowest_ratio": round(min(ratios), 2), "relative_difference": apart,
            "is_within_target": median(ratios) >= TARGET}


def write_models(folder: Path, n_layers: int) -> int:
    """A base and MANY experts of some layers; returns the bytes of the weights of one."""
    draw = torch.Generator().manual_seed(0)
    base = {f"{k}.weight": torch.randn(SHAPE, generator=draw) for k in range(n_layers)}
    save_file(base, folder / "base.safetensors")
    for i in range(MANY):
        expert = {name: value + 0.1 * torch.randn(SHAPE, generator=draw) for name, value in base.items()}
        save_file(expert, folder / f"{i}.safetensors")
    return sum(value.numel() * value.element_size() for value in base.values())


def peak_bytes(folder: Path, n_experts: int) -> int:
    """The largest resident set of a `clf merge` of its own (Linux, where it is counted in KiB)."""
    experts = ",".join(f"{i}.safetensors" for i in range(n_experts))
    merge = [sys.executable, "-m", "cl_framework.cli", "merge", "base=base.safetensors", f"experts={experts}",
             "method=opcm", "out=merged.safetensors"]
    done = subprocess.run([sys.executable, "-c", WATCH, *merge], cwd=folder, stdout=subprocess.PIPE, text=True,
                          check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return int(done.stdout) * 1024


def memory() -> dict[str, object]:
    """Peak memory with few and with many experts, and of one layer, which is what imports and a projection take."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), 1)
        one_layer = peak_bytes(Path(folder), FEW)
        model = write_models(Path(folder), N_LAYERS)
        few, many = (peak_bytes(Path(folder), n) for n in (FEW, MANY))
    return {"layers": N_LAYERS, "model_bytes": model, "peak_bytes_of_one_layer": one_layer,
            "peak_bytes": {str(FEW): few, str(MANY): many}, "more_models": round((many - few) / model, 3),
            "target": MEMORY_TARGET, "is_within_target": many - few <= MEMORY_TARGET * model}


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    result = {"command": "python benchmarks/merging_speed.py", "git_commit": git_commit(), "torch": torch.__version__,
              "python": platform.python_version(), "shape": SHAPE, "alpha": ALPHA, "memory": memory(),
              "time": {"target": TARGET, "cases": [measure("code"), measure("paper")]}}
    print(json.dumps(result, indent=2))
    write_json(RECORD, result)


if __name__ == "__main__":
    main()
