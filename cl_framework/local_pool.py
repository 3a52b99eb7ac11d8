"""`launcher=local`: processes of this machine, as many as its memory holds. They are joblib's (loky)."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Collection, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from cl_framework.garbage import uncollected
from cl_framework.lifeline import hold
from cl_framework.machine import available_memory, resident_bytes
from cl_framework.pool import Died, Work
from cl_framework.stopping import GRACE, heed

_SHARE = 0.9
"""The part of the free memory that workers may take."""
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
"""Libraries beside torch have one thread in a worker, unless the user's environment says otherwise."""
_AMPLE = 2**30
"""Bytes that a process surely holds when it has imported what it needs, and opened nothing."""
_GROWTH = 2**30
"""Bytes that a process may grow by before it is replaced. joblib takes 0.3e9 for a leak: a data set that stays open."""
_IDLE = 300.0
"""Seconds without a task after which a process ends."""


class Processes:
    """Executors of one process each: one that dies takes no other's task with it, and is replaced.

    They stay between calls, so that the searches and evaluations of one command open each stream once a process.
    """

    def __init__(self) -> None:
        memory = available_memory()
        self.room = None if memory is None else int(_SHARE * memory)
        """Bytes that the workers may take together, as it was before the first of them; None where it is not known."""
        self._base: int | None = None
        self._idle: list[Any] = []
        self._busy: dict[Hashable, Any] = {}

    def prepare(self, n: int, module: str) -> None:
        """Start processes, at most `n` and no more than surely fit, that import a module while the caller goes on."""
        fitting = n if self.room is None else min(n, self.room // _AMPLE)
        for _ in range(fitting - len(self._idle)):
            executor = _executor()
            executor.submit(_import, module)
            self._idle.append(executor)

    def base(self, work: Work) -> int:
        """Bytes that a worker holds when it has imported what `work` needs; measured once, in a fresh one."""
        if self._base is None:
            handle = self.start(_resident, work)
            self.over([handle])
            self._base = self.outcome(handle) or 0
        return self._base

    def keep(self, n: int) -> None:
        """End idle processes beyond `n`; nothing is under way."""
        while len(self._idle) > n:
            self._idle.pop().shutdown(wait=True, kill_workers=True)

    def start(self, work: Work, task: Any) -> Future[Any]:
        """Give a task to an idle process, or to a new one."""
        executor = self._idle.pop() if self._idle else _executor()
        try:
            future: Future[Any] = executor.submit(work, task)
        except BrokenProcessPool:  # it died idle, and took nothing with it
            executor = _executor()
            future = executor.submit(work, task)
        self._busy[future] = executor
        return future

    def over(self, handles: Collection[Hashable]) -> Collection[Hashable]:
        """Those of the handles that are over; at least one."""
        with warnings.catch_warnings():  # a process that has grown much is replaced between tasks, which is no news
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            return wait([handle for handle in handles if isinstance(handle, Future)],
                        return_when=FIRST_COMPLETED).done

    def outcome(self, handle: Hashable) -> Any:
        """What the task returned or raised; a dead process is not used again."""
        assert isinstance(handle, Future)
        executor = self._busy.pop(handle)
        try:
            made = handle.result()
        except BrokenProcessPool as error:
            executor.shutdown(wait=True, kill_workers=True)
            raise Died from error
        except BaseException:
            self._idle.append(executor)
            raise
        self._idle.append(executor)
        return made

    def stop(self) -> None:
        """End every process; a run that is under way has time to write a checkpoint."""
        executors = [*self._busy.values(), *self._idle]
        for executor in self._busy.values():
            for number in list(executor._processes or ()):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)
        wait([handle for handle in self._busy if isinstance(handle, Future)], timeout=GRACE)
        self._busy, self._idle = {}, []
        for executor in executors:
            executor.shutdown(wait=True, kill_workers=True)


@cache
def processes() -> Processes:
    """The processes of this command."""
    return Processes()


def _executor() -> Any:
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=1, timeout=_IDLE, initializer=_begin, initargs=(os.getpid(),),
                               env={"PYTHONSAFEPATH": "1",  # a json.py of the user is no library while a worker starts
                                    **{name: os.environ.get(name, one) for name, one in _THREADS.items()}})


def _begin(parent: int) -> None:
    """What a process does first."""
    from joblib.externals.loky import process_executor

    hold(parent)
    heed()
    process_executor._MAX_MEMORY_LEAK_SIZE = _GROWTH


def _import(module: str) -> None:
    with uncollected():
        import_module(module)


def _resident(_work: Work) -> int | None:
    """What a process holds that has unpickled some work, and imported all that it needs."""
    return resident_bytes()
