"""The other processes of a run with `trainer.processes=2` or more: each does the same run, and writes nothing.

They are started when the first one has its model, and see what it sees: the same job, and its last checkpoint. They
hear no signals, having a session of their own; where the first is asked to end, it tells them between two chunks
(`cl_framework.team`), and they end with it where it is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from cl_framework.checkpoint import Vault
from cl_framework.errors import ClfError, ConfigError
from cl_framework.hardware import Hardware
from cl_framework.stopping import is_asked, leave
from cl_framework.team import Alone, joined
from cl_framework.types import StreamInfo

_PATIENCE = 30.0
"""Seconds that companions have to end by themselves after the first process."""
_LOOK = 0.05
"""Seconds between two looks at whether they are there."""


class Part(TypedDict):
    """The run that is shared, as plain data."""

    tree: dict[str, Any]
    protocol: str | None
    experiences: int
    checkpoints: str


class Order(Part):
    """What a companion is told."""

    rank: int
    n: int
    place: str
    parent: int


class Borrowed(Vault):
    """The checkpoints of another process: this one writes none."""

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
           "a network that shares out its rows is not compiled" if hardware.compile else
           "" if hardware.trainer().strategy.root_device.type == "cpu" else "a run on an accelerator uses one")
    if why:
        raise ConfigError(f"trainer.processes={hardware.processes} is not offered here: {why}; set trainer.processes=1")


@contextmanager
def accompanied(n: int, part: Part) -> Iterator[None]:
    """Inside, n processes learn the run, of which this is the first.

    Args:
        n: how many; 1 starts none.
        part: what the others are told.

    Raises:
        ClfError: one of them ended, with its last words where it had some.
    """
    if n == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "meeting")
        others = [_started({**part, "rank": rank, "n": n, "place": place, "parent": os.getpid()})
                  for rank in range(1, n)]
        try:
            _await(others, place)
            with joined(0, n, place):
                try:
                    yield
                except BaseException:
                    _end(others)  # first, as leaving the team waits for what is under way
                    raise
            for each in others:
                each.wait(_PATIENCE)
        except (Alone, subprocess.TimeoutExpired) as error:
            words = "; ".join(filter(None, (_words(place, rank) for rank in range(1, n))))
            raise ClfError(f"{error}{f' (it said: {words})' if words else ''}") from error
        finally:
            _end(others)


def _started(order: Order) -> subprocess.Popen[bytes]:
    path = Path(f"{order['place']}.{order['rank']}.json")
    path.write_text(json.dumps(order))
    with path.with_suffix(".words").open("wb") as words:
        return subprocess.Popen([sys.executable, "-P", "-m", "cl_framework.companion", str(path)], stderr=words,
                                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    for each in others:
        each.kill()
        each.wait()


def _words(place: str, rank: int) -> str:
    """The last line that a companion has written."""
    return next(reversed(Path(f"{place}.{rank}.words").read_text(errors="replace").split("\n")[:-1]), "")


def _await(others: Sequence[subprocess.Popen[bytes]], place: str) -> None:
    """Wait until all of them are about to meet: who waits there for one that has ended waits long.

    Raises:
        Alone: one has ended.
        Stopped: a signal asks for it.
    """
    for rank, each in enumerate(others, 1):
        while not Path(f"{place}.{rank}").exists():
            if is_asked():
                leave(is_saved=False)
            if each.poll() is not None:
                raise Alone(f"process {rank} of this run ended before it began (status {each.returncode}); give the "
                            "same command again, or set trainer.processes=1")
            time.sleep(_LOOK)
