"""What every fuzzer here does: one seed makes one input, one input is tried under watch, and the counts are kept.

An attempt must end in one of the ways that a user is told of. Findings are: an exception that nobody explains, more
than two seconds of the processor or twenty by the clock, more than 1 GiB, another program, a connection. Programs and
connections are refused by an audit hook (PEP 578), so that a finding harms nobody, and so is each change outside the
fuzzer's own folder: that one looks to the code like a folder without permission.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cl_framework.files import write_json
from cl_framework.plain_files import read_json

REFERENCE = Path(__file__).resolve().parent.parent.parent / "runs" / "reference"
SECONDS, PATIENCE, GROWTH = 2.0, 20.0, 1 << 30
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
            "os.truncate", "shutil.rmtree", "shutil.move")


class Hang(BaseException):
    """An attempt took longer than it may; no handler of failures stops it."""


class Forbidden(BaseException):
    """An input made the process do what no input may."""


@dataclass
class Watch:
    """Runs attempts and writes down what came of them.

    Attributes:
        home: the folder that attempts may write into.
        outcomes: how attempts ended, by a word.
        findings: what must not happen, each with its seed.
    """

    home: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0
    is_armed: bool = False
    _peak: int = 0

    def __post_init__(self) -> None:
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGALRM, _ring)
        signal.signal(signal.SIGPROF, _ring)
        self._readable = tuple(f"{Path(place).resolve()}{os.sep}" for place in (self.home, sys.prefix, sys.base_prefix,
                                                                                  REFERENCE.parent.parent))
        self._peak = _peak()

    def attempt(self, seed: int, shown: str, action: Callable[[], str]) -> None:
        """Try one input.

        Args:
            seed: which it is.
            shown: what it is, for a finding.
            action: tries it, and says how it ended in a word; what it raises is a finding.
        """
        begun, word, detail = time.process_time(), "", ""
        try:
            with self._guarded():
                word = action()
        except Hang:
            word, detail = "hang", f"more than {SECONDS} s of the processor, or {PATIENCE} s"
        except Forbidden as error:
            word, detail = "forbidden", str(error)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            word = "unexplained"
            detail = "".join(traceback.format_exception(error))[-1500:]
        self.slowest = max(self.slowest, time.process_time() - begun)
        if _peak() - self._peak > GROWTH:
            word, detail = "memory", f"{(_peak() - self._peak) >> 20} MiB more"
            self._peak = _peak()
        self.outcomes[word] += 1
        if detail:
            self.findings.append({"seed": seed, "kind": word, "input": shown[:500], "detail": detail})

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        self.is_armed = True
        try:
            yield
        finally:
            self.is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_armed:
            return
        if event in _PROGRAMS or event == "socket.connect":
            raise Forbidden(f"{event} {arguments!r}"[:300])
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | bytes) and (set(mode or "") & set("wax+") or (flags or 0) & _WRITING):
                self._refuse_outside(path)
        elif event in _CHANGES:
            self._refuse_outside(arguments[0])
        elif event == "os.scandir" and not _within(arguments[0] or ".", self._readable):
            raise PermissionError(13, "a fuzzer looks through its own folders alone", arguments[0])

    def _refuse_outside(self, path: str | bytes | int) -> None:
        place = os.path.realpath(os.fsdecode(path)) if isinstance(path, str | bytes) else ""
        if place and place != os.devnull and not place.startswith(f"{self.home.resolve()}{os.sep}"):
            raise PermissionError(13, "a fuzzer writes into its own folder alone", place)


def _within(path: str, folders: tuple[str, ...]) -> bool:
    return f"{os.path.realpath(path)}{os.sep}".startswith(folders)


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise Hang


def _peak() -> int:
    """The most memory that this program has held (proc(5), VmHWM); getrusage counts its parent's, too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(name: str, inputs: Callable[[Path], Callable[[Watch, int], None]], words: Sequence[str]) -> int:
    """Try a range of seeds, and add the counts to `runs/reference/<name>.json`.

    Args:
        name: of the record.
        inputs: prepares the fuzzer in a folder; what it gives tries one seed.
        words: FIRST..LAST, by default the thousand after the record's last; then another folder for the record.

    Returns:
        1 where something was found that must not happen, else 0.
    """
    from cl_framework.runs import git_commit

    path = (Path(words[1]) if len(words) > 1 else REFERENCE) / f"{name}.json"
    record = read_json(path) if path.exists() else {"tried": 0, "next_seed": 0, "outcomes": {}, "findings": []}
    first = record["next_seed"]
    first, last = map(int, words[0].split("..")) if words else (first, first + 999)
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        attempt, watch = inputs(Path(folder)), Watch(Path(folder))
        begun = time.perf_counter()
        for seed in range(first, last + 1):
            attempt(watch, seed)
        seconds = time.perf_counter() - begun
        os.chdir(before)
    n = last - first + 1
    print(f"{n} inputs in {seconds:.0f} s, slowest {watch.slowest:.2f} s: {dict(watch.outcomes.most_common())}")
    for finding in watch.findings[:20]:
        print(f"seed {finding['seed']} {finding['kind']}: {finding['input'][:160]!r}\n{finding['detail']}")
    outcomes = Counter(record["outcomes"]) + watch.outcomes
    write_json(path, {
        "command": f"python benchmarks/faults/{name}.py FIRST..LAST", "git_commit": git_commit(),
        "tried": record["tried"] + n, "next_seed": max(record["next_seed"], last + 1),
        "limits": {"processor_seconds": SECONDS, "seconds": PATIENCE, "bytes": GROWTH}, "slowest_seconds": max(
            record.get("slowest_seconds", 0.0), round(watch.slowest, 3)),
        "outcomes": dict(sorted(outcomes.items())), "findings": [*record["findings"], *watch.findings]})
    return 1 if watch.findings else 0
