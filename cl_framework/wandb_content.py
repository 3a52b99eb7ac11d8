"""What a run shows in W&B after each experience, as numbers and tables.

R[i, j] is the accuracy on experience j after learning experience i. Forgetting of experience j after experience i is
max_{j <= l < i} R[l, j] - R[i, j] (Chaudhry et al., ECCV 2018, equation 3). Stability and plasticity are the metrics of
these names, on the k experiences learned so far. What was not measured is left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cl_framework.csv_tables import unguarded
from cl_framework.job import Job
from cl_framework.metric_plugins import Metric
from cl_framework.record import StreamRecord
from cl_framework.wandb_keys import CELLS, EXPERIENCES, MATRIX, PLANE, STREAM_STEP

Cell = str | int | float | None
_PLANE = ("stability", "learning_accuracy", "average_accuracy")
_WORDS = ("name",)
_WHOLE = ("experience", "n_classes", "round")


@dataclass(frozen=True)
class Sheet:
    """A table: headings, and rows of as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def numbers(index: int, record: StreamRecord, measured: Mapping[str, float], metrics: Sequence[Metric],
            stream_step: int, *, is_labelled: bool) -> dict[str, float]:
    """What was measured once experience `index` was learned, by key.

    Args:
        index: the experience.
        record: with its `index` + 1 experiences learned.
        measured: its metrics, by name.
        metrics: what these are; each has the section of its axis.
        stream_step: optimizer steps so far.
        is_labelled: whether there are labels to learn from; else nothing is forgotten experience by experience.
    """
    section = {each.name: each.axis for each in metrics}
    found = {f"{section[name]}/{name}": value for name, value in measured.items()}
    found |= {"cost/seconds": float(record.seconds[index]), STREAM_STEP: float(stream_step)}
    return found | (dict(_forgotten(index, record)) if is_labelled else {})


def _forgotten(index: int, record: StreamRecord) -> Iterator[tuple[str, float]]:
    accuracy = record.accuracy.tolist()
    for j in range(index):
        known = [accuracy[row][j] for row in range(j, index) if not math.isnan(accuracy[row][j])]
        if known and not math.isnan(accuracy[index][j]):
            yield f"forgetting/{j}", max(known) - accuracy[index][j]


def tables(record: StreamRecord, job: Job, folder: Path, measured: Mapping[str, float], *,
           is_labelled: bool) -> dict[str, Sheet]:
    """The tables of what was measured so far, by key.

    Args:
        record: what was measured.
        job: whose run it is.
        folder: its run folder.
        measured: its metrics so far, by name.
        is_labelled: whether there are labels to learn from; else R is its diagonal, and no table of its own.
    """
    found = {EXPERIENCES: _experiences(folder)} if (folder / "experiences.csv").exists() else {}
    if is_labelled:
        found |= {MATRIX: _matrix(record), CELLS: _cells(record)}
    if all(name in measured for name in _PLANE):
        found[PLANE] = _plane(job, measured)
    return found


def _matrix(record: StreamRecord) -> Sheet:
    header, *lines = record.rows()
    rows: list[list[Cell]] = [[int(line[0]), *(float(text) if text else None for text in line[1:])] for line in lines]
    return Sheet(header, rows)


def _cells(record: StreamRecord) -> Sheet:
    rows: list[list[Cell]] = [[row, column, value]
                              for row, values in enumerate(record.accuracy[: record.n_done].tolist())
                              for column, value in enumerate(values) if not math.isnan(value)]
    return Sheet(("after", "on", "accuracy"), rows)


def _plane(job: Job, measured: Mapping[str, float]) -> Sheet:
    row: list[Cell] = [job.hash, job.name("scenario"), job.name("strategy"), job.seed, job.order_seed]
    return Sheet(("group", "scenario", "strategy", "seed", "order_seed", *_PLANE),
                 [[*row, *(measured[name] for name in _PLANE)]])


def _experiences(folder: Path) -> Sheet:
    with (folder / "experiences.csv").open(newline="", errors="replace") as file:
        header, *lines = csv.reader(file)
    return Sheet(header, [[_cell(name, text) for name, text in zip(header, line, strict=True)] for line in lines])


def _cell(column: str, text: str) -> Cell:
    if not text:
        return None
    if column in _WORDS:
        return unguarded(text)
    return int(text) if column in _WHOLE else float(text)
