"""A folder that one process at a time works in, and knows to be still the same folder.

The lock is that of the operating system (flock on the file `.lock`): it is gone when the process ends, however it ends.
No clock and no process id decides who holds it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cl_framework.errors import Busy, ClfError, ConfigError
from cl_framework.files import sweep


@dataclass(frozen=True)
class Hold:
    """A folder that this process holds.

    Attributes:
        path: where it lay when it was taken.
        handle: of its open lock file.
    """

    path: Path
    handle: int

    def check(self) -> None:
        """Refuse to go on where the folder is another one by now.

        Raises:
            ClfError: it was removed or moved.
        """
        held = os.fstat(self.handle)
        with suppress(OSError):
            found = (self.path / ".lock").stat()
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        raise ClfError(f"{self.path} was removed or moved while its run was at work; nothing more is written there. "
                       "Put it back, or give the same command again to begin anew")


@contextmanager
def holding(path: Path) -> Iterator[Hold]:
    """Hold a folder, which is made where it is absent; what killed writers left in it goes.

    Raises:
        ConfigError: it cannot be made or used.
        Busy: another process holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # what a link of that name leads to is left as it is, and a pipe is not waited for
        lock = os.fdopen(os.open(path / ".lock", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644), "a")
    except OSError as error:
        raise ConfigError(f"cannot use {path}: {error.strerror}; choose another folder with out=DIR") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{path} is being run by another process; wait for it, or change the seed or out=DIR") from None
        hold = Hold(path, lock.fileno())
        hold.check()  # between opening and locking it may have gone
        sweep(path)
        sweep(path / "checkpoints")
        yield hold
