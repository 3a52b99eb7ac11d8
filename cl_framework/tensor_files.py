"""Tensors in safetensors files, read and written one at a time.

The library writes a file from tensors that are all in memory. Here the header is written first, from shapes and types
that are known, and then one tensor after the other, largest numbers first, which is the order of the library:
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_framework.errors import ClfError, ConfigError

_METADATA = "__metadata__"


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a .safetensors file, or of all such files in a folder, read from disk each time.

    Attributes:
        forms: dtype, shape and number of bytes of each, as the header states them.
        metadata: texts that the files carry.

    Raises:
        ConfigError: there is no such file, it is damaged, or a name occurs twice.
    """

    def __init__(self, path: Path) -> None:
        self.forms: dict[str, tuple[str, tuple[int, ...], int]] = {}
        self.metadata: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        for file in _files_at(path):
            header = _header(file)
            self.metadata |= header.pop(_METADATA, {})
            twice = sorted(header.keys() & self.forms)
            if twice:
                raise ConfigError(f"{path} has {twice[0]} in two files; give one file, or the shards of one model")
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                self.forms[name] = entry["dtype"], tuple(entry["shape"]), end - start
                self._files[name] = file

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            value: Tensor = file.get_tensor(name)
            return value

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


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt"):  # the library checks lengths and offsets
            pass
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return header
    except (SafetensorError, OSError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path} is no safetensors file that can be read ({said}); save the weights with "
                          "safetensors") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], forms: Mapping[str, tuple[str, tuple[int, ...], int]],
                  metadata: Mapping[str, str]) -> None:
    """Write a file in one step, asking for one tensor at a time; until then the old one stays as it is.

    Args:
        path: the file.
        tensors: made when they are asked for.
        forms: dtype, shape and number of bytes of each.
        metadata: texts to carry.

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
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
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
        raise ClfError(f"cannot write {path}: {error.strerror}; choose another place with out=FILE") from error


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


class Scratch(MutableMapping[str, Tensor]):
    """Tensors that lie in a folder of their own, removed with the object.

    Args:
        parent: an existing folder.
    """

    def __init__(self, parent: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        self._places: dict[str, Path] = {}
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __setitem__(self, name: str, value: Tensor) -> None:
        place = self._places.setdefault(name, self._folder / f"{len(self._places)}.safetensors")
        save_file({"": value.contiguous()}, place)

    def __getitem__(self, name: str) -> Tensor:
        return load_file(self._places[name])[""]

    def __delitem__(self, name: str) -> None:
        self._places.pop(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
