"""What each strategy of test-time adaptation costs beside the frozen source: seconds a batch, and memory at its peak.

    make adaptation-cost

Steps of a strategy and of `source` are taken in turn on one thread of the processor, on the same batches; the ratio of
their processor times is the median over pairs. Memory is the largest number of bytes that tensors made during a step
hold at once, with the weights of the network and what the strategy keeps: it is counted, so it does not depend on the
machine. Every strategy has its defaults. Written to runs/reference/adaptation_cost.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cl_framework.data import Dataset
from cl_framework.evaluate import answer_online
from cl_framework.experience import Experience
from cl_framework.files import write_json
from cl_framework.models import Model
from cl_framework.protocol import build_model
from cl_framework.registry import plugins
from cl_framework.resnets import SlimResNet18
from cl_framework.runs import git_commit
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, StreamInfo

OUT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "adaptation_cost.json"
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("bn_stats", "tent", "eata", "sar", "rotta", "roid")},
    "cotta, 4 views": ("cotta", {"n_views": 4}), "cotta": ("cotta", {}),
    "psmt release": ("psmt", {"variant": "release"}),
    "psmt paper, 4 views": ("psmt", {"variant": "paper", "n_views": 4}), "psmt paper": ("psmt", {"variant": "paper"}),
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += n_bytes
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, key, n_bytes)

    def _freed(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.live -= n_bytes


SIZE, CLASSES, SHAPE = 100, tuple(range(10)), (3, 32, 32)
"""Rows of a batch, classes, and the shape of an image."""
SURE = 30.0
"""The head's fresh weights are multiplied by this, so that answers are as sure as those of a network that has learned:
else those who learn from sure answers alone have nothing to do."""
INFO = StreamInfo(n_experiences=1, n_classes=len(CLASSES), input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3,
                  is_labelled=False, batch_size=SIZE)


def rows(n: int, seed: int) -> Dataset:
    """Random images with labels, of which a strategy that asks for source rows takes some."""
    generator = torch.Generator().manual_seed(seed)
    return Dataset(torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=generator),
                   torch.arange(n) % len(CLASSES))


class Setup:
    """A network and the strategy that adapts it."""

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.model: Model = build_model(SlimResNet18(), INFO, 0)
        self.model.observe(CLASSES)
        self.model.eval()
        with torch.no_grad():
            for weights in self.model.head.parameters():
                weights.mul_(SURE)
        self.strategy: Strategy = plugins("strategy")[name].load()(**fields)
        self.strategy.setup(self.model, INFO)
        source = rows(1000, 1)
        told = Experience(index=0, classes=CLASSES, class_names=tuple(map(str, CLASSES)),
                          train=source.subset(torch.arange(0)), past=(source,))
        self.strategy.before_experience(self.model, told)

    def step(self, batch: Batch) -> float:
        """Answer a batch and adapt to it; processor time in seconds."""
        began = time.process_time()
        answer_online(self.strategy, self.model, batch)
        return time.process_time() - began

    def peak(self, batches: Sequence[Batch]) -> int:
        """Bytes: the weights, what the strategy keeps, and the most that tensors of one of these steps hold."""
        most = 0
        for batch in batches:
            with LiveBytes() as bytes_of:
                self.step(batch)
            most = max(most, bytes_of.peak)
        held = (*self.model.parameters(), *self.model.buffers())
        weights = sum(value.numel() * value.element_size() for value in held)
        return weights + int(self.strategy.metrics().get("memory_bytes", 0)) + most


def main(pairs: int, out: Path) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    data = rows(SIZE * (pairs + 2), 2)
    batches = [data.take(torch.arange(SIZE) + SIZE * index) for index in range(pairs + 2)]
    source, found = Setup("source", {}), []
    source_peak = source.peak(batches[:2])
    for label, (name, fields) in STRATEGIES.items():
        setup = Setup(name, fields)
        peak = setup.peak(batches[:2])
        ratios = sorted(setup.step(batch) / source.step(batch) for batch in batches[2:])
        found.append({"strategy": label, "time": round(median(ratios), 2), "lowest": round(ratios[0], 2),
                      "highest": round(ratios[-1], 2), "memory": round(peak / source_peak, 2), "peak_bytes": peak})
        print(json.dumps(found[-1]), flush=True)
    write_json(out, {"command": "make adaptation-cost", "git_commit": git_commit(), "torch": torch.__version__,
                     "python": platform.python_version(), "network": "slim_resnet18", "batch_size": SIZE,
                     "pairs": pairs, "source_peak_bytes": source_peak, "rows": found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What test-time adaptation costs beside the frozen source.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    main(given.pairs, given.out)
