"""Signals that ask a command to end: a run writes a checkpoint first, everything else ends at once.

    the first signal, a run is under way    the run ends between two chunks of steps, with a checkpoint there
    the first signal, no run is under way   `Stopped` is raised where the command stands
    another one, or after `GRACE` seconds   the same; the last checkpoint that is whole stays
    another one within `HURRY` seconds      is taken for the same one: shells and launchers pass on what a group gets

Slurm sends SIGTERM to what it preempts, and SIGKILL after GraceTime or KillWait (30 s), https://slurm.schedmd.com/preempt.html;
`--signal=USR1@120` asks for SIGUSR1 120 s before the end of the time, https://slurm.schedmd.com/sbatch.html. Only a
monotonic clock is read here.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from cl_framework.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE = 20.0
"""Seconds that a run has to reach its next checkpoint."""
HURRY = 1.0
"""Seconds in which several signals are one."""


@dataclass
class _Wish:
    """What was asked for, and what stands against it."""

    number: int = 0
    heard: float = -math.inf
    n_runs: int = 0
    timer: threading.Timer | None = None
    before: dict[int, Any] = field(default_factory=dict)


_WISH = _Wish()


def heed() -> None:
    """From now on the signals end this process in order; one that it was told to ignore stays ignored (nohup)."""
    global _WISH
    if _WISH.before:
        return
    _WISH = _Wish(before={number: signal.getsignal(number) for number in SIGNALS})
    reassert()


def reassert() -> None:
    """Take back the signals that a library has taken since; nothing where they are not heeded."""
    if threading.current_thread() is threading.main_thread():
        for number, before in _WISH.before.items():
            if before != signal.SIG_IGN:
                signal.signal(number, _hear)


def restore() -> None:
    """Give the signals back to whoever had them before."""
    global _WISH
    _quieten()
    for number, before in _WISH.before.items():
        signal.signal(number, signal.SIG_DFL if before is None else before)
    _WISH = _Wish()


@contextmanager
def heeding() -> Iterator[None]:
    """Inside, signals end the work in order. After `Stopped` they stay heeded, until the process ends or `restore`."""
    is_outer = not _WISH.before
    heed()
    try:
        yield
    except Stopped:
        raise
    except BaseException:
        if is_outer:
            restore()
        raise
    if is_outer:
        restore()


@contextmanager
def finishing() -> Iterator[None]:
    """Inside, a run is under way that looks at `is_asked` between its steps; it is over, or left, at the end.

    Raises:
        Stopped: a signal came while the run was about to end anyway.
    """
    _WISH.n_runs += 1
    try:
        yield
    finally:
        _WISH.n_runs -= 1
    if is_asked():
        leave(is_saved=True)


def is_asked() -> bool:
    """Whether a run should write a checkpoint and leave."""
    return _WISH.number != 0


def leave(*, is_saved: bool) -> None:
    """End what is under way.

    Args:
        is_saved: a checkpoint of this very moment is on the disk.

    Raises:
        Stopped: always.
    """
    _quieten()
    raise Stopped(_WISH.number or signal.SIGTERM, is_saved=is_saved)


def _hear(number: int, _frame: FrameType | None) -> None:
    now, is_first = time.monotonic(), not is_asked()
    if now - _WISH.heard < HURRY:
        return
    _WISH.heard, _WISH.number = now, _WISH.number or number
    if not (is_first and _WISH.n_runs):
        leave(is_saved=False)
    _WISH.timer = threading.Timer(GRACE, os.kill, (os.getpid(), number))
    _WISH.timer.daemon = True
    _WISH.timer.start()


def _quieten() -> None:
    if _WISH.timer is not None:
        _WISH.timer.cancel()
        _WISH.timer = None
