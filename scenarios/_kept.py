"""Rows that are made once and kept: one verified, memory-mapped file each, beside the data sets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_framework import DataError

log = logging.getLogger(__name__)


def kept(path: Path, facts: Mapping[str, str], make: Callable[[], Tensor]) -> tuple[Tensor, str]:
    """The rows of a file; made and written when the file is absent, damaged, or made of something else.

    Args:
        path: of the file; it is whole or absent.
        facts: what the rows are made of.
        make: the rows.

    Returns:
        The rows, memory-mapped, and their SHA-256.

    Raises:
        DataError: the file cannot be written.
    """
    note = json.dumps(dict(facts), sort_keys=True)
    found = _read(path, note)
    if found is None:
        log.info("making %s; it is kept for the next time", path)
        _write(path, make().contiguous(), note)
        found = _read(path, note)
    if found is None:
        raise DataError(f"{path} does not hold what was just written to it; is the disk sound? Set CLF_DATA to a "
                        "folder on another disk")
    return found


def digest_of(rows: Tensor) -> str:
    """SHA-256 of the rows' bytes, row after row."""
    whole = hashlib.sha256()
    for start in range(0, len(rows), 1024):
        whole.update(rows[start:start + 1024].contiguous().numpy().data)
    return whole.hexdigest()


def _read(path: Path, note: str) -> tuple[Tensor, str] | None:
    """Rows and digest; None where the file is absent, of other facts, or damaged, which is worth a warning."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        rows = load_file(path)["rows"]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        log.warning("%s is no data file of ours, or cut short (%s); it is made anew", path, error)
        return None
    if metadata.get("facts") != note:
        return None
    digest = digest_of(rows)
    if digest != metadata.get("sha256"):
        log.warning("%s is damaged: its rows have SHA-256 %s..., expected %s...; it is made anew", path, digest[:16],
                    metadata.get("sha256", "")[:16])
        return None
    return rows, digest


def _write(path: Path, rows: Tensor, note: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({"rows": rows}, temporary, {"facts": note, "sha256": digest_of(rows)})
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write {path}, which takes {rows.nbytes:,} bytes ({error}); make room there, or set "
                        "CLF_DATA to a folder on another disk") from None
