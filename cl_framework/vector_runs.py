"""The seeds of one configuration in one process: whether they can be trained together, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cl_framework.hardware import quiet_lightning
from cl_framework.job import Job
from cl_framework.lockstep import Lockstep
from cl_framework.protocol import build_model
from cl_framework.scenario import Stream
from cl_framework.tracking import wandb_mode
from cl_framework.vector import Vector, obstacle


def hindrance(job: Job, stream: Stream, n: int) -> str | None:
    """Why runs cannot be trained together, the end of a sentence; None where they can.

    Args:
        job: one of them; the others differ in the seed.
        stream: what it learns.
        n: how many there are.
    """
    if n < 2:
        return "there is one seed (in each process)"
    if not stream.info.is_labelled or stream.info.is_language:
        return "only labelled rows are learned together"
    if wandb_mode(job.tracking.wandb) != "disabled":
        return "W&B follows one run a process; set track.wandb=disabled"
    if job.hardware.processes > 1:
        return f"trainer.processes={job.hardware.processes} shares out the rows of one run"
    if job.hardware.channels_last or job.hardware.compile:
        return "trainer.channels_last and trainer.compile have no batched form"
    if job.hardware.precision != "32-true":
        return f"trainer.precision={job.hardware.precision} has no batched form"
    if job.recipe.on_nonfinite == "skip":
        return "train.on_nonfinite=skip takes each run back by itself"
    return obstacle(build_model(job.architecture, stream.info, job.seed))


def run_together(job: Job, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run bodies in lockstep, their chunks learned together; what each returned.

    Args:
        job: of one of them.
        bodies: the runs.
    """
    torch.set_num_threads(job.hardware.threads)
    with quiet_lightning():
        return Lockstep(Vector()).run(bodies)
