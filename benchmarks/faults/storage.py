"""What a disk, a user's hand or a clock can do to a run: each fault is done, the run taken up again, and all compared.

    python benchmarks/faults/storage.py                  # writes runs/reference/storage.json
    python benchmarks/faults/storage.py only=clock,twins times=3 out=/tmp/storage.json

Right means: the command says in words what is wrong and ends with status 1 or 2, never with a traceback; when the fault
is mended the same command finishes, and what it leaves is that of a run without a fault, bit for bit. Full disks are
true ones where a file system of 1 MB can be mounted; other errors come from the call that writes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import random
import resource
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from damages import damaged, places
from killing import Run, left

from cl_framework import tuning_pool  # noqa: F401  (what a run imports is imported before the fork)
from cl_framework.files import write_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent.parent / "runs" / "reference" / "storage.json"
WORDS = ("train", "scenario=split_digits", "strategy=er", "strategy.memory_size=50", "train.epochs=2",
         "train.checkpoint_every=0", "track.wandb=disabled")


def learn(out: Path, before: Callable[[], None] = lambda: None) -> Run:
    """Start or take up the run, in a process that does something `before`."""
    return Run([*WORDS, f"out={out}"], out.parent / "log", before=before)


def folder_of(out: Path, run: Run | None = None) -> Path:
    """The one run folder below `out`; that of a run that has just begun is waited for."""
    while not (found := list(out.glob("*/*/*/seed0"))) and run is not None and not run.is_over():
        time.sleep(0.005)
    if not found:
        raise RuntimeError((out.parent / "log").read_text())
    return found[0]


@cache
def expected() -> dict[str, str]:
    """What the run leaves without a fault."""
    with tempfile.TemporaryDirectory() as name:
        run = learn(Path(name) / "out")
        if run.wait():
            raise RuntimeError((Path(name) / "log").read_text())
        return left(folder_of(Path(name) / "out"))


def judged(place: Path, status: int, said: str) -> list[str]:
    """Faults of a command that met one, and of the same command after it is mended."""
    text = (place / "log").read_text()
    faults = [] if status in (1, 2) else [f"status {status}"]
    if said not in text or "Traceback" in text:
        faults.append(f"said {text[-200:]!r}")
    return faults + finished(place)


def finished(place: Path) -> list[str]:
    """Faults of the same command when nothing is in its way."""
    status = learn(place / "out").wait()
    if status:
        return [f"then status {status}: {(place / 'log').read_text()[-200:]}"]
    found = left(folder_of(place / "out"))
    return [f"another {name}" for name in found.keys() | expected().keys() if found.get(name) != expected().get(name)]


def failing(nth: int, number: int) -> Callable[[], None]:
    """The `nth` write to a disk fails after half of its bytes, and all later ones."""
    def prepare() -> None:
        seen, flush = [0], os.fsync

        def full(handle: int) -> None:
            is_file = stat.S_ISREG(os.fstat(handle).st_mode)
            seen[0] += is_file
            if is_file and seen[0] >= nth:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                raise OSError(number, os.strerror(number))
            flush(handle)

        vars(os)["fsync"] = full

    return prepare


def write_errors(place: Path, draws: random.Random) -> list[str]:
    """A write that fails in the middle: no room, no quota, an error of the device."""
    number = draws.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO])
    said = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "quota", errno.EIO: "cannot write"}[number]
    return judged(place, learn(place / "out", failing(draws.randint(1, 60), number)).wait(), said)


def full_disk(place: Path, draws: random.Random) -> list[str]:
    """A file system of 0.3 to 1 MB."""
    out, size = place / "out", draws.randint(300, 1000)
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", out], capture_output=True).returncode:
        return []
    try:
        status = learn(out).wait()
        subprocess.run(["mount", "-o", "remount,size=100m", out], check=True)
        return judged(place, status, "the disk is full")
    finally:
        subprocess.run(["umount", out], check=True)


def largest_file(place: Path, draws: random.Random) -> list[str]:
    """No file may be larger than some bytes (ulimit -f): checkpoints do not fit."""
    size = draws.randint(2_000, 100_000)
    run = learn(place / "out", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    return judged(place, run.wait(), "the largest size of a file")


def as_a_user() -> None:
    """Obey permissions, also where the superuser runs this: give CAP_DAC_OVERRIDE up (capset, linux/capability.h)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def not_allowed(place: Path, draws: random.Random) -> list[str]:
    """A folder that may only be read, from the beginning or from some moment on."""
    out = place / "out"
    out.mkdir()
    if draws.random() < 0.3:
        out.chmod(0o555)
        status = learn(out, as_a_user).wait()
        out.chmod(0o755)
        return judged(place, status, "Permission denied")
    run = learn(out, as_a_user)
    folder = folder_of(out, run)
    _wait_for_checkpoints(folder, run, draws.randint(1, 4))
    for each in (folder, folder / "checkpoints"):
        each.chmod(0o555)
    status = run.wait()
    for each in (folder, folder / "checkpoints"):
        each.chmod(0o755)
    return judged(place, status, "Permission denied")


