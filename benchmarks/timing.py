"""Timing that means something on a shared machine: ways of doing one thing, taken in turns in one process."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cl_framework.files import write_json
from cl_framework.runs import git_commit

REFERENCE = Path(__file__).resolve().parent.parent / "runs" / "reference"


def clocked(work: Callable[[], object]) -> float:
    """Processor time of a piece of work on the CPU, which other processes lengthen little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, so that a slow phase of the machine hits all alike; one round warms up."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(way())
    return seconds


def ratio(seconds: Mapping[str, list[float]], what: str, over: str) -> dict[str, float]:
    """The ratio of two ways: the median over rounds, and the lowest and highest.

    >>> ratio({"ours": [2.0, 3.0], "bare": [1.0, 1.0]}, "ours", "bare")
    {'median': 2.5, 'lowest': 2.0, 'highest': 3.0}
    """
    pairs = [one / other for one, other in zip(seconds[what], seconds[over], strict=True)]
    return {"median": round(median(pairs), 3), "lowest": round(min(pairs), 3), "highest": round(max(pairs), 3)}


def write(name: str, content: Mapping[str, Any]) -> None:
    """Print a record and keep it under runs/reference, with what it was made by."""
    record = {"command": f"python benchmarks/{name}.py", "git_commit": git_commit(), "torch": torch.__version__,
              "python": platform.python_version(), "device": "cuda" if torch.cuda.is_available() else "cpu",
              "threads": torch.get_num_threads(), **content}
    print(json.dumps(record, indent=2))
    write_json(REFERENCE / f"{name}.json", record)
