"""Loggers: Weights & Biases and TensorBoard. A logger that fails is switched off; the run goes on."""

from __future__ import annotations

import logging
import math
import netrc
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cl_framework.diagnostics import Diagnostics
from cl_framework.job import Job
from cl_framework.metric_plugins import compute_all, installed_metrics
from cl_framework.observer import Cursor, Observer, passes
from cl_framework.record import StreamRecord
from cl_framework.types import StreamInfo
from cl_framework.wandb_about import about, newest_checkpoint, record_files, tags
from cl_framework.wandb_content import numbers, tables
from cl_framework.wandb_heatmap import heatmap
from cl_framework.wandb_keys import HEATMAP, SECTIONS, step_of

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_TABLES = 20
"""Longer streams show their tables once, at the end."""
_PATIENCE = 300.0
"""Seconds that W&B may go on sending when a run is over."""
_WELCOME = 30.0
"""Seconds without an answer after which a run is recorded for later."""
HINT = "W&B is off: no API key is configured. track.wandb=offline records runs for a later `wandb sync`"


def wandb_mode(wanted: str) -> str:
    """`auto` becomes `online` where an API key is configured, else `disabled`."""
    if wanted != "auto":
        return wanted
    return "online" if _has_key() else "disabled"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def trackers(job: Job, folder: Path, wandb_id: str) -> list[Observer]:
    """The loggers, and the diagnostics, that the configuration asks for."""
    found: list[Observer] = []
    mode = wandb_mode(job.tracking.wandb)
    if mode != "disabled":
        found.append(Wandb(job, folder, wandb_id, mode))
    if job.tracking.tensorboard:
        found.append(TensorBoard(job, folder))
    if job.tracking.diagnostics:
        found.append(Diagnostics(folder))
    return found


class _Tracker(Observer, ABC):
    """Turns what happens into named numbers on two axes: the stream's step and the experience."""

    label = ""

    def __init__(self, job: Job) -> None:
        self._job, self._every, self._is_on = job, job.tracking.every, True
        self._is_labelled = True
        self._off: set[str] = set()

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Open the log."""
        self._is_labelled = info.is_labelled
        self.guard(self.open)

    @abstractmethod
    def open(self) -> None:
        """Begin or continue what is written to."""

    @abstractmethod
    def put(self, values: Mapping[str, float], step: int) -> None:
        """Write named numbers at a step of their axis."""

    def guard(self, action: Callable[[], T], part: str = "") -> T | None:
        """Do something that may fail; the first failure switches the logger, or a part of it, off with one warning."""
        if not self._is_on or part in self._off:
            return None
        try:
            return action()
        except Exception as error:
            if part:
                self._off.add(part)
                log.warning("%s failed (%s: %s); its %s are left out of the rest of this run, its numbers are not",
                            self.label, type(error).__name__, error, part)
                return None
            self._is_on = False
            log.warning("%s failed (%s: %s); it is off for the rest of this run", self.label, type(error).__name__,
                        error)
            return None

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Log the mean loss of a chunk, without labels its online error, now and then."""
        if passes(cursor, len(losses), self._every):
            name = "train/loss" if self._is_labelled else "train/online_error"
            values = {name: sum(losses) / len(losses), "stream/step": cursor.stream_step,
                      "train/experience": cursor.experience}
            self.guard(lambda: self.put(values, cursor.stream_step))

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Log each accuracy and their mean, without labels what an experience cost; and the strategy's own figures."""
        measured = _accuracies(index, record) if self._is_labelled else _errors(index, record)
        values = {f"experience/{name}": value for name, value in measured.items() if not math.isnan(value)}
        values |= {"experience/index": index}
        values |= {f"experience/strategy/{name}": value for name, value in own.items()}
        self.guard(lambda: self.put(values, index))


def _accuracies(index: int, record: StreamRecord) -> dict[str, float]:
    row = record.accuracy[index, : index + 1].tolist()
    return {**{f"accuracy/{j}": value for j, value in enumerate(row)}, "average_accuracy": sum(row) / len(row)}


def _errors(index: int, record: StreamRecord) -> dict[str, float]:
    """Of the answers given online, and the accuracy on clean rows after them."""
    return {"online_error": float(1 - record.online[index]), "calibration_error": float(record.calibration[index]),
            "clean_accuracy": float(record.accuracy[index, index])}


@contextmanager
def _public_words() -> Iterator[None]:
    """W&B notes the words of the command; the address of a database among them may hold a password."""
    words = sys.argv
    sys.argv = [word for word in words if not word.startswith("search.storage=")]
    try:
        yield
    finally:
        sys.argv = words


def _patience(settings: Any) -> dict[str, Any]:
    """How long W&B may send when a run is over, where it has such a limit; what is left lies in the run folder."""
    return {"finish_timeout": _PATIENCE} if "finish_timeout" in settings.model_fields else {}


