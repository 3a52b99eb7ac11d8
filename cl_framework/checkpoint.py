"""Checkpoints that survive a kill at any moment: written whole, named by their digest, the last two kept."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cl_framework.errors import CheckpointError
from cl_framework.files import write_atomic

log = logging.getLogger(__name__)

_KEPT = 2


class Vault:
    """The checkpoints of one run.

    A file is named `<experience>-<step>-<digest>.pt`; the digest is of its bytes, so a damaged file is recognised
    before it is read. Contents load with `weights_only=True`.

    Args:
        folder: where they lie; made when the first one is written.
        owner: identifies the run's configuration; a checkpoint of another one is refused.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder = folder
        self.owner = owner

    def files(self) -> list[Path]:
        """The checkpoints, newest first."""
        return sorted((path for path in self.folder.glob("*-*-*.pt") if path.is_file()), reverse=True)

    def save(self, state: dict[str, Any], experience: int, step: int) -> Path:
        """Write a checkpoint, then drop what it replaces, those of the same step, and all but the newest two.

        Raises:
            ClfError: the disk is full; earlier checkpoints are intact.
        """
        buffer = io.BytesIO()
        torch.save({**_owned(state), "owner": self.owner}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{experience:05d}-{step:010d}-{_digest(content)}.pt"
        write_atomic(path, content)
        replaced = {*self.folder.glob(f"{experience:05d}-{step:010d}-*.pt")} - {path}
        for old in replaced:
            old.unlink(missing_ok=True)
        for old in self.files()[_KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None where none was ever written.

        Raises:
            CheckpointError: there are checkpoints, and every one is damaged or belongs to another configuration.
        """
        for half_written in self.folder.glob(".*.pt.*"):
            half_written.unlink(missing_ok=True)
        damaged = []
        for path in self.files():
            try:
                content = path.read_bytes()
                if _digest(content) != path.stem.rpartition("-")[2]:
                    raise ValueError("its bytes do not have the digest that its name says")
                state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                owner = state.pop("owner")
            except Exception as error:
                damaged.append(path)
                log.warning("checkpoint %s cannot be read (%s); falling back to the one before", path.name, error)
                continue
            if owner != self.owner:
                raise CheckpointError(f"{path} belongs to another configuration; choose another folder with out=DIR "
                                      "or remove that run folder")
            for worse in damaged:
                worse.unlink(missing_ok=True)
            return state
        if damaged:
            raise CheckpointError(f"no checkpoint in {self.folder} can be read; remove that folder to start over")
        return None

    def clear(self) -> None:
        """Remove every checkpoint but the newest, once the run is finished."""
        for old in self.files()[1:]:
            old.unlink(missing_ok=True)


@contextmanager
def fitting() -> Iterator[None]:
    """What is put back from a checkpoint inside is all there, and of this run.

    Raises:
        CheckpointError: it is not.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError("the newest checkpoint does not fit the run, another clf or somebody else has written it "
                              f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); remove the folder "
                              "checkpoints of the run to start over") from error


def _owned(value: Any) -> Any:
    """The same, every tensor with a memory of its own: with a slice, all that it is cut from would be written."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    if isinstance(value, dict):
        owned = copy.copy(value)
        owned.update({name: _owned(part) for name, part in value.items()})
        return owned
    return type(value)(map(_owned, value)) if isinstance(value, list | tuple) else value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
