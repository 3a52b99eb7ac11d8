"""The files of pretrained networks: fetched once, held against their SHA-256, read without a network afterwards.

They lie in `CLF_DATA/pretrained/<name>/`. Files that a user puts there by hand are as good as fetched ones. A file is
complete or absent there, and one process fetches while others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from cl_framework.errors import DataError
from cl_framework.places import Place
from cl_framework.sources import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainedFiles:
    """Some files of one network.

    Attributes:
        name: of their folder.
        sha256: of each file, by its name; empty where it is not pinned.
        place: where they can be had.
        by_hand: how a user gets them without it, and what else may be done; ends an error.
    """

    name: str
    sha256: Mapping[str, str]
    place: Place
    by_hand: str

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        return cache_folder() / "pretrained" / self.name

    def path(self, name: str) -> Path:
        """One of the files, whole and as pinned; where it is not there, all are fetched. With CLF_OFFLINE set in the
        environment nothing is downloaded.

        Raises:
            DataError: it cannot be had, is not what its hash says, or cannot be written.
        """
        path = self.folder / name
        if self._fault(path):
            with self._alone():
                if (fault := self._fault(path)) is not None:
                    if path.exists():
                        log.warning("%s is damaged: %s; fetching it anew", path, fault)
                    self._fetch(fault)
        return path

    def _fetch(self, fault: str) -> None:
        """Fetch all files into a scratch folder, check them there, and put them in their place."""
        if self.place.is_download and os.environ.get("CLF_OFFLINE"):
            raise self._absent(fault, "not asked, downloads are off")
        if not self.place.is_there():
            raise self._absent(fault, "the tool that fetches it is not installed")
        try:
            with tempfile.TemporaryDirectory(prefix=".scratch-", dir=self.folder.parent) as scratch:
                found = self.place.fetch(Path(scratch))
                for damage in filter(None, (self._fault(found / name) for name in self.sha256)):
                    raise DataError(damage)
                for name in self.sha256:
                    _put(found / name, self.folder / name)
        except (OSError, DataError) as error:
            raise self._absent(fault, str(error)) from error

    def _fault(self, path: Path) -> str | None:
        """What is wrong with one of the files."""
        if not path.is_file():
            return f"{path.name} is not there"
        if expected := self.sha256[path.name]:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected:
                return f"{path.name} has SHA-256 {digest[:16]}..., expected {expected[:16]}..."
        return None

    def _absent(self, fault: str, reason: str) -> DataError:
        return DataError(f"the weights of {self.name} cannot be had:\n  {self.folder}: {fault}\n  {self.place}: "
                         f"{reason}\nput {' and '.join(self.sha256)} into {self.folder} by hand: {self.by_hand}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process fetches, the others wait for it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder.parent / f"{self.name}.lock").open("a")
        except OSError as error:
            raise DataError(f"cannot write {self.folder} ({error.strerror}); set CLF_DATA to another folder") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _put(source: Path, target: Path) -> None:
    """Copy a file in one step: whoever reads the target sees it whole."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        copyfile(source, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
