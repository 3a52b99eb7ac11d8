"""Whether what the header of a GGUF file promises fits into the file, before a library reads it.

A header tells how many entries and tensors follow, and how long their names and lists are. The package `gguf` believes
it, so that one changed bit keeps it busy for hours or fills the memory. Here each number is compared with the bytes
that are left, in one pass over the header, little-endian. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each plain type."""
_TEXT, _LIST = 8, 9
_MOST_AXES, _MOST_NESTED = 4, 4
_SMALLEST_ENTRY, _SMALLEST_TENSOR = 13, 24
_MOST_PER_BYTE = 8
"""Weights that a byte can hold: one bit each."""


def check_header(file: BinaryIO) -> None:
    """Read the header once and compare it with the size of the file.

    Args:
        file: open at its beginning.

    Raises:
        ValueError: says what does not fit.
    """
    head = _Header(file)
    if head.take(4) != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    if (version := head.number(4)) not in _VERSIONS:
        raise ValueError(f"its version is {version}; little-endian files of version 2 or 3 are read")
    n_tensors, n_entries = head.count(_SMALLEST_TENSOR), head.count(_SMALLEST_ENTRY)
    for _ in range(n_entries):
        head.skip(head.number(8))
        head.value(head.number(4))
    for _ in range(n_tensors):
        head.skip(head.number(8))
        n_axes = head.number(4)
        if n_axes > _MOST_AXES:
            raise ValueError(f"a tensor has {n_axes} axes")
        n_weights = math.prod(head.number(8) for _ in range(n_axes))
        kind, offset = head.number(4), head.number(8)
        if n_weights > _MOST_PER_BYTE * head.size or offset > head.size:
            raise ValueError(f"a tensor of {n_weights:,} weights of type {kind} at byte {offset:,} is no part of it")


class _Header:
    """What is read of a file, and how much of it is left."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        file.seek(0)

    @property
    def _left(self) -> int:
        return self.size - self._file.tell()

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if n > self._left:
            raise ValueError(f"{n:,} bytes are told where {self._left:,} are left")
        return self._file.read(n)

    def skip(self, n: int) -> None:
        """Go past n bytes."""
        if n > self._left:
            raise ValueError(f"{n:,} bytes are told where {self._left:,} are left")
        self._file.seek(n, 1)

    def number(self, width: int) -> int:
        """A whole number without a sign, of 4 or 8 bytes."""
        return int(struct.unpack("<I" if width == 4 else "<Q", self.take(width))[0])

    def count(self, width: int) -> int:
        """How many things follow that take at least `width` bytes each."""
        n = self.number(8)
        if n * width > self._left:
            raise ValueError(f"{n:,} items of {width} bytes or more are told where {self._left:,} bytes are left")
        return n

    def value(self, kind: int, depth: int = 0) -> None:
        """Go past a value of a type; a list is its type, its length and its items."""
        if kind in _WIDTHS:
            self.skip(_WIDTHS[kind])
        elif kind == _TEXT:
            self.skip(self.number(8))
        elif kind == _LIST and depth < _MOST_NESTED:
            kind = self.number(4)
            n = self.count(_WIDTHS.get(kind, 8))
            if kind in _WIDTHS:
                self.skip(n * _WIDTHS[kind])
                return
            for _ in range(n):
                self.value(kind, depth + 1)
        else:
            raise ValueError(f"it has a value of type {kind}" + (", nested too deep" if depth else ""))