def removed(place: Path, draws: random.Random) -> list[str]:
    """The run folder is removed, or moved, while its run is at work."""
    run = learn(place / "out")
    folder = folder_of(place / "out", run)
    _wait_for_checkpoints(folder, run, draws.randint(1, 4))
    folder.rename(place / "away")
    status = run.wait()
    if draws.random() < 0.5 and not folder.exists():
        (place / "away").rename(folder)
    return judged(place, status, "removed or moved")


def twins(place: Path, draws: random.Random) -> list[str]:
    """Two commands start the same run at almost the same time: one does it, the other says so."""
    first = learn(place / "out")
    time.sleep(draws.choice([0.0, 0.0, draws.uniform(0.0, 0.3)]))
    statuses = sorted([learn(place / "out").wait(), first.wait()])
    text = (place / "log").read_text()
    is_said = "is being run by another process" in text or "finished before" in text
    faults = [] if statuses in ([0, 2], [0, 0]) and is_said else [f"statuses {statuses}: {text[-200:]}"]
    return faults + finished(place)


def clock(place: Path, draws: random.Random) -> list[str]:
    """The clock of the machine jumps by up to thirty years, back and forth, each time it is read."""
    def prepare() -> None:
        read = time.time
        time.time = lambda: read() + draws.uniform(-1e9, 1e9)
        time.time_ns = lambda: int(time.time() * 1e9)

    status = learn(place / "out", prepare).wait()
    return ([f"status {status}"] if status else []) + finished(place)


def damages(place: Path, draws: random.Random) -> list[str]:
    """The newest checkpoint is cut, longer, or has one other bit: the one before it is taken."""
    run = learn(place / "out")
    folder = folder_of(place / "out", run)
    _wait_for_checkpoints(folder, run, draws.randint(2, 8))
    run.kill_after(0.0)
    newest = max((folder / "checkpoints").glob("*.pt"))
    content = newest.read_bytes()
    kind, offset = draws.choice(places(content))
    newest.write_bytes(damaged(content, offset, draws.choice(["flip", "cut", "add"])))
    faults = finished(place)
    if "falling back to the one before" not in (place / "log").read_text():
        faults.append(f"{kind} at {offset}: not noticed")
    return faults


def _wait_for_checkpoints(folder: Path, run: Run, n: int) -> None:
    seen = set[str]()
    while len(seen) < n and not run.is_over():
        seen |= {path.name for path in (folder / "checkpoints").glob("*.pt")}
        time.sleep(0.002)


TRIED: dict[str, tuple[Callable[[Path, random.Random], list[str]], int]] = {
    "write_errors": (write_errors, 40), "full_disk": (full_disk, 10), "largest_file": (largest_file, 10),
    "not_allowed": (not_allowed, 10), "removed": (removed, 10), "twins": (twins, 20), "clock": (clock, 5),
    "damages": (damages, 40)}
"""Each fault, and how often it is done."""


def done(names: list[str], most: int) -> Iterator[dict[str, Any]]:
    """Do each fault as often as it is to be done, at most `most` times; what came of it."""
    for name in names:
        tried, times = TRIED[name][0], min(TRIED[name][1], most)
        rows = []
        for number in range(times):
            with tempfile.TemporaryDirectory(prefix="storage-") as place:
                rows.append(tried(Path(place), random.Random(f"{name} {number}")))
        yield {"fault": name, "what": (tried.__doc__ or "").strip(), "tried": times,
               "right": sum(not faults for faults in rows), "faults": [fault for row in rows for fault in row][:20]}


def main() -> None:
    """Do the faults; print and write."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    rows = []
    for row in done(given.get("only", ",".join(TRIED)).split(","), int(given.get("times", 1000))):
        rows.append(row)
        print(row, flush=True)
    write_json(Path(given.get("out", RESULT)), {
        "command": "python benchmarks/faults/storage.py", "git_commit": git_commit(), "torch": torch.__version__,
        "python": platform.python_version(), "results": rows})
    sys.exit(any(row["faults"] for row in rows))


if __name__ == "__main__":
    main()
