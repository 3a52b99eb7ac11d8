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

from cl_framework.config import Job
from cl_framework.diagnostics import Diagnostics
from cl_framework.metrics import StreamRecord
from cl_framework.observer import Cursor, Observer, passes
from cl_framework.types import StreamInfo

log = logging.getLogger(__name__)
T = TypeVar("T")

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

    def guard(self, action: Callable[[], T]) -> T | None:
        """Do something that may fail; the first failure switches the logger off with one warning."""
        if not self._is_on:
            return None
        try:
            return action()
        except Exception as error:
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


class Wandb(_Tracker):
    """A Weights & Biases run; a resumed run keeps its id."""

    label = "W&B"

    def __init__(self, job: Job, folder: Path, run_id: str, mode: str) -> None:
        super().__init__(job)
        self._folder, self._id, self._mode = folder, run_id, mode
        self._run: Any = None

    def open(self) -> None:
        """Open the run and name the axis of each group of panels."""
        import wandb

        job = self._job
        with _public_words():
            self._run = wandb.init(
                dir=self._folder, id=self._id, resume="allow", mode="online" if self._mode == "online" else "offline",
                project=job.tracking.project, entity=job.tracking.entity, config=job.tree, group=job.hash,
                job_type=job.phase.value, tags=[job.name("scenario"), job.name("strategy")],
                name=f"{job.name('scenario')}-{job.name('strategy')}-seed{job.seed}",
                settings=wandb.Settings(silent=True, init_timeout=30, x_disable_stats=True),
            )
        self._run.define_metric("train/*", step_metric="stream/step")
        self._run.define_metric("experience/*", step_metric="experience/index")

    def put(self, values: Mapping[str, float], step: int) -> None:
        """Log; the axes travel among the values."""
        self._run.log(dict(values))

    def finished(self, record: StreamRecord) -> None:
        """Write the final metrics as the run's summary."""
        from cl_framework.metrics import compute_all, installed_metrics

        self.guard(lambda: self._run.summary.update(compute_all(record, installed_metrics())))

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
