"""How the cost of a step grows: with experiences, classes, the size of the buffer, and processes.

    python benchmarks/scaling.py                  # writes runs/reference/scaling.json

Processor time on one thread, but for processes, which are measured by the clock:

- experiences: an online stream of one batch of 10 rows an experience, `er` with 500 rows; the training of an
  experience, and the whole run divided by their number. All are evaluated at the end, and the newest after each.
- classes: a step at batch 10, beside a bare loop with the same head.
- memory: a full buffer is offered 10 rows and gives 10, beside the same with Vitter's algorithm R on bare tensors.
- processes: four runs of split_fashion with `er`, `launcher=local`, with one worker and with two.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rehearsal_speed import LR, Reservoir, strategy_of
from throughput import Watch
from timing import clocked, in_turns, ratio, write

from cl_framework.data import Dataset
from cl_framework.memory import Buffer
from cl_framework.models import MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo

BATCH_SIZE, SHAPE, REPEATS = 10, (1, 28, 28), 5
EXPERIENCES = (10, 100, 1_000, 10_000)
CLASSES = (10, 100, 1_000, 10_000)
CAPACITIES = (100, 1_000, 10_000, 100_000)
STEPS, OFFERS = 600, 200
SEEDS, WORKERS, ROUNDS = 4, (1, 2), 3


def raw_rows(n: int) -> torch.Tensor:
    """Random images."""
    return torch.randint(0, 256, (n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def experiences(n: int) -> dict[str, Any]:
    """A stream of n experiences of one batch each, in ten equal parts."""
    raw, y = raw_rows(n * BATCH_SIZE), torch.zeros(BATCH_SIZE, dtype=torch.int64)
    parts = [Part(train=Dataset(raw, y, torch.arange(BATCH_SIZE) + BATCH_SIZE * i),
                  test=Dataset(raw, y[:1], torch.tensor([BATCH_SIZE * i])), classes=(0,), class_names=("0",))
             for i in range(n)]
    info = StreamInfo(n_experiences=n, n_classes=10, input_shape=SHAPE, is_online=True)
    stream, model, watch = ResidentStream(info, parts), build_model(MLP(hidden=[100, 100]), info, 0), Watch("cpu")
    recipe = Recipe(optimizer="sgd", lr=LR, batch_size=BATCH_SIZE, evaluate_every=n)
    whole = clocked(lambda: run_stream(strategy_of("er"), stream, model, recipe=recipe, observer=watch))
    bounds = [n * tenth // 10 for tenth in range(11)]
    tenths = [median(watch.seconds[start:stop]) for start, stop in pairwise(bounds)]
    return {"experiences": n, "milliseconds_of_training": round(1e3 * median(watch.seconds), 3),
            "milliseconds_in_all": round(1e3 * whole / n, 3), "tenths": [round(1e3 * each, 3) for each in tenths],
            "last_tenth_over_second": round(tenths[-1] / tenths[1], 3)}


def classes(n: int) -> dict[str, Any]:
    """A step with a head of n classes, all of which are there from the start."""
    raw = raw_rows(STEPS * BATCH_SIZE)
    y = torch.arange(len(raw)) * 7919 % n
    labels = tuple(range(n))
    test = Dataset(raw[:1].expand(n, *SHAPE), torch.arange(n))
    part = Part(train=Dataset(raw, y), test=test, classes=labels, class_names=tuple(map(str, labels)))
    info = StreamInfo(n_experiences=1, n_classes=n, input_shape=SHAPE, mean=(0.5,), std=(0.25,))

    def ours() -> float:
        watch = Watch("cpu")
        run_stream(Strategy(), ResidentStream(info, [part]), build_model(MLP(hidden=[100, 100]), info, 0),
                   recipe=Recipe(optimizer="sgd", lr=LR, batch_size=BATCH_SIZE), observer=watch)
        return watch.seconds[0]

    def bare() -> float:
        model = build_model(MLP(hidden=[100, 100]), info, 0)
        model.observe(labels)
        optimizer = torch.optim.SGD(model.train().parameters(), LR, fused=True)

        def epoch() -> None:
            for rows in torch.randperm(len(y)).split(BATCH_SIZE):
                optimizer.zero_grad()
                F.cross_entropy(model(model.preprocess(raw[rows])).logits, y[rows]).backward()
                optimizer.step()

        return clocked(epoch)

    seconds = in_turns({"ours": ours, "bare": bare}, REPEATS)
    return {"classes": n, "microseconds": {name: round(1e6 * median(taken) / STEPS, 1)
                                           for name, taken in seconds.items()},
            "ours_over_bare": ratio(seconds, "ours", "bare")}


def memory(capacity: int) -> dict[str, Any]:
    """A step of a full buffer: 10 rows are offered, 10 are drawn."""
    raw, y = raw_rows(capacity + BATCH_SIZE), torch.zeros(capacity + BATCH_SIZE, dtype=torch.int64)
    ours, bare = Buffer(capacity, "reservoir", torch.Generator().manual_seed(0)), Reservoir(SHAPE, capacity)
    logits = torch.zeros(capacity, 10)
    ours.add(raw[:capacity], y[:capacity])
    bare.add(raw[:capacity], y[:capacity], logits)
    new, labels = raw[capacity:], y[capacity:]

    def of_ours() -> None:
        for _ in range(OFFERS):
            ours.add(new, labels)
            ours.draw(BATCH_SIZE)

    def of_bare() -> None:
        for _ in range(OFFERS):
            bare.add(new, labels, logits[:BATCH_SIZE])
            places = bare.draw()
            _ = bare.raw[places], bare.y[places]

    seconds = in_turns({"ours": lambda: clocked(of_ours), "bare": lambda: clocked(of_bare)}, REPEATS)
    return {"capacity": capacity, "microseconds": {name: round(1e6 * median(taken) / OFFERS, 1)
                                                   for name, taken in seconds.items()},
            "ours_over_bare": ratio(seconds, "ours", "bare")}


def processes(workers: int) -> float:
    """Seconds of the clock of the same runs with so many workers."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cl_framework.cli", "train", "scenario=split_fashion", "strategy=er",
                        f"seed=0..{SEEDS - 1}", "launcher=local", f"workers={workers}", "track.wandb=disabled",
                        f"out={out}"], check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    clocks: dict[str, list[float]] = {str(workers): [] for workers in WORKERS}
    for _ in range(ROUNDS):
        for workers in WORKERS:
            clocks[str(workers)].append(processes(workers))
    write("scaling", {
        "load_before": load, "batch_size": BATCH_SIZE, "repeats": REPEATS, "rounds": ROUNDS,
        "experiences": [experiences(n) for n in EXPERIENCES], "classes": [classes(n) for n in CLASSES],
        "memory": [memory(capacity) for capacity in CAPACITIES],
        "processes": {"runs": SEEDS, "seconds": {workers: round(median(taken), 1) for workers, taken in clocks.items()},
                      "one_over_two": ratio(clocks, "1", "2")}})


if __name__ == "__main__":
    main()
