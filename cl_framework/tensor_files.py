"""Tensors in safetensors files, read and written one at a time.

The library writes a file from tensors that are all in memory. Here the header is written first, from shapes and types
that are known, and then one tensor after the other, largest numbers first, which is the order of the library:
https://github.com/huggingface/safetensors#format.

What is made on the way to a file lies in a hidden folder beside it, which its process holds locked. A process that is
killed leaves the folder, but not the lock, so that the next one knows what to remove.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import itertools
import json
import math
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cl_framework.errors import ClfError, ConfigError

_METADATA = "__metadata__"


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a .safetensors file, or of all such files in a folder, read from disk each time.

    Attributes:
        forms: dtype, shape and number of bytes of each, as the header states them.
        metadata: texts that the files carry.
        places: device and inode of each file, which tell whether two names are one file.

    Raises:
        ConfigError: there is no such file, it is damaged, or a name occurs twice.
        ClfError: when a tensor is asked for: a file is no longer the one that was found.
    """

    def __init__(self, path: Path) -> None:
        self.forms: dict[str, tuple[str, tuple[int, ...], int]] = {}
        self.metadata: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        self._stamps: dict[Path, tuple[int, ...]] = {}
        for file in _files_at(path):
            header, self._stamps[file] = _header(file)
            self.metadata |= header.pop(_METADATA, {})
            twice = sorted(header.keys() & self.forms)
            if twice:
                raise ConfigError(f"{path} has {twice[0]} in two files; give one file, or the shards of one model")
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                self.forms[name] = entry["dtype"], tuple(entry["shape"]), end - start
                self._files[name] = file
        self.places = frozenset(stamp[:2] for stamp in self._stamps.values())

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        try:
            with safe_open(file, "pt") as opened:
                value: Tensor = opened.get_tensor(name)
            if _stamp(file) == self._stamps[file]:
                return value
            reason = "it is another one"
        except (SafetensorError, OSError) as error:
            reason = _said(error)
        raise ClfError(f"{file} has changed since it was first read ({reason}); put it back and give the same command "
                       "again")

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _files_at(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if not found:
            raise ConfigError(f"{path} has no .safetensors file; save the weights with safetensors")
        return found
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; give a .safetensors file or a folder of them")
    return [path]


def _header(path: Path) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The header of a file, and what tells whether it is still the same."""
    try:
        stamp = _stamp(path)
        path.open("rb").close()  # the library says of a file that may not be read that it is not there
        with safe_open(path, "pt"):  # the library checks lengths and offsets
            pass
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return header, stamp
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path} is no safetensors file that can be read ({_said(error)}); save the weights with "
                          "safetensors") from None


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], forms: Mapping[str, tuple[str, tuple[int, ...], int]],
                  metadata: Mapping[str, str], folder: Path | None = None) -> None:
    """Write a file in one step, asking for one tensor at a time; until then the old one stays as it is.

    Args:
        path: the file.
        tensors: made when they are asked for.
        forms: dtype, shape and number of bytes of each.
        metadata: texts to carry.
        folder: where it is made, on the same disk; beside the file when None.

    Raises:
        ClfError: the disk is full or cannot be written; the old file is intact.
    """
    names = sorted(forms, key=lambda name: (-_n_bits(forms[name][0]), name))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        dtype, shape, n_bytes = forms[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end := end + n_bytes)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with disk_faults(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder or path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for name in names:
                    file.write(_bytes_of(tensors[name]))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _n_bits(dtype: str) -> int:
    """Of one number: 16 for BF16, 8 for F8_E4M3 and BOOL."""
    digits = re.search(r"\d+", dtype)
    return 8 if digits is None else int(digits[0])


def _bytes_of(value: Tensor) -> memoryview:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """What the operating system says of a disk while a file is made is told to the user.

    Raises:
        ClfError: the disk is full, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ClfError(f"the disk of {path} is full; what was there before is intact. Free some space and give the "
                           "same command again") from error
        raise ClfError(f"cannot write {path}: {error.strerror or _said(error)}; choose another place with "
                       "out=FILE") from error


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """A folder that exists inside; where something fails, what had to be made for it goes again if it is empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A folder beside a file, for what is made on the way to it; gone afterwards.

    Folders of the same file that processes left when they were killed are removed first.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*/"):
        with suppress(OSError), _locked(left):  # refused while its process lives
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name, ExitStack() as stack:
        with suppress(OSError):  # a disk without locks: what is left there stays
            stack.enter_context(_locked(Path(name)))
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        OSError: another process has it, or the disk has no locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


class Scratch(MutableMapping[str, Tensor]):
    """Tensors that lie in a folder of their own, removed with the object.

    Args:
        parent: an existing folder.
    """

    def __init__(self, parent: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        self._numbers = itertools.count()
        self._places: dict[str, Path] = {}
        self._forms: dict[str, tuple[torch.dtype, torch.Size]] = {}
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __setitem__(self, name: str, value: Tensor) -> None:
        place = self._places.setdefault(name, self._folder / str(next(self._numbers)))
        place.write_bytes(_bytes_of(value))
        self._forms[name] = value.dtype, value.shape

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape = self._forms[name]
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(self._places[name].read_bytes()), dtype=dtype).view(shape)

    def __delitem__(self, name: str) -> None:
        del self._forms[name]
        self._places.pop(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
