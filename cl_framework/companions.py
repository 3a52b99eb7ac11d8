"""The other processes of a run with `trainer.processes=2` or more: each does the same run, and writes nothing.

They are started when the first one has its model, and see what it sees: the same job, and its last checkpoint. They
pay no heed to signals; where the first is asked to end, it tells them between two chunks (`cl_framework.team`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cl_framework.checkpoint import Vault
from cl_framework.errors import ClfError, ConfigError, Stopped
from cl_framework.hardware import Hardware
from cl_framework.lifeline import hold
from cl_framework.team import joined
from cl_framework.types import StreamInfo

_PATIENCE = 30.0
"""Seconds that companions have to end by themselves after the first process."""
_LOOK = 0.05
"""Seconds between two looks at whether they are there."""


Companion = Callable[[AbstractContextManager[None]], None]
"""What another process does: inside the context that it is given it is one of the team."""


class Borrowed(Vault):
    """The checkpoints of another process: they are read alone."""

    def save(self, state: dict[str, Any], experience: int, step: int) -> Path:
        """Nothing: the first process writes it."""
        return self.folder

    def clear(self) -> None:
        """Nothing."""


def check_processes(hardware: Hardware, info: StreamInfo) -> None:
    """Refuse several processes where they would not do what one does.

    Raises:
        ConfigError: says why.
    """
    if hardware.processes == 1:
        return
    why = ("test-time adaptation meets one small batch after another" if not info.is_labelled else
           "rows of texts have no common length" if info.is_language else
           "" if hardware.trainer().strategy.root_device.type == "cpu" else "a run on an accelerator uses one")
    if why:
        raise ConfigError(f"trainer.processes={hardware.processes} is not offered here: {why}; set trainer.processes=1")


@contextmanager
def accompanied(n: int, companion: Companion) -> Iterator[None]:
    """Inside, n processes learn the run, of which this is the first.

    Args:
        n: how many; 1 starts none.
        companion: what each of the others does; it travels to them.
    """
    if n == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "meeting")
        others = [context.Process(target=_accompany, args=(companion, rank, n, place, os.getpid()), daemon=True)
                  for rank in range(1, n)]
        for each in others:
            each.start()
        try:
            _await(others, place)
            with joined(0, n, place):
                yield
            for each in others:
                each.join(_PATIENCE)
        finally:
            for each in others:
                each.kill()
                each.join()


def _await(others: Sequence[BaseProcess], place: str) -> None:
    """Wait until all of them are about to meet: who waits there for one that has ended waits long.

    Raises:
        ClfError: one has ended.
    """
    for rank, each in enumerate(others, 1):
        while not Path(f"{place}.{rank}").exists():
            if not each.is_alive():
                raise ClfError(f"process {rank} of this run ended before it began (status {each.exitcode}; out of "
                               "memory?); give the same command again, or set trainer.processes=1")
            time.sleep(_LOOK)


@contextmanager
def _meeting(rank: int, n: int, place: str) -> Iterator[None]:
    Path(f"{place}.{rank}").touch()
    with joined(rank, n, place):
        yield


def _accompany(companion: Companion, rank: int, n: int, place: str, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    hold(parent)
    logging.basicConfig(level=logging.ERROR, format=f"process {rank}: %(message)s")
    try:
        companion(_meeting(rank, n, place))
    except Stopped:
        pass
    except Exception as error:  # the first process fails alike, and says so; where it does not, this says why
        logging.getLogger(__name__).info("%s: %s", type(error).__name__, error)
        sys.exit(1)
