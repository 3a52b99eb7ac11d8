"""Ten seeds of one small model, trained together (`launcher=vector`) and one after another, in one run of a process.

    python benchmarks/vector_speed.py             # writes runs/reference/vector_speed.json

Every repetition measures all ways in turn, on the same rows and through the whole framework, with one torch thread:

- alone: ten runs one after another in this process; together: the ten at once; half: five at once. In seconds of CPU
  time of the process, which other work on the machine disturbs less than a clock.
- two processes: five seeds together in each of two processes that are already there, by the clock, from when both are
  told to begin until both have ended; `alone_clock` is the same clock for the ten runs one after another.

`one_process` is alone / together, `two_cores` is alone_clock / two_processes, both medians over repetitions, with the
smallest and the largest. On a machine where two cores are not free, `two_cores_cpu`, alone / half, says what they
would give if the processes did not disturb each other.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from cl_framework.data import Dataset
from cl_framework.files import write_json
from cl_framework.hardware import Hardware, quiet_lightning
from cl_framework.lockstep import Lockstep
from cl_framework.models import MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.runs import git_commit
from cl_framework.scenario import Part, ResidentStream
from cl_framework.types import StreamInfo
from cl_framework.vector import Vector

RESULT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "vector_speed.json"
SEEDS = 10
REPEATS = 5
EXPERIENCES = 2


@dataclass(frozen=True)
class Case:
    """One strategy, network, batch size and optimizer."""

    strategy: str
    side: int
    width: int
    batch_size: int
    n_rows: int
    optimizer: str = "adam"

    def bodies(self, seeds: range) -> list[Callable[[], Any]]:
        """A run for each seed."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.n_rows, 1, self.side, self.side)
        parts, per = [], 10 // EXPERIENCES
        for k in range(EXPERIENCES):
            raw = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            y = torch.randint(k * per, (k + 1) * per, (self.n_rows,), generator=generator)
            classes = tuple(range(k * per, (k + 1) * per))
            parts.append(Part(train=Dataset(raw, y), test=Dataset(raw[:100], y[:100]), classes=classes,
                              class_names=tuple(map(str, classes))))
        info = StreamInfo(n_experiences=EXPERIENCES, n_classes=10, input_shape=shape[1:], mean=(0.5,), std=(0.25,))
        stream, cls = ResidentStream(info, parts), load("strategy", self.strategy)
        recipe = Recipe(optimizer=self.optimizer, lr=0.001, batch_size=self.batch_size)
        return [partial(run_stream, cls(), stream, build_model(MLP(hidden=[self.width] * 2), info, seed), recipe=recipe,
                        seed=seed, hardware=Hardware(accelerator="cpu")) for seed in seeds]

    def alone(self, seeds: range) -> tuple[float, float]:
        """CPU time and time of the runs one after another."""
        bodies = self.bodies(seeds)
        start, clock = time.process_time(), time.perf_counter()
        for body in bodies:
            body()
        return time.process_time() - start, time.perf_counter() - clock

    def together(self, seeds: range) -> float:
        """CPU time of the runs at once."""
        bodies = self.bodies(seeds)
        start = time.process_time()
        with quiet_lightning():
            Lockstep(Vector()).run(bodies)
        return time.process_time() - start

    def measure(self, pool: ProcessPoolExecutor) -> dict[str, Any]:
        """Every way in turn, several times."""
        found: dict[str, list[float]] = {name: [] for name in
                                         ("alone", "alone_clock", "together", "half", "two_processes")}
        halves = [range(SEEDS // 2), range(SEEDS // 2, SEEDS)]
        for _ in range(REPEATS):
            cpu, clock = self.alone(range(SEEDS))
            found["alone"].append(cpu)
            found["alone_clock"].append(clock)
            found["together"].append(self.together(range(SEEDS)))
            found["half"].append(self.together(halves[0]))
            start = time.perf_counter()
            list(pool.map(self.together, halves))
            found["two_processes"].append(time.perf_counter() - start)
        return {**asdict(self), "seconds": {name: round(min(times), 3) for name, times in found.items()},
                "one_process": ratio(found["alone"], found["together"]),
                "two_cores": ratio(found["alone_clock"], found["two_processes"]),
                "two_cores_cpu": ratio(found["alone"], found["half"])}


def ratio(some: list[float], others: list[float]) -> dict[str, float]:
    """Median, smallest and largest ratio of pairs of one repetition."""
    pairs = [a / b for a, b in zip(some, others, strict=True)]
    return {"median": round(statistics.median(pairs), 2), "low": round(min(pairs), 2), "high": round(max(pairs), 2)}


def ready(_: int) -> int:
    """Import everything in a process of the pool."""
    torch.set_num_threads(1)
    Case("naive", 4, 8, 10, 200).together(range(2))
    time.sleep(1.0)
    return os.getpid()


CASES = [Case("naive", 8, 100, 10, 5000), Case("er", 8, 100, 10, 5000), Case("ewc", 8, 100, 10, 5000),
         Case("naive", 28, 100, 10, 5000), Case("er", 28, 100, 10, 5000), Case("naive", 28, 100, 10, 5000, "sgd"),
         Case("naive", 28, 100, 128, 12000), Case("naive", 28, 256, 10, 5000)]


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    chosen = [CASES[int(text)] for text in sys.argv[1:]] or CASES
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert len(set(pool.map(ready, range(2)))) == 2
        rows = []
        for case in chosen:
            rows.append(case.measure(pool))
            print(json.dumps(rows[-1]), flush=True)
    if len(chosen) == len(CASES):
        write_json(RESULT, {"command": "python benchmarks/vector_speed.py", "git_commit": git_commit(),
                            "torch": torch.__version__, "python": platform.python_version(), "seeds": SEEDS,
                            "repeats": REPEATS, "experiences": EXPERIENCES, "load_before": os.getloadavg()[0],
                            "cases": rows})


if __name__ == "__main__":
    main()
