"""The run folder: same configuration, same folder; `summary.json` is written last and means finished."""

from __future__ import annotations

import csv
import json
import math
import platform
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, astuple, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from cl_framework.config import from_tree
from cl_framework.configuration import hash_of
from cl_framework.csv_tables import as_csv, unguarded
from cl_framework.errors import ConfigError, PluginError
from cl_framework.experience import Experience
from cl_framework.experience_figures import COLUMNS, Seen, figures_of
from cl_framework.files import append, write_atomic, write_json
from cl_framework.holding import Hold, holding
from cl_framework.job import Job
from cl_framework.metrics import StreamRecord, compute_all, installed_metrics
from cl_framework.observer import Cursor, Observer, passes
from cl_framework.plain_files import read_json, read_text, read_yaml
from cl_framework.types import Phase, StreamInfo

_PACKAGES = ("torch", "lightning", "torchmetrics", "avalanche-lib", "omegaconf", "wandb", "numpy", "cl-framework")

_MOST_DIGITS = 18

_OWN_FILES = frozenset({"summary.json", "environment.json", "diagnostics.json"})
"""Files of a run folder that no document of a strategy may replace."""

_SEEN: WeakKeyDictionary[StreamRecord, dict[int, Seen]] = WeakKeyDictionary()
"""What the experiences behind a record said of themselves, by index; told to its `Writer`, for its summary."""


