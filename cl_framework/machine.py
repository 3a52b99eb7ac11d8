"""The memory of this machine: what is free of it, and what this process holds. Bytes; None where there is no Linux."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP_FILES = (("memory.max", "memory.current", "inactive_file"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
"""Limit, use, and the part of the use that is given back when needed; of control groups version 2 and 1."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that new processes may take without swapping, within the limits of this process's control groups.

    Source: proc(5), MemAvailable; the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

    Args:
        root: where `proc` and `sys` lie.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return max(0, min([free, *(room for folder in _groups(root) if (room := _room(folder)) is not None)]))


def _groups(root: Path) -> list[Path]:
    """The folders of this process's control group and of those around it."""
    try:
        entries = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    folders = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers in ("", "memory"):
            top = root / "sys/fs/cgroup" / controllers
            own = top / path.strip("/")
            folders += [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return folders


def _room(folder: Path) -> int | None:
    """What a control group still gives; None where it has no limit."""
    for limit, use, kept in _GROUP_FILES:
        try:
            most = int((folder / limit).read_text())
            used = int((folder / use).read_text())
            pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max"
            continue
        return most - used + int(pages.get(kept, 0))
    return None


def resident_bytes() -> int | None:
    """What this process holds in memory, shared libraries included (proc(5), statm)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def fitting(workers: int, each: int, room: int | None) -> tuple[int, str | None]:
    """How many workers start, and a sentence where that is fewer than were asked for; one starts in any case.

    Args:
        workers: how many were asked for.
        each: bytes that one needs.
        room: bytes that all may take; None where that is not known.

    >>> fitting(8, 1288490189, 4 * 1024**3)
    (3, 'workers=8: memory suffices for 3 (1.2 GiB each), using 3')
    """
    fits = workers if room is None else room // each
    if fits >= workers:
        return workers, None
    return max(1, fits), (f"workers={workers}: memory suffices for {fits} ({each / 2**30:.1f} GiB each), "
                          f"using {max(1, fits)}")