class Wandb(_Tracker):
    """A Weights & Biases run; a resumed run keeps its id, and writes each line at the step that it had."""

    label = "W&B"

    def __init__(self, job: Job, folder: Path, run_id: str, mode: str) -> None:
        super().__init__(job)
        self._folder, self._id, self._mode = folder, run_id, mode
        self._run: Any = None
        self._stream_step = self._step = 0

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Open the run where the stream begins, or goes on."""
        self._stream_step = cursor.stream_step
        super().started(info, record, cursor)

    def open(self) -> None:
        """Open the run, name the axis of each section, and say what the run is."""
        import wandb

        job = self._job
        said = about(job, self._folder)

        def begin(mode: str) -> Any:
            return wandb.init(
                dir=self._folder, id=self._id, resume="allow", mode="online" if mode == "online" else "offline",
                project=job.tracking.project, entity=job.tracking.entity, config={**job.tree, "about": said},
                group=job.hash, job_type=said["phase"], tags=tags(job),
                name=f"{job.name('scenario')}-{job.name('strategy')}-seed{job.seed}",
                settings=wandb.Settings(silent=True, init_timeout=_WELCOME, x_disable_stats=True,
                                        **_patience(wandb.Settings)),
            )

        with _public_words():
            try:
                self._run = begin(self._mode)
            except Exception as error:
                if self._mode != "online":
                    raise
                log.warning("W&B does not take the run (%s: %s); it is recorded in %s, and `wandb sync` sends it later",
                            type(error).__name__, str(error).partition("\n")[0], self._folder / "wandb")
                wandb.teardown()  # its service holds on to the run that it could not begin
                self._run = begin("offline")
        for section, axis in SECTIONS.items():
            self._run.define_metric(f"{section}/*", step_metric=axis)
        self._run.summary.update(said)

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Log the mean loss of a chunk, now and then."""
        self._stream_step = cursor.stream_step
        self._step = step_of(cursor.stream_step, cursor.experience, is_evaluated=False)
        super().stepped(cursor, losses)

    def put(self, values: Mapping[str, Any], step: int) -> None:
        """Log; the axes travel among the values."""
        self._run.log(dict(values), step=self._step)

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Log what was measured: as numbers, and as tables and a picture where these are small, or at the end."""
        self._step = step_of(self._stream_step, index, is_evaluated=True)
        super().evaluated(index, record, own)
        self.guard(lambda: self._show(index, record))

    def _show(self, index: int, record: StreamRecord) -> None:
        job, metrics = self._job, installed_metrics()
        measured = compute_all(record, metrics)
        has_tables = record.n_experiences <= _MOST_TABLES or index == record.n_experiences - 1
        self._run.log({**numbers(index, record, measured, metrics, self._stream_step, is_labelled=self._is_labelled)},
                      step=self._step, commit=not has_tables)
        if has_tables:
            self.guard(lambda: self._show_tables(record, measured), "tables")
        file = newest_checkpoint(self._folder) if job.tracking.checkpoints else None
        if file is not None:
            self.guard(lambda: self._keep("checkpoint", [file], f"experience-{index}"), "files")

    def _show_tables(self, record: StreamRecord, measured: Mapping[str, float]) -> None:
        import wandb

        sheets = tables(record, self._job, self._folder, measured, is_labelled=self._is_labelled)
        shown: dict[str, Any] = {key: wandb.Table(columns=list(sheet.columns), data=[list(row) for row in sheet.rows])
                                 for key, sheet in sheets.items()}
        if self._is_labelled:
            title = f"{self._job.name('scenario')} {self._job.name('strategy')} seed {self._job.seed}"
            shown[HEATMAP] = wandb.Html(heatmap(record, title), inject=False)
        self._run.log(shown, step=self._step, commit=True)

    def finished(self, record: StreamRecord) -> None:
        """Write the final metrics as the run's summary, and keep its small files."""
        self.guard(lambda: self._run.summary.update(compute_all(record, installed_metrics())))
        self.guard(lambda: self._keep("record", record_files(self._folder), "finished"), "files")

    def _keep(self, kind: str, files: Sequence[Path], alias: str) -> None:
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self._job.hash}-seed{self._job.seed}", type=kind,
                                  metadata=about(self._job, self._folder))
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact, aliases=["latest", alias])

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self.guard(self._run.finish)


class TensorBoard(_Tracker):
    """Event files in the run folder, through Lightning's logger."""

    label = "TensorBoard"

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job)
        self._folder = folder
        self._logger: Any = None

    def open(self) -> None:
        """Open the event file."""
        from lightning.pytorch.loggers import TensorBoardLogger

        self._logger = TensorBoardLogger(self._folder, name="tensorboard", version="")

    def put(self, values: Mapping[str, float], step: int) -> None:
        """Log at the step of the values' axis."""
        self._logger.log_metrics(dict(values), step)

    def close(self) -> None:
        """Flush the event file."""
        if self._logger is not None:
            self.guard(lambda: self._logger.finalize("success"))