class RunFolder:
    """`<out>/<scenario>/<strategy>/<hash>/seed<k>`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hold: Hold | None = None

    @staticmethod
    def of(job: Job, out: Path) -> RunFolder:
        """The folder of a job."""
        names = [job.name(group).replace(":", ".").replace("/", ".") for group in ("scenario", "strategy")]
        return RunFolder(out / names[0] / names[1] / job.hash / f"seed{job.seed}")

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    def summary(self) -> dict[str, Any] | None:
        """What a finished run says of itself; None while it is not finished."""
        try:
            summary = read_json(self.path / "summary.json")
            if not isinstance(summary, dict):
                raise ValueError("it holds no object")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / 'summary.json'} is damaged ({error}); remove it and give the same "
                              "command again: the run ends from its last checkpoint") from error
        return {**summary, "path": str(self.path)}

    def job(self) -> Job:
        """The job that the folder belongs to.

        Raises:
            ConfigError: there is no readable configuration.
        """
        file = self.path / "config.yaml"
        try:
            tree = read_yaml(file)
        except FileNotFoundError:
            raise ConfigError(f"{self.path} is no run folder: it has no config.yaml; give run=PATH of a folder that "
                              "ends in seed<k>") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read ({error}); remove it and give the run's own command again, its "
                              "checkpoints are kept") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{file} holds no configuration; remove it and give the run's own command again, its "
                              "checkpoints are kept")
        try:
            return from_tree(tree)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file} was changed and holds no whole configuration any more ({error!r}); remove it "
                              "and give the run's own command again, its checkpoints are kept") from error

    def was_renumbered(self, job: Job) -> bool:
        """Whether the folder is named after its own configuration, which today's clf reads as another one."""
        own = hash_of(read_yaml(self.path / "config.yaml"))
        return own == self.path.resolve().parent.name != job.hash

    def command(self) -> str:
        """The command that began the run."""
        try:
            return read_text(self.path / "command.txt").strip()
        except (OSError, ValueError):
            return "clf train"

    def prepare(self, job: Job, command: str, device: str, data: Mapping[str, str]) -> str:
        """Write what identifies the run; the W&B run id, which a resumed run keeps.

        Raises:
            ConfigError: the folder belongs to another configuration.
        """
        if (self.path / "config.yaml").exists() and self.job().hash != job.hash:
            raise ConfigError(f"{self.path} holds a run of another configuration (its config.yaml was changed?); "
                              "choose another folder with out=DIR, or remove it")
        self.check_data(data)
        environment = self._environment(device, data)
        write_atomic(self.path / "config.yaml", job.yaml())
        if not (self.path / "command.txt").exists():
            write_atomic(self.path / "command.txt", command + "\n")
        write_json(self.path / "environment.json", environment)
        return str(environment["wandb_id"])

    def check_data(self, data: Mapping[str, str]) -> None:
        """Refuse to go on, or to show numbers, with other data than the run was begun on.

        Raises:
            ConfigError: shows both digests.
        """
        known = self._noted().get("data", data)
        if known != dict(data):
            raise ConfigError(f"{self.path} was begun on other data ({known}, now {dict(data)}); put the old files "
                              "back, or choose another folder with out=DIR")

    def _noted(self) -> dict[str, Any]:
        """What environment.json holds; nothing where there is none."""
        try:
            noted = read_json(self.path / "environment.json")
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _environment(self, device: str, data: Mapping[str, str]) -> dict[str, Any]:
        run_id = str(self._noted().get("wandb_id") or uuid.uuid4().hex[:12])
        return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}",
                "device": device, "threads": torch.get_num_threads(), "git_commit": git_commit(),
                "packages": {name: version(name) for name in _PACKAGES}, "data": dict(data), "wandb_id": run_id}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; the operating system lets go of it when the process ends, however it ends.

        Raises:
            ConfigError: another process is running it.
        """
        with holding(self.path) as self._hold:
            yield

    def check_held(self) -> None:
        """Refuse to write into a folder that is another one than was locked; nothing where none was.

        Raises:
            ClfError: it was removed or moved since.
        """
        if self._hold is not None:
            self._hold.check()


class Writer(Observer):
    """Keeps metrics.jsonl, accuracy.csv, experiences.csv and steps.csv of a run.

    They are rewritten from the record when a run begins or goes on, so a resume loses none, and grow with each
    experience; names of experiences are on the disk before they begin.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self._folder, self._path, self._every = folder, folder.path, every
        self._steps: list[list[str]] = []
        self._seen: dict[int, Seen] = {}
        self._record: StreamRecord | None = None
        self._rows: list[tuple[object, ...]] = []

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Drop what a killed run wrote beyond its last checkpoint."""
        self._steps = [row for row in self._lines("steps.csv") if len(row) == 4 and _is_count(row[0])
                       and int(row[0]) <= cursor.stream_step]
        self._seen = {int(row[0]): Seen(unguarded(row[1]) or None, int(row[2]))
                      for row in self._lines("experiences.csv") if len(row) == len(COLUMNS) + 1
                      and _is_count(row[0]) and _is_count(row[2])}
        self._record, self._rows = record, []
        _SEEN[record] = self._seen
        write_atomic(self._path / "metrics.jsonl", "".join(_line(record, index) for index in range(record.n_done)))
        self._write_table("accuracy.csv", record.rows())
        self._write_experiences()
        self._write_steps()

    def _lines(self, name: str) -> list[list[str]]:
        """The lines below the header of what an earlier process wrote, however damaged."""
        file = self._path / name
        text = file.read_text(errors="replace") if file.exists() else ""
        try:
            return list(csv.reader(text.replace("\0", "").splitlines()[1:]))
        except csv.Error:
            return []

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """Note what it says of itself."""
        if self._seen.get(experience.index) != Seen.of(experience):
            self._seen[experience.index] = Seen.of(experience)
            self._write_experiences()

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Note the mean loss of a chunk, now and then; a second time changes nothing."""
        while self._steps and int(self._steps[-1][0]) > cursor.stream_step:  # a `train` call began anew
            self._steps.pop()
        noted = int(self._steps[-1][0]) if self._steps else 0
        if noted < cursor.stream_step and passes(cursor, len(losses), self._every):
            place = (cursor.stream_step, cursor.experience, cursor.epoch)
            self._steps.append([*(str(value) for value in place), repr(sum(losses) / len(losses))])

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
        self._write_experiences()
        self._write_steps()

    def _write_experiences(self) -> None:
        assert self._record is not None
        for each in figures_of(self._record, self._seen, len(self._rows)):
            self._rows.append((len(self._rows), *astuple(each)))
        begun = [(index, *seen, *[""] * (len(COLUMNS) - 2)) for index, seen in sorted(self._seen.items())
                 if index >= len(self._rows)]
        self._write_table("experiences.csv", [("experience", *COLUMNS), *self._rows, *begun])

    def _write_steps(self) -> None:
        self._write_table("steps.csv", [("stream_step", "experience", "epoch", "loss"), *self._steps])

    def _write_table(self, name: str, rows: Sequence[Sequence[object]]) -> None:
        write_atomic(self._path / name, as_csv(rows))


def _line(record: StreamRecord, index: int) -> str:
    """What is known after an experience, as a line of metrics.jsonl."""
    row = record.accuracy[index, : index + 1].tolist()
    return json.dumps({"experience": index, "accuracy": [_number(value) for value in row],
                       "average_accuracy": _number(sum(row) / len(row)), "seconds": float(record.seconds[index]),
                       **({"perplexity": _nullable(record.perplexity)[index]} if record.has_texts else {}),
                       "strategy": record.strategy_metrics[index]}) + "\n"


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
        "experiences": [asdict(each) for each in figures_of(record, _SEEN.get(record, {}))],
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


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def _nullable(matrix: torch.Tensor) -> list[list[float | None]]:
    return [[_number(value) for value in row] for row in matrix.tolist()]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def git_commit() -> str | None:
    """The commit of this package's sources, with `-dirty` where they differ; None where they are no checkout."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here.parent), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    sources = [str(here.parent), *(str(here.parent.parent / name) for name in ("strategies", "scenarios", "configs"))]
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--", *sources) else commit
