"""The tables of a run while it grows, and what its `summary.json` says in the end."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, astuple, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch

from cl_framework.csv_tables import as_csv, unguarded
from cl_framework.errors import PluginError
from cl_framework.experience import Experience
from cl_framework.experience_figures import COLUMNS, Seen, figures_of
from cl_framework.files import append, write_atomic, write_json
from cl_framework.job import Job
from cl_framework.metric_plugins import compute_all, installed_metrics
from cl_framework.observer import Cursor, Observer, passes
from cl_framework.plain_files import read_bytes
from cl_framework.record import StreamRecord
from cl_framework.runs import RunFolder, git_commit
from cl_framework.types import Phase, StreamInfo

_MOST_DIGITS = 18

_STEP = ("stream_step", "experience", "epoch", "loss")

_OWN_FILES = frozenset({"summary.json", "environment.json", "diagnostics.json"})
"""Files of a run folder that no document of a strategy may replace."""

_SEEN: WeakKeyDictionary[StreamRecord, dict[int, Seen]] = WeakKeyDictionary()
"""What the experiences behind a record said of themselves, by index; told to its `Writer`, for its summary."""


class Writer(Observer):
    """Keeps metrics.jsonl, accuracy.csv, experiences.csv and steps.csv of a run.

    They are rewritten from the record when a run begins or goes on, so a resume loses none, and grow with each
    experience; names of experiences are on the disk before they begin.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self._folder, self._path, self._every = folder, folder.path, every
        self._steps: list[tuple[int, str]] = []
        self._seen: dict[int, Seen] = {}
        self._record: StreamRecord | None = None
        self._rows: list[str] = []
        self._written: dict[str, str] = {}

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Drop what a killed run wrote beyond its last checkpoint."""
        self._steps = [step for row in self._lines("steps.csv") if (step := _step(row)) is not None
                       and step[0] <= cursor.stream_step]
        self._seen = {int(row[0]): Seen(unguarded(row[1]) or None, int(row[2]))
                      for row in self._lines("experiences.csv") if len(row) == len(COLUMNS) + 1
                      and _is_count(row[0]) and _is_count(row[2])}
        self._record, self._rows, self._written = record, [], {}
        _SEEN[record] = self._seen
        write_atomic(self._path / "metrics.jsonl", "".join(_line(record, index) for index in range(record.n_done)))
        write_atomic(self._path / "accuracy.csv", as_csv(record.rows()))
        self._write_experiences(record.n_done)
        self._write_steps()

    def _lines(self, name: str) -> list[list[str]]:
        """The lines below the header of what an earlier process wrote, however damaged."""
        try:
            text = read_bytes(self._path / name).decode(errors="replace")
            return list(csv.reader(text.replace("\0", "").splitlines()[1:]))
        except (OSError, ValueError, csv.Error):
            return []

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """Note what it says of itself."""
        if self._seen.get(experience.index) != Seen.of(experience):
            self._seen[experience.index] = Seen.of(experience)
            self._write_experiences(len(self._rows))

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Note the mean loss of a chunk, now and then; a second time changes nothing."""
        while self._steps and self._steps[-1][0] > cursor.stream_step:  # a `train` call began anew
            self._steps.pop()
        noted = self._steps[-1][0] if self._steps else 0
        if noted < cursor.stream_step and passes(cursor, len(losses), self._every):
            row = (cursor.stream_step, cursor.experience, cursor.epoch, sum(losses) / len(losses))
            self._steps.append((cursor.stream_step, as_csv([row])))

    def saving(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Losses up to a checkpoint are on the disk before it is."""
        self._folder.check_held()
        self.stepped(cursor, losses)
        self._write_steps()

    def documented(self, documents: Mapping[str, Any]) -> None:
        """Write each document anew.

        Raises:
            PluginError: the name of one is no name for a file of its own.
        """
        for name, document in documents.items():
            if not name.isidentifier() or f"{name}.json" in _OWN_FILES:
                raise PluginError(f"documents() names one {name!r}; give it a name of letters, digits and underscores "
                                  f"other than {', '.join(sorted(_OWN_FILES))}")
            write_json(self._path / f"{name}.json", document)

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Add what was measured."""
        self._folder.check_held()
        append(self._path / "metrics.jsonl", _line(record, index))
        append(self._path / "accuracy.csv", as_csv([record.row(index)]))
        self._write_experiences(index + 1)
        self._write_steps()

    def _write_experiences(self, n_done: int) -> None:
        assert self._record is not None
        for each in figures_of(self._record, self._seen, range(len(self._rows), n_done)):
            self._rows.append(as_csv([(len(self._rows), *astuple(each))]))
        begun = [(index, *seen, *[""] * (len(COLUMNS) - 2)) for index, seen in sorted(self._seen.items())
                 if index >= len(self._rows)]
        self._write_table("experiences.csv", ("experience", *COLUMNS), [*self._rows, as_csv(begun)])

    def _write_steps(self) -> None:
        self._write_table("steps.csv", _STEP, [line for _, line in self._steps])

    def _write_table(self, name: str, columns: Sequence[str], lines: Sequence[str]) -> None:
        text = as_csv([columns]) + "".join(lines)
        if self._written.get(name) != text:
            write_atomic(self._path / name, text)
            self._written[name] = text


def _line(record: StreamRecord, index: int) -> str:
    """What is known after an experience, as a line of metrics.jsonl."""
    row, loss = record.accuracy[index, : index + 1].tolist(), record.loss[index]
    perplexity = {} if loss.isnan().all() else {"perplexity": [_number(value) for value in loss.exp().tolist()]}
    return json.dumps({"experience": index, "accuracy": [_number(value) for value in row],
                       "average_accuracy": _number(sum(row) / len(row)), "seconds": float(record.seconds[index]),
                       **perplexity, "strategy": record.strategy_metrics[index]}) + "\n"


def summarise(job: Job, record: StreamRecord) -> dict[str, Any]:
    """The content of summary.json; its format is described in docs/run-folder.md."""
    return {
        "scenario": job.name("scenario"), "strategy": job.name("strategy"), "model": job.name("model"),
        "seed": job.seed, "order_seed": job.order_seed, "protocol": job.protocol or "single-phase",
        "phase": job.phase.value if job.protocol is None else Phase.EVALUATION.value,
        "config_hash": job.hash, "git_commit": git_commit(),
        "metrics": {**{f"strategy/{name}": value for name, value in record.strategy_metrics[-1].items()
                       if name != "memory_bytes"},
                    **compute_all(record, installed_metrics())},
        "accuracy_matrix": _nullable(record.accuracy), "task_accuracy_matrix": _nullable(record.task_accuracy),
        **({"perplexity_matrix": _nullable(record.perplexity)} if record.has_texts else {}),
        "strategy_fields": _changed(job),
        "strategy_config": {name: value for name, value in job.tree["strategy"].items() if name != "name"},
        "experiences": [asdict(each) for each in figures_of(record, _SEEN.get(record, {}), range(record.n_done))],
        "nonfinite": {"skipped_steps": record.skipped_steps, "resets": record.resets},
        "seconds": float(record.seconds.sum()), "status": "finished",
    }


def _changed(job: Job) -> dict[str, Any]:
    """The fields of a strategy that are not at their defaults, or told in any case, by part and name."""
    found = dict[str, Any]()
    for part, name in zip(job.strategy.parts(), job.name("strategy").split("+"), strict=True):
        defaults = {spec.name: spec.default if spec.default_factory is MISSING else spec.default_factory()
                    for spec in fields(part) if not spec.metadata.get("is_told")}
        found |= {f"{name}.{key}": value for key, value in job.tree["strategy"][name].items() if key not in defaults or
                  defaults[key] != value}
    return found


def _step(row: Sequence[str]) -> tuple[int, str] | None:
    """A line of steps.csv and its step; None where it is damaged."""
    if len(row) != len(_STEP) or not all(map(_is_count, row[:3])):
        return None
    try:
        return int(row[0]), as_csv([(*map(int, row[:3]), float(unguarded(row[3])))])
    except ValueError:
        return None


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _nullable(matrix: torch.Tensor) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix.tolist()]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
