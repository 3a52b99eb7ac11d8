"""What projecting without the full right basis saves, for strategy=opcm on a layer of 768 x 3072.

The thin form needs the 768 leading singular vectors of either side; the form as written multiplies with a basis of
3072 x 3072. Both are timed in turn, in one process on one thread of the processor, and their results compared. The
target is a median ratio of 4 at least.

    python benchmarks/merging_speed.py out.json
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from cl_framework.files import write_json
from cl_framework.projection import Reading, basis_of, cut_of, projected

TARGET = 4.0
SHAPE = (768, 3072)
ALPHA = 0.5
REPEATS = 7


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
    for _ in range(REPEATS):
        thin_time, ours = seconds(lambda: thin(update, merged, reading))
        full_time, theirs = seconds(lambda: with_full_basis(update, merged, reading))
        ratios.append(full_time / thin_time)
        thin_seconds.append(thin_time)
        full_seconds.append(full_time)
        apart = max(apart, float((ours - theirs).norm() / theirs.norm()))
    return {"reading": reading, "repeats": REPEATS, "thin_seconds": round(median(thin_seconds), 3),
            "full_seconds": round(median(full_seconds), 3), "median_ratio": round(median(ratios), 2),
            "lowest_ratio": round(min(ratios), 2), "relative_difference": apart,
            "is_within_target": median(ratios) >= TARGET}


def main(path: Path) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    rows = [measure("code"), measure("paper")]
    result = {"torch": torch.__version__, "python": platform.python_version(), "shape": SHAPE, "alpha": ALPHA,
              "target": TARGET, "cases": rows}
    print(json.dumps(result, indent=2))
    write_json(path, result)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python benchmarks/merging_speed.py FILE.json")
    main(Path(sys.argv[1]))
