"""One kind of file that is read: samples of it, its reader, and how it is spoiled; and ways to make samples."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutations import spoiled_bytes, spoiled_tree
from PIL import Image

Read = Callable[[Path], object]
ROWS = np.arange(4 * 3072, dtype=np.uint64).reshape(4, 3072).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file.

    Attributes:
        name: of the kind.
        file: where it lies below the fuzzer's folder.
        samples: contents that are read without a fault.
        read: what reads it.
        tree: how its content becomes plain data, and back; None where it is spoiled as bytes alone.
        renamed: the name that a content wants, e.g. with its digest in it.
    """

    name: str
    file: str
    samples: Sequence[bytes]
    read: Read
    tree: tuple[Callable[[bytes], Any], Callable[[Any], bytes]] | None = None
    renamed: Callable[[bytes], str] | None = None

    def spoiled(self, draws: Random) -> bytes:
        """A content that is nearly right."""
        content = draws.choice(self.samples)
        if self.tree is not None and draws.random() < 0.7:
            take_apart, put_together = self.tree
            return put_together(spoiled_tree(take_apart(content), draws))
        return spoiled_bytes(content, draws, self.samples)

    def place(self, home: Path, content: bytes) -> Path:
        """Write it where it is looked for; files that the last one left are gone."""
        path = home / self.name / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.renamed is not None:
            for old in path.parent.iterdir():
                old.unlink()
            path = path.with_name(self.renamed(content))
        path.write_bytes(content)
        return path


def packed(write: Callable[[Any], object]) -> bytes:
    """What a writer writes into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    """An idx file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar(members: dict[str, bytes], mode: str) -> bytes:
    """A tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped_up(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def picture(style: str, mode: str = "RGB") -> bytes:
    """A small picture in a format of Pillow's."""
    return packed(lambda file: Image.fromarray(ROWS[:1].reshape(32, 32, 3)).convert(mode).save(file, style))
