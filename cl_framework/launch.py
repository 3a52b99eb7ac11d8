"""One job to its summary, many jobs wherever the launcher does them."""

from __future__ import annotations

import copy
import json
import logging
import traceback
from collections.abc import Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cl_framework.checkpoint import Vault
from cl_framework.companions import accompanied, check_processes
from cl_framework.config import from_tree
from cl_framework.errors import ClfError, ConfigError, Stopped
from cl_framework.files import write_json
from cl_framework.intact import check_intact, with_digests
from cl_framework.isolation import ask, only
from cl_framework.job import Job
from cl_framework.launchers import chosen
from cl_framework.lockstep import by_itself
from cl_framework.memory_of_runs import load_of
from cl_framework.models import Model
from cl_framework.observer import Observers
from cl_framework.pool import Joint, Lost
from cl_framework.pretraining import give_weights
from cl_framework.progress import progress_before, progress_for
from cl_framework.protocol import build_model, check_needs, check_recipe, run_stream
from cl_framework.run_writer import Writer, summarise
from cl_framework.runs import RunFolder
from cl_framework.scenario import FirstExperiences, Stream
from cl_framework.seeding import untouched
from cl_framework.stopping import finishing
from cl_framework.tracking import trackers
from cl_framework.types import Phase
from cl_framework.vector_runs import hindrance, run_together


@dataclass(frozen=True)
class Failure:
    """A job that ended without a summary, and why."""

    label: str
    error: ClfError


_STREAMS: dict[tuple[str, Phase, int | None, int], Stream] = {}
"""Streams opened by this process: jobs of one scenario share the resident data."""


def open_stream(job: Job) -> Stream:
    """The stream of a job; opened once a process.

    Raises:
        DataLeak: another run or search is under way, which may not see it.
    """
    ask(job.scenario, job.name("scenario"), job.phase)
    key = (json.dumps(job.tree["scenario"], sort_keys=True), job.phase, job.order_seed, job.experiences)
    if key not in _STREAMS:
        whole = job.scenario.open(job.phase, job.order_seed)
        _STREAMS[key] = FirstExperiences(whole, job.experiences) if job.experiences else whole
    return _STREAMS[key]


def check_job(job: Job) -> None:
    """Refuse what cannot work before anything runs.

    Raises:
        ClfError: the data, the strategy's needs or the model do not fit.
    """
    info = open_stream(job).info
    check_recipe(job.recipe, info, job.architecture)
    job.hardware.trainer()
    check_processes(job.hardware, info)
    model = build_model(job.architecture, info, 0)
    job.hardware.check_form(model, info)
    try:
        check_needs(job.strategy, info)
        with untouched(), only(job.scenario, job.name("scenario"), job.phase):
            copy.deepcopy(job.strategy).setup(model, info)
    except ConfigError as error:
        raise ConfigError([_by_key(job, fault) for fault in error.faults]) from None


def _by_key(job: Job, fault: str) -> str:
    """A sentence about a class in the command line's words: `ICaRL.memory_size` is `strategy.icarl.memory_size`."""
    for part, name in zip(job.strategy.parts(), job.name("strategy").split("+"), strict=True):
        cls = type(part).__name__
        fault = fault.replace(f"{cls}.", f"strategy.{name}.").replace(f"{cls} ", f"{name} ")
    return fault


def execute(job: Job, out: Path, command: str, console: Console) -> dict[str, Any]:
    """Run a job in its folder, or skip it when it is finished; its summary.

    Raises:
        ClfError: the run cannot begin, or stops.
    """
    folder = RunFolder.of(job, out)
    with folder.locked(), only(job.scenario, job.name("scenario"), job.phase):
        return _execute(job, folder, command, console)


def _execute(job: Job, folder: RunFolder, command: str, console: Console) -> dict[str, Any]:
    finished = folder.summary()
    label = label_of(job)
    if finished is not None:
        check_intact(folder.path, finished)
        folder.check_data(open_stream(job).provenance)
        console.print(f"{label}: finished before, skipped ({folder.path})", highlight=False, soft_wrap=True)
        return finished
    torch.set_num_threads(job.hardware.threads)
    stream = open_stream(job)
    model = build_model(job.architecture, stream.info, job.seed)
    prepare_model(job, stream, model, console)
    run_id = folder.prepare(job, command, job.hardware.describe(), stream.provenance)
    observer = Observers([Writer(folder, job.tracking.every), *trackers(job, folder.path, run_id),
                          progress_for(console, label)])
    vault = Vault(folder.checkpoints, job.hash)
    with finishing():
        try:
            with accompanied(job.hardware.processes, {"tree": job.tree, "protocol": job.protocol, "experiences":
                             job.experiences, "checkpoints": str(folder.checkpoints)}):
                record = run_stream(job.strategy, stream, model, recipe=job.recipe, seed=job.seed,
                                    hardware=job.hardware, vault=vault, observer=observer)
        finally:
            observer.close()
        folder.check_held()
        write_json(folder.path / "summary.json", with_digests(folder.path, summarise(job, record)))
        vault.clear()
    summary = folder.summary()
    assert summary is not None
    return summary


