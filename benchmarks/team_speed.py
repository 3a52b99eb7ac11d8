"""Seconds of a step that two processes share, beside one: `trainer.processes=2`, the same global batch.

    python benchmarks/team_speed.py               # writes runs/reference/team_speed.json

The whole framework learns random images of CIFAR's shape, one thread a process, by the clock and in turns. Two
processes exchange the answers and the gradients of every step (gloo), and with batch normalisation its moments, so
that small networks lose and large ones gain. The losses of both are compared.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import in_turns, ratio, write

from cl_framework.config import resolve
from cl_framework.data import Dataset
from cl_framework.observer import Cursor, Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.team import joined
from cl_framework.types import StreamInfo

SHAPE, CLASSES, REPEATS = (3, 32, 32), 10, 3
CASES = (("mlp", 128, 400), ("slim_resnet18", 32, 40), ("slim_resnet18", 128, 16), ("resnet18", 64, 6))
"""Network, rows of a batch, and steps that are timed."""


class Losses(Observer):
    """Keeps them."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Between two chunks."""
        self.seen += losses


def learned(network: str, size: int, steps: int) -> tuple[float, list[float]]:
    """Seconds of training, and the losses."""
    torch.set_num_threads(1)
    draws = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (size * steps, *SHAPE), dtype=torch.uint8, generator=draws)
    y = torch.arange(len(raw)) % CLASSES
    labels = tuple(range(CLASSES))
    part = Part(train=Dataset(raw, y), test=Dataset(raw[:CLASSES], y[:CLASSES]), classes=labels,
                class_names=tuple(map(str, labels)))
    info = StreamInfo(n_experiences=1, n_classes=CLASSES, input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)
    job, losses = resolve({"scenario": "split_cifar", "strategy": "naive", "model": network}), Losses()
    model = build_model(job.architecture, info, 0)
    record = run_stream(Strategy(), ResidentStream(info, [part]), model, observer=losses,
                        recipe=Recipe(optimizer="sgd", lr=0.01, batch_size=size))
    return float(record.seconds[0]), losses.seen


def _one(case: tuple[str, int, int], rank: int, n: int, place: str, out: Any) -> None:
    with joined(rank, n, place) if n > 1 else contextlib.nullcontext():
        found = learned(*case)
    if rank == 0:
        out.put(found)


def timed(case: tuple[str, int, int], n: int, losses: dict[int, list[float]]) -> float:
    """Seconds that n processes take."""
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_one, args=(case, rank, n, str(Path(folder) / "meeting"), out))
                     for rank in range(n)]
        for each in processes:
            each.start()
        seconds, losses[n] = out.get()
        for each in processes:
            each.join()
    return float(seconds)


def main() -> None:
    """Measure and write the record."""
    cases, load = [], os.getloadavg()[0]
    for case in CASES:
        network, size, steps = case
        losses: dict[int, list[float]] = {}
        seconds = in_turns({str(n): partial(timed, case, n, losses) for n in (1, 2)}, REPEATS)
        gap = max(abs(one - two) / abs(one) for one, two in zip(losses[1], losses[2], strict=True))
        found = ratio(seconds, "1", "2")
        cases.append({"model": network, "batch_size": size, "steps": steps, "one_over_two": found,
                      "milliseconds_a_step": {n: round(1e3 * min(taken) / steps, 3) for n, taken in seconds.items()},
                      "largest_relative_difference_of_a_loss": gap})
        print(f"{network}, batch {size}: {found['median']:.2f} x as fast with two processes, losses within {gap:.0e}",
              flush=True)
    write("team_speed", {"load_before": round(load, 2), "cases": cases})


if __name__ == "__main__":
    main()
