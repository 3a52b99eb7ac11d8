"""Tasks in, outcomes out, a few at a time; what a dead process had is taken up again, and named if that fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

AGAIN = 3
"""How often a task is taken up again after the process that had it died."""

Work = Callable[[Any], Any]
"""What is done with a task. It can be pickled, and so can tasks and outcomes."""
Outcomes = Generator[tuple[Any, Any], None, None]
"""Tasks, each with what became of it."""


class Joint(ABC):
    """Work that may take several tasks at once."""

    @abstractmethod
    def group(self, task: Any) -> Hashable:
        """Equal for tasks that may be taken at once."""

    @abstractmethod
    def together(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Take tasks of one group; what became of each."""


@dataclass(frozen=True)
class Together:
    """Joint work on parcels of tasks."""

    work: Joint

    def __call__(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """What became of each."""
        return self.work.together(tasks)


def parcels(work: Joint, tasks: Iterable[Any], n: int) -> list[tuple[Any, ...]]:
    """Tasks by their groups, each cut into `n` parcels of nearly the same size, or fewer where there is too little."""
    groups: dict[Hashable, list[Any]] = {}
    for task in tasks:
        groups.setdefault(work.group(task), []).append(task)
    cut = [tuple(group[len(group) * k // n: len(group) * (k + 1) // n]) for group in groups.values() for k in range(n)]
    return [parcel for parcel in cut if parcel]


class Died(Exception):
    """The process that had a task is gone: killed, out of memory, or its machine is."""


@dataclass(frozen=True)
class Lost:
    """What became of a task whose process died each time."""

    deaths: int


class Pool(Protocol):
    """Processes, here or elsewhere. They live from task to task, and so does what they have opened."""

    def start(self, work: Work, task: Any) -> Hashable:
        """Give a task to a process; what it is known by until it is over."""

    def over(self, handles: Collection[Hashable]) -> Collection[Hashable]:
        """Wait until at least one of them is over; those that are.

        Raises:
            ClfError: the pool itself is gone.
        """

    def outcome(self, handle: Hashable) -> Any:
        """What `work` returned; what it raised is raised.

        Raises:
            Died: its process did not live to the end.
        """

    def stop(self) -> None:
        """End every process, also in the middle of a task."""


def through(pool: Pool, n: int, work: Work, tasks: Iterable[Any]) -> Outcomes:
    """Do every task, at most `n` at a time.

    A task is asked for when there is room for it, so the next one may depend on outcomes so far. One whose process
    dies is taken up again, before new ones and up to `AGAIN` times.

    Yields:
        Each task and its outcome, in the order in which they end; `Lost` for one that is given up.
    """
    waiting = iter(tasks)
    again: deque[tuple[Any, int]] = deque()
    under_way: dict[Hashable, tuple[Any, int]] = {}
    try:
        while True:
            while len(under_way) < n and (entry := _next(again, waiting)) is not None:
                under_way[pool.start(work, entry[0])] = entry
            if not under_way:
                return
            for handle in pool.over(under_way.keys()):
                task, deaths = under_way.pop(handle)
                try:
                    outcome = pool.outcome(handle)
                except Died:
                    if deaths < AGAIN:
                        again.append((task, deaths + 1))
                        continue
                    outcome = Lost(deaths + 1)
                yield task, outcome
    except BaseException:  # Ctrl-C, a fault of the work, or a caller that has seen enough
        pool.stop()
        raise


def _next(again: deque[tuple[Any, int]], waiting: Iterator[Any]) -> tuple[Any, int] | None:
    """The next task and how many processes it has cost so far; None while there is none."""
    if again:
        return again.popleft()
    for task in waiting:
        return task, 0
    return None
