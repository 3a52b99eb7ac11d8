"""Files that are whole or absent: written to a temporary name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cl_framework.errors import ClfError


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
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClfError(
                f"the disk is full: {len(data)} bytes for {path} do not fit; what was there before is intact. "
                "Free some space and give the same command again: the run goes on from its last checkpoint"
            ) from error
        raise ClfError(f"cannot write {path}: {error.strerror}; choose another folder with out=DIR") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
