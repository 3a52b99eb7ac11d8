"""Readers of published file formats: idx (MNIST), the CIFAR batches, scikit-learn's digits.

A reader takes a folder. A file that is missing is a `FileNotFoundError`, one that is damaged a `DataError`.

Literature: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998 (idx);
Krizhevsky, Learning multiple layers of features from tiny images, 2009 (CIFAR).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework import DataError
from cl_framework.plain_files import check_file, read_bytes

from ._pickles import read_batch

Bytes = NDArray[np.uint8]


_MOST_AXES = 32
_MOST_MEMBERS = 8
_MOST_BYTES = 1 << 29
"""Of one file once it is unpacked; the largest of these data sets has 155 MB."""


def content_of(path: Path) -> bytes:
    """What a file holds.

    Raises:
        DataError: it is a pipe or a device, or too large for any of these data sets.
    """
    try:
        return read_bytes(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}; put a file there") from None


def gunzip(path: Path) -> bytes:
    """The contents of a .gz file."""
    try:
        check_file(path)
        with gzip.open(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} is damaged or cut short ({error})") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} unpacks to more than {_MOST_BYTES:,} bytes, which none of these data sets has")
    return content


def read_idx(path: Path) -> Bytes:
    """An idx file of unsigned bytes; `path` or `path` + ".gz" is read, whichever is there.

    Raises:
        FileNotFoundError: neither is there.
        DataError: wrong magic number, another type than unsigned bytes, or a wrong length.
    """
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        path, content = packed, gunzip(packed)
    else:
        content = content_of(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is no idx file of unsigned bytes: it starts with {content[:4].hex()}")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at:at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(shape)
    if len(content) != expected or not shape or len(shape) > _MOST_AXES:
        raise DataError(f"{path} is damaged or cut short: {len(content)} bytes, its header says {expected}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist(folder: Path) -> dict[str, NDArray[Any]]:
    """The four idx(.gz) files of MNIST and its drop-in replacements, images as [N, 1, 28, 28]."""
    arrays: dict[str, NDArray[Any]] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = (read_idx(folder / f"{prefix}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.ndim != 1:
            raise DataError(f"the {prefix} files of {folder} have shapes {images.shape} and {labels.shape}; expected "
                            "images [N, H, W] and labels [N]")
        arrays[f"{split}_x"], arrays[f"{split}_y"] = images[:, None], labels.astype(np.int64)
    return arrays


def read_digits(folder: Path) -> dict[str, NDArray[Any]]:
    """scikit-learn's digits: 8x8 images of 0..16, scaled to 0..255.

    Every fifth image of each class (positions 4, 9, ... in file order) is held out: the data set has no test part
    of its own.
    """
    path = folder / "digits.csv.gz"
    try:
        lines = gunzip(path).decode("ascii").splitlines()
        table = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    except ValueError as error:
        raise DataError(f"{path} is damaged or cut short ({error})") from None
    if table.ndim != 2 or table.shape[1] != 65:
        raise DataError(f"{path} has no table of 64 pixels and a label, but one of shape {table.shape}")
    if not ((table >= 0) & (table <= 16)).all():
        raise DataError(f"{path} holds numbers outside 0 to 16")
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, 64].astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    return {"train_x": images[~is_test], "train_y": labels[~is_test],
            "test_x": images[is_test], "test_y": labels[is_test]}


def check_md5(content: bytes, name: str, md5: Mapping[str, str]) -> None:
    """Compare a file with its published checksum, where there is one.

    Raises:
        DataError: they differ.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5.get(name, found):
        raise DataError(f"{name} has MD5 {found}, expected {md5[name]}: it is damaged, cut short or "
                        "another file; scenario.is_official=false takes altered files")


def read_cifar(folder: Path, *, archive: str, inner: str, train: Sequence[str], test: Sequence[str], labels: str,
               md5: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """CIFAR's Python batches, from the official archive or from the extracted folder.

    Args:
        folder: holds the archive or the extracted folder.
        archive, inner: the name of each.
        train, test: the batches of each part, in order.
        labels: the key of the labels in a batch.
        md5: published checksums by file name, of the archive and of the batches; what is absent is not compared.
    """
    names = [*train, *test]
    if (folder / inner).is_dir():
        contents = {name: content_of(folder / inner / name) for name in names}
    else:
        packed = content_of(folder / archive)
        check_md5(packed, archive, md5)
        contents = _members(packed, archive, {f"{inner}/{name}": name for name in names})
    batches = {}
    for name in names:
        check_md5(contents[name], name, md5)
        batches[name] = _cifar_batch(contents[name], name, labels)
    arrays: dict[str, NDArray[Any]] = {}
    for split, chosen in (("train", train), ("test", test)):
        arrays[f"{split}_x"] = np.concatenate([batches[name][0] for name in chosen])
        arrays[f"{split}_y"] = np.concatenate([batches[name][1] for name in chosen])
    return arrays


def _members(packed: bytes, archive: str, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """Some members of a tar.gz, read without unpacking anything to disk."""
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
            for member in tar:
                if max(member.size, member.offset // _MOST_MEMBERS) > _MOST_BYTES:
                    raise ValueError(f"{member.name} unpacks to {member.size:,} bytes")
                if member.name in wanted and member.isreg() and (file := tar.extractfile(member)) is not None:
                    contents[wanted[member.name]] = file.read()
    except Exception as error:  # tar's and gzip's readers fail in many ways
        raise DataError(f"{archive} is damaged or cut short ({error})") from None
    missing = sorted(set(wanted.values()) - set(contents))
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}: it is cut short or another archive")
    return contents


def _cifar_batch(content: bytes, name: str, labels: str) -> tuple[Bytes, NDArray[np.int64]]:
    """Images [N, 3, 32, 32] and labels of one batch; it was pickled by Python 2, hence latin-1."""
    try:
        rows, targets = read_batch(content, labels)
        images = rows.reshape(len(targets), 3, 32, 32)
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError(f"{name} is no CIFAR batch, or damaged ({str(error)[:200]})") from None
    if images.dtype != np.uint8:
        raise DataError(f"{name} holds {images.dtype} pixels, expected uint8")
    return images, targets
