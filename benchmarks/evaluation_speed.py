"""Evaluation after each experience beside one forward pass over the same held-out rows, T = 20 experiences.

The limit is what cannot be avoided: the network, run once over all rows seen, in the batches that are fastest for it,
and a comparison of its answers with the labels. Ours also cuts the rows into experiences, restricts answers to the
classes of each, and counts both matrices.

    python benchmarks/evaluation_speed.py
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
from functools import partial
from statistics import median

import torch
from timing import clocked, in_turns, ratio, write

from cl_framework.data import Dataset, TestSet
from cl_framework.evaluate import evaluate
from cl_framework.models import MLP, Architecture, Model
from cl_framework.protocol import build_model
from cl_framework.record import AccuracyMatrix
from cl_framework.resnets import SlimResNet18
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo

T, TARGET, BATCH_SIZES = 20, 1.1, (64, 256, 1024)


class Case:
    """A network and its held-out rows, in T experiences."""

    def __init__(self, name: str, architecture: Architecture, shape: tuple[int, ...], n_rows: int,
                 repeats: int) -> None:
        self.name, self.repeats = name, repeats
        generator = torch.Generator().manual_seed(0)
        self.raw = torch.randint(0, 256, (n_rows, *shape), dtype=torch.uint8, generator=generator)
        self.y = torch.arange(n_rows) // (n_rows // T)
        info = StreamInfo(n_experiences=T, n_classes=T, input_shape=shape, mean=(0.5,), std=(0.25,))
        self.model: Model = build_model(architecture, info, 0)
        self.model.observe(range(T))
        self.tests = [(index, TestSet(Dataset(self.raw, self.y[rows], rows), (index,)))
                      for index, rows in enumerate(torch.arange(n_rows).split(n_rows // T))]

    def ours(self) -> None:
        """All test sets through the evaluator."""
        evaluate(Strategy(), self.model, self.tests, AccuracyMatrix(T), T)

    def bare(self, batch_size: int) -> int:
        """One pass over all rows."""
        self.model.eval()
        hits = torch.zeros((), dtype=torch.int64)
        with torch.no_grad():
            for rows in torch.arange(len(self.y)).split(batch_size):
                logits = self.model(self.model.preprocess(self.raw[rows])).logits
                hits += (logits.argmax(1) == self.y[rows]).sum()
        return int(hits)

    def measure(self) -> dict[str, object]:
        """The ratio."""
        ways = {"ours": partial(clocked, self.ours)}
        ways |= {str(size): partial(clocked, partial(self.bare, size)) for size in BATCH_SIZES}
        seconds = in_turns(ways, self.repeats)
        fastest = min(map(str, BATCH_SIZES), key=lambda size: median(seconds[size]))
        return {"case": self.name, "rows": len(self.y), "experiences": T, "fastest_bare_batch": int(fastest),
                "ours_over_bare": ratio(seconds, "ours", fastest)}


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    cases = [Case("mlp 784-100-100-20", MLP(hidden=[100, 100]), (1, 28, 28), 10_000, 15),
             Case("slim_resnet18", SlimResNet18(), (3, 32, 32), 2_000, 3)]
    write("evaluation_speed", {"target": TARGET, "cases": [case.measure() for case in cases]})


if __name__ == "__main__":
    main()
