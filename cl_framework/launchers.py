"""Where the runs of a product or of a search are done: `launcher=sequential`, `vector`, `local` or `ray`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from cl_framework.errors import ConfigError
from cl_framework.pool import Joint, Lost, Outcomes, Together, Work, parcels, through
from cl_framework.registry import unknown


@dataclass(frozen=True, kw_only=True)
class Load:
    """What runs ask of the machines that do them; it is worked out only where it counts."""

    need: Callable[[], int]
    """Bytes that a worker takes beyond the libraries."""
    gpu: Callable[[], int | None]
    """Index of the GPU that they train on; None on a CPU."""
    processes: int = 1
    """How many processes learn one run (`trainer.processes`): a worker and its companions."""


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """A way to do runs. Fields are the keys of the command line."""

    name: str = "sequential"
    workers: int | None = None
    """How many runs at once, as many as there are CPUs for when None; of vector how many processes, one when None."""
    address: str | None = None
    """Of a Ray cluster; that of the variable RAY_ADDRESS when None, and without one a Ray is started here."""

    def __post_init__(self) -> None:
        faults = []
        if self.name not in LAUNCHERS:
            faults.append(unknown("launcher", self.name, LAUNCHERS))
        elif self.address is not None and not LAUNCHERS[self.name].has_address:
            others = ", ".join(name for name, way in LAUNCHERS.items() if way.has_address)
            faults.append(f"ray_address={self.address} goes with launcher={others}, not with launcher={self.name}")
        if self.workers is not None and self.workers < 1:
            faults.append(f"workers must be a whole number of 1 or more, got {self.workers}")
        if faults:
            raise ConfigError(faults)

    @property
    def is_here(self) -> bool:
        """Whether runs are done in this process, one after the other."""
        return LAUNCHERS[self.name].is_here and self.n_workers == 1

    @property
    def n_workers(self) -> int:
        """How many runs at once, as far as this machine can tell."""
        return LAUNCHERS[self.name].n_workers(self.workers)

    def prepare(self, module: str) -> None:
        """Let processes start, and import a module, while this one does the same."""
        LAUNCHERS[self.name].prepare(self, module)

    def stop(self) -> None:
        """End the processes that are here, at once."""
        LAUNCHERS[self.name].stop()

    def run(self, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
        """Each task with what `work` made of it, in the order in which they end.

        A task is asked for when there is room for it. One whose process died again and again has `pool.Lost`.

        Raises:
            ClfError: the workers cannot be had, or are gone.
        """
        return LAUNCHERS[self.name].run(self, work, tasks, load)


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a launcher does."""

    run: Callable[[Launcher, Work, Iterable[Any], Load], Outcomes]
    prepare: Callable[[Launcher, str], None] = lambda launcher, module: None
    stop: Callable[[], None] = lambda: None
    n_workers: Callable[[int | None], int] = lambda workers: workers or n_cpus()
    is_here: bool = False
    has_address: bool = False


def _sequential(launcher: Launcher, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
    """In this process."""
    return ((task, work(task)) for task in tasks)


def _local(launcher: Launcher, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
    """In processes of this machine, as many as its memory holds."""
    yield from _in_processes(launcher, work, tasks, load)


def _in_processes(launcher: Launcher, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
    from cl_framework.local_pool import processes
    from cl_framework.machine import fitting

    pool = processes()
    wanted = launcher.workers or max(1, launcher.n_workers // load.processes)
    n, note = fitting(wanted, max(1, load.processes * (pool.base(work) + load.need())), pool.room)
    if note is not None:
        Console(stderr=True, markup=False).print(note, highlight=False, soft_wrap=True)
    pool.keep(n)
    yield from through(pool, n, work, tasks)


def _vector(launcher: Launcher, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
    """The seeds of one configuration together; with several workers in as many processes."""
    if not isinstance(work, Joint):
        Console(stderr=True, markup=False).print(
            "launcher=vector trains the seeds of clf train together; other runs are done one by one",
            highlight=False, soft_wrap=True)
        yield from (_sequential if launcher.is_here else _local)(launcher, work, tasks, load)
        return
    cut, together = parcels(work, tasks, launcher.n_workers), Together(work)
    most = max(map(len, cut), default=1)
    done = (_sequential(launcher, together, cut, load) if launcher.is_here
            else _in_processes(launcher, together, cut, replace(load, need=lambda: most * load.need())))
    with closing(done):
        for parcel, outcome in done:
            yield from zip(parcel, [outcome] * len(parcel) if isinstance(outcome, Lost) else outcome, strict=True)


def _start_vector(launcher: Launcher, module: str) -> None:
    if not launcher.is_here:
        _start_local(launcher, module)


def _start_local(launcher: Launcher, module: str) -> None:
    from cl_framework.local_pool import processes

    processes().prepare(min(launcher.n_workers, n_cpus() - 1), module)  # one CPU is this process's own meanwhile


def _stop_local() -> None:
    from cl_framework.local_pool import processes

    processes().stop()


def _ray(launcher: Launcher, work: Work, tasks: Iterable[Any], load: Load) -> Outcomes:
    """On a Ray cluster."""
    from cl_framework.ray_pool import Cluster

    gpu = load.gpu()
    if gpu:
        raise ConfigError(f"trainer.device={gpu} with launcher=ray: Ray picks the GPU of each run, and the run "
                          "sees that one alone, as number 0; leave trainer.device out")
    address = launcher.address or os.environ.get("RAY_ADDRESS")
    n_cpus_here = launcher.workers * load.processes if launcher.workers else launcher.n_workers
    pool = Cluster(address, n_cpus_here, has_gpu=gpu is not None, cpus=load.processes)
    yield from through(pool, launcher.workers or pool.n_places, work, tasks)


LAUNCHERS = {"sequential": Way(run=_sequential, n_workers=lambda workers: 1, is_here=True),
             "vector": Way(run=_vector, prepare=_start_vector, stop=_stop_local,
                           n_workers=lambda workers: workers or 1, is_here=True),
             "local": Way(run=_local, prepare=_start_local, stop=_stop_local),
             "ray": Way(run=_ray, has_address=True)}
"""Every launcher by its name."""

_CHOSEN: ContextVar[Launcher | None] = ContextVar("launcher", default=None)


@contextmanager
def using(launcher: Launcher) -> Iterator[None]:
    """Runs inside are done by this launcher."""
    token = _CHOSEN.set(launcher)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def chosen(workers: int) -> Launcher:
    """The launcher of this command; without one, processes of this machine where there are several workers."""
    return _CHOSEN.get() or Launcher(name="local" if workers > 1 else "sequential", workers=workers)


def n_cpus() -> int:
    """CPUs that this process may use: its affinity and the quota of its control group count (joblib)."""
    from joblib import cpu_count

    return int(cpu_count())
