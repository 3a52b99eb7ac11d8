"""Pickles of CIFAR's batches, read without running anything that a pickle asks for.

Unpickling may call any function, and numpy's own `__setstate__` trusts what it is given. Here nothing is imported and
no array is made while the pickle is read: names that numpy's arrays need stand for records, from which the arrays are
made afterwards, of plain numbers alone. A pickle of ten bytes may ask for a table of many gigabytes (a large index of
its memo), so its instructions are looked through first. Source: Python's documentation of pickle, "Restricting
Globals"; PEP 3154 (protocol 4), PEP 574 (protocol 5).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS = re.compile(r"[iu][1248]")


class _Kind:
    """What stands for `numpy.dtype`: its code, such as u1, and the order of its bytes."""

    def __init__(self, code: str, *_flags: object) -> None:
        self._code, self._order = code, "|"

    def __setstate__(self, state: Sequence[Any]) -> None:
        self._order = state[1]

    def plain(self) -> np.dtype[Any]:
        """The kind of number; only whole numbers are in CIFAR's files."""
        if not _NUMBERS.fullmatch(self._code) or self._order not in ("|", "<", ">"):
            raise pickle.UnpicklingError(f"it holds arrays of {self._order}{self._code}, which no CIFAR file has")
        return np.dtype(self._order + self._code)


class _Array:
    """What stands for `numpy.ndarray`: shape, kind and bytes."""

    def __init__(self) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def plain(self) -> NDArray[Any]:
        """The array, of the bytes that the file itself holds."""
        _, shape, kind, is_fortran, content = self._state
        whole = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(whole, kind.plain()).reshape(shape, order="F" if is_fortran else "C")


def _array(*_arguments: object) -> _Array:
    """How numpy begins an array in a pickle of protocol 2 to 4."""
    return _Array()


def _from_buffer(content: bytes, kind: _Kind, shape: tuple[int, ...], order: str, *_more: object) -> _Array:
    """How numpy writes a contiguous array in a pickle of protocol 5."""
    made = _Array()
    made.__setstate__((1, shape, kind, order == "F", content))
    return made


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in a pickle of protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}, which no CIFAR file needs")
    return text.encode("latin1")


_STANDS_FOR = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _latin1,
}
"""What a pickle of numpy arrays names: of Python 2's numpy, and of any protocol of today's."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain data and records of arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDS_FOR:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return _STANDS_FOR[module, name]


def read_batch(content: bytes, labels: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The rows of a pickled batch as they are stored, and their labels.

    Args:
        content: of the file; pickled by Python 2, hence latin-1.
        labels: the key of the labels.

    Raises:
        Exception: of any kind, where the file is damaged or no such batch.
    """
    for instruction, argument, _ in pickletools.genops(content):
        if "PUT" in instruction.name and isinstance(argument, int) and argument > len(content):
            raise pickle.UnpicklingError(f"its memo has an entry {argument:,}")
    loaded = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    batch: Mapping[str, Any] = {key.decode() if isinstance(key, bytes) else key: value for key, value in loaded.items()}
    targets = batch[labels]
    if isinstance(targets, _Array):
        return batch["data"].plain(), targets.plain().astype(np.int64)
    if not all(isinstance(label, int) for label in targets):
        raise ValueError("its labels are no list of whole numbers")
    return batch["data"].plain(), np.array(targets, np.int64)