def prepare_model(job: Job, stream: Stream, model: Model, console: Console) -> None:
    """Give a model what it must have learned before its stream begins: from the cache, else trained here."""
    progress = progress_before(console, label_of(job), job.name("model"))
    try:
        with by_itself():  # others may wait for the same cached weights
            give_weights(model, stream, job.architecture, job.recipe, seed=job.seed, hardware=job.hardware,
                         observer=progress)
    finally:
        progress.close()


def label_of(job: Job) -> str:
    """A job in a word: `split_digits er seed 0`."""
    order = "" if job.order_seed is None else f" order {job.order_seed}"
    return f"{job.name('scenario')} {job.name('strategy')} seed {job.seed}{order}"


def execute_all(jobs: Sequence[Job], out: Path, command: str, console: Console,
                workers: int) -> tuple[list[dict[str, Any]], list[Failure]]:
    """Run jobs; one that fails does not stop the others.

    Args:
        jobs: what is run.
        out: root of the run folders.
        command: the command line, for the record of each run.
        console: where progress is shown.
        workers: how many at once, where the command has chosen no launcher; 1 runs in this process.

    Returns:
        Summaries of the runs that finished and failures of the others, both in the order of the jobs.

    Raises:
        ClfError: the launcher's workers cannot be had, or are gone.
    """
    launcher = chosen(workers)
    tickets = [Ticket(number, job) for number, job in enumerate(jobs)]
    load = load_of(jobs, open_stream)
    outcomes: dict[int, dict[str, Any] | Failure] = {}
    with closing(launcher.run(Attempt(out, command, console), tickets, load)) as done:
        for ticket, outcome in done:
            label = label_of(ticket.job)
            outcomes[ticket.number] = Failure(label, dead(outcome)) if isinstance(outcome, Lost) else outcome
            if not launcher.is_here:
                console.print(f"{len(outcomes)} of {len(jobs)} runs are over: {label}", highlight=False, soft_wrap=True)
    summaries = [outcomes[number] for number in sorted(outcomes)]
    return ([outcome for outcome in summaries if not isinstance(outcome, Failure)],
            [outcome for outcome in summaries if isinstance(outcome, Failure)])


@dataclass(frozen=True)
class Ticket:
    """A job on its way to where it is run; to another process it travels as plain data."""

    number: int
    job: Job

    def __reduce__(self) -> tuple[Any, ...]:
        return ticket_of, (self.number, self.job.tree, self.job.protocol, self.job.experiences)


def ticket_of(number: int, tree: dict[str, Any], protocol: str | None, experiences: int) -> Ticket:
    """A ticket from plain data."""
    return Ticket(number, replace(from_tree(tree), protocol=protocol, experiences=experiences))


@dataclass(frozen=True)
class Attempt(Joint):
    """Runs a ticket's job; in another process, or beside others, it says on plain lines how far it is."""

    out: Path
    command: str
    console: Console

    def __reduce__(self) -> tuple[Any, ...]:
        return _attempt_elsewhere, (self.out, self.command)

    def __call__(self, ticket: Ticket) -> dict[str, Any] | Failure:
        """The summary, or why there is none."""
        return _attempt(ticket.job, self.out, self.command, self.console)

    def group(self, ticket: Ticket) -> Hashable:
        """The configuration: what runs have in common that differ in the seed."""
        return ticket.job.hash

    def together(self, tickets: Sequence[Ticket]) -> Sequence[dict[str, Any] | Failure]:
        """Train the seeds of one configuration together, else one after the other."""
        job = tickets[0].job
        why = hindrance(job, open_stream(job), len(tickets))
        if why is not None:
            self.console.print(f"{job.name('scenario')} {job.name('strategy')}: seeds are trained one by one, since "
                               f"{why}", highlight=False, soft_wrap=True)
            return [self(ticket) for ticket in tickets]
        plain = Attempt(self.out, self.command, _plain_console())
        return run_together(job, [partial(plain, ticket) for ticket in tickets])


def _attempt_elsewhere(out: Path, command: str) -> Attempt:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return Attempt(out, command, _plain_console())


def _plain_console() -> Console:
    return Console(stderr=True, force_terminal=False, markup=False)


def dead(lost: Lost) -> ClfError:
    """What is said of a run that no worker lived to finish."""
    return ClfError(f"{lost.deaths} worker processes died of this run (killed, or out of memory?); take fewer at a "
                    "time with workers=, and give the same command again: it goes on from its last checkpoint")


def _attempt(job: Job, out: Path, command: str, console: Console) -> dict[str, Any] | Failure:
    try:
        return execute(job, out, command, console)
    except Stopped:
        raise
    except ClfError as error:
        return Failure(label_of(job), error)
    except (Exception, SystemExit) as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else "?"
        return Failure(label_of(job), ClfError(
            f"{type(error).__name__}: {error} ({where}); `clf check strategy={job.name('strategy')}` may say why, "
            "--debug shows the traceback"))

