"""A run as a process that can be killed at a chosen moment, and everything that a finished run leaves, as one digest.

Importing torch takes longer than these runs. So a server that has imported everything forks: the child is a process of
its own that does what `clf` does, reads its command line, locks its folder, trains and writes, and it is sent a true
SIGKILL. A byte of shared memory says what it is doing, which aims some kills and counts where all of them hit.
"""

from __future__ import annotations

import csv
import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch

from cl_framework import checkpoint, launch, protocol, run_writer, runs
from cl_framework.cli import main

PHASES = ("starting", "training", "evaluating", "at a boundary", "writing a checkpoint", "writing another file")
"""What a run is doing; at a boundary it merges, measures importance, or fills a buffer."""
_POLL = 0.0002


class Run:
    """A command that is under way.

    Args:
        words: the command line behind `clf`.
        log: where it writes.
        is_whole: start a new interpreter, as a user does, instead of forking.
        before: what the forked process does first.

    Attributes:
        number: of the process.
        length: seconds that it took, once it is over.
    """

    def __init__(self, words: Sequence[str], log: Path, *, is_whole: bool = False,
                 before: Callable[[], None] = lambda: None) -> None:
        self._phase = mmap.mmap(-1, 1)
        self._status: int | None = None
        self.begun = time.monotonic()
        self.length = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        if is_whole:
            with log.open("ab") as file:
                command = [sys.executable, "-m", "cl_framework.cli", *words]
                self._process = subprocess.Popen(command, stdout=file, stderr=file)
            self.number = self._process.pid
            return
        sys.stdout.flush()
        self.number = os.fork()
        if self.number == 0:
            os._exit(_child(words, log, self._phase, before))

    @property
    def phase(self) -> int:
        """What it is doing: an index of `PHASES`; of a new interpreter it is not known, and 0."""
        return self._phase[0]

    def is_over(self) -> bool:
        """Whether the process has ended."""
        if self._status is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self._status = os.waitstatus_to_exitcode(status)
                self.length = time.monotonic() - self.begun
                if self._process is not None:
                    self._process.returncode = self._status
        return self._status is not None

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if not self.is_over():
            os.kill(self.number, number)

    def wait(self, patience: float = 300.0) -> int:
        """The exit status; minus the number of the signal that ended it.

        Raises:
            TimeoutError: it does not end.
        """
        until = time.monotonic() + patience
        while not self.is_over():
            if time.monotonic() > until:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"process {self.number} did not end in {patience} s")
            time.sleep(0.005)
        assert self._status is not None
        return self._status

    def kill_after(self, seconds: float) -> int | None:
        """SIGKILL it after some seconds; what it was doing then, None where it had ended before."""
        while time.monotonic() < self.begun + seconds:
            if self.is_over():
                return None
            time.sleep(0.001)
        return self._kill()

    def kill_in(self, phase: int, nth: int, delay: float) -> int | None:
        """SIGKILL it some seconds into the `nth` time that it does something; None where it had ended before."""
        seen, before = 0, -1
        while not self.is_over():
            now = self.phase
            seen += now == phase != before
            if seen >= nth and now == phase:
                time.sleep(delay)
                return self._kill()
            before = now
            time.sleep(_POLL)
        return None

    def _kill(self) -> int | None:
        if self.is_over():
            return None
        self.signal(signal.SIGSTOP)  # so that the phase is that of the kill
        phase = self.phase
        self.signal(signal.SIGKILL)
        return phase if self.wait() == -signal.SIGKILL else None


def _child(words: Sequence[str], log: Path, phase: mmap.mmap, before: Callable[[], None]) -> int:
    """What `clf` does, in a process that was forked."""
    status = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        _watch(phase)
        before()
        sys.argv = ["clf", *words]
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    return status


def _watch(phase: mmap.mmap) -> None:
    """Let the byte say what this process does."""

    @contextmanager
    def during(number: int) -> Iterator[None]:
        before = phase[0]
        phase[0] = number
        try:
            yield
        finally:
            phase[0] = before

    def told(module: Any, name: str, number: int) -> None:
        original: Callable[..., Any] = getattr(module, name)

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with during(number):
                return original(*args, **kwargs)

        setattr(module, name, wrapped)

    def run_stream(strategy: Any, *args: Any, **kwargs: Any) -> Any:
        told(type(strategy), "after_experience", 3)
        with during(1):
            return learn(strategy, *args, **kwargs)

    learn = vars(launch)["run_stream"]
    vars(launch)["run_stream"] = run_stream
    told(protocol, "evaluate", 2)
    told(checkpoint, "write_atomic", 4)
    for module, name in ((runs, "write_atomic"), (runs, "write_json"), (run_writer, "write_atomic"),
                         (run_writer, "write_json"), (launch, "write_json")):
        told(module, name, 5)


def left(folder: Path) -> dict[str, str]:
    """Everything that a finished run leaves, times aside: a digest of each of its files, tensors bit for bit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in (".lock", "command.txt", "environment.json"):
            read = _READERS.get(path.suffix, Path.read_bytes)
            name = "checkpoint" if path.suffix == ".pt" else name
            found[name] = hashlib.sha256(_plain(read(path)).encode()).hexdigest()[:16]
    return found


def _checkpoint(path: Path) -> Any:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    state["record"].pop("seconds")
    return state


def _json(path: Path) -> Any:
    found = json.loads(path.read_text())
    if path.name != "summary.json":
        return found
    for name in ("git_commit", "files", "digest"):  # others may commit in between; files and digest hold times
        found.pop(name, None)
    for each in (found, *found["experiences"]):
        each.pop("seconds")
    for name in [name for name in found["metrics"] if "seconds" in name]:
        del found["metrics"][name]
    return found


def _lines(path: Path) -> Any:
    return [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()]


def _table(path: Path) -> Any:
    head, *rows = csv.reader(path.read_text().splitlines())
    return [head, *([value for name, value in zip(head, row, strict=True) if name != "seconds"] for row in rows)]


_READERS: dict[str, Callable[[Path], Any]] = {".pt": _checkpoint, ".json": _json, ".jsonl": _lines, ".csv": _table}


def _plain(value: Any) -> str:
    """A value in words, each tensor by the digest of its bytes."""
    if isinstance(value, torch.Tensor):
        whole = value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(whole).hexdigest()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return repr(value)
