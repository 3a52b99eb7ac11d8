"""Files that are whole or absent: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from cl_framework.errors import ClfError

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of this account is used up",
         errno.EFBIG: "the largest size of a file here is reached (ulimit -f)"}


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace a file in one step; whoever reads it sees the old content or the new one.

    Raises:
        ClfError: the disk is full; the old content is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = ""
        _settle(path.parent)
    except OSError as error:
        raise _refused(error, path, len(data)) from error
    finally:  # also where a signal ends the process in order
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writers left in a folder when they were killed; nobody else may be writing there."""
    for left in folder.glob(".*.????????"):
        if left.name.rpartition(".")[0].strip(".") and left.is_file() and not left.is_symlink():
            left.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Put a change of names on the disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def append(path: Path, lines: str) -> None:
    """Add whole lines to a table that is rewritten when its run goes on, so that a line that a kill cut is mended.

    Raises:
        ClfError: the disk is full.
    """
    data = lines.encode()
    try:
        with path.open("ab", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        raise _refused(error, path, len(data)) from error


def _refused(error: OSError, path: Path, n_bytes: int) -> ClfError:
    if error.errno in _FULL:
        return ClfError(f"{_FULL[error.errno]}: {n_bytes} bytes for {path} do not fit; what was there before is "
                        "intact. Free some space and give the same command again: the run goes on from its last "
                        "checkpoint")
    return ClfError(f"cannot write {path}: {error.strerror}; choose another folder with out=DIR")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
