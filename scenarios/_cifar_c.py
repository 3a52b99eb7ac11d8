"""Reader of CIFAR-10-C and CIFAR-100-C: one array a corruption, five severities of the test images in a row.

A file `<corruption>.npy` is uint8 [5 N, 32, 32, 3], N being the number of test images, and `labels.npy` has 5 N labels.
The files are memory-mapped, from the extracted folder or from inside the official archive, which is not compressed.
Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261; doi 10.5281/zenodo.2535967 and 10.5281/zenodo.3555552.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl_framework import DataError
from cl_framework.files import write_json
from cl_framework.plain_files import read_json

_SHAPE = (32, 32, 3)


class _Place(NamedTuple):
    """Where the bytes of an array file begin."""

    path: Path
    offset: int


@dataclass(frozen=True)
class CifarC:
    """The published files of one data set.

    Attributes:
        folder: holds the archive, the extracted folder, or its files.
        inner: name of the extracted folder.
        archive: name of the archive.
        md5: its published checksum; "" compares none.
    """

    folder: Path
    inner: str
    archive: str
    md5: str

    def images(self, name: str, severity: int, n_rows: int) -> NDArray[np.uint8]:
        """The images under one corruption, memory-mapped, uint8 [n_rows, 32, 32, 3].

        Raises:
            DataError: the file is not there, or not of the published layout.
        """
        array = self._array(f"{name}.npy")
        if array.dtype != np.uint8 or array.shape != (5 * n_rows, *_SHAPE):
            raise DataError(f"{name}.npy of {self.inner} is {array.dtype} {array.shape}; expected uint8 "
                            f"{(5 * n_rows, *_SHAPE)}, five severities of the {n_rows:,} test images: it is cut short "
                            "or another file")
        return array[(severity - 1) * n_rows:severity * n_rows]

    def labels(self) -> NDArray[np.int64]:
        """The labels, int64 [5 N].

        Raises:
            DataError: the file is not there, or not of the published layout.
        """
        array = self._array("labels.npy")
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"labels.npy of {self.inner} is {array.dtype} {array.shape}; expected one integer a row")
        return array.astype(np.int64)

    def _array(self, name: str) -> NDArray[Any]:
        """A file's array, mapped so that nothing is written back; arrays of Python objects are refused."""
        place = self._place(name)
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
                    np.lib.format.read_array_header_2_0
                shape, is_fortran, dtype = read(file)
                if dtype.hasobject or is_fortran:
                    raise ValueError(f"it holds {dtype} in another order than expected")
                return np.memmap(place.path, dtype, "c", file.tell(), shape)
        except Exception as error:  # numpy's readers fail in many ways
            raise DataError(f"{name} of {self.inner} is no plain array file, or cut short ({error})") from None

    def _place(self, name: str) -> _Place:
        """The first place that has the file."""
        for path in (self.folder / self.inner / name, self.folder / name):
            if path.exists():
                return _Place(path, 0)
        packed = self.folder / self.archive
        if not packed.exists():
            raise DataError(f"{name} of {self.inner} is not there; put the official {self.archive}, or the folder "
                            f"{self.inner} from inside it (labels.npy and one .npy file a corruption), into "
                            f"{self.folder}, or take scenario=corrupted, which makes corrupted images itself")
        self._check(packed)
        try:
            with tarfile.open(packed, "r:") as tar:
                return _Place(packed, tar.getmember(f"{self.inner}/{name}").offset_data)
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise DataError(f"{self.archive} lacks {self.inner}/{name}, or is damaged ({error})") from None

    def _check(self, packed: Path) -> None:
        """Compare the archive with its published checksum, once for as long as the file does not change."""
        if not self.md5:
            return
        stat, note = packed.stat(), packed.with_name(f"{self.archive}.json")
        stamp = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "md5": self.md5}
        try:
            if read_json(note) == stamp:
                return
        except (OSError, ValueError):
            pass
        with packed.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != self.md5:
            raise DataError(f"{self.archive} has MD5 {found}, expected {self.md5}: it is damaged, cut short or another "
                            "file; scenario.is_official=false takes altered files")
        write_json(note, stamp)
