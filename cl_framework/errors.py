"""What can go wrong, by whose hand. A message says what happened, what was expected and what to do."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def printable(text: str) -> str:
    r"""A text whose control characters are spelled out: a name must not move a terminal's cursor.

    >>> printable("er" + chr(27) + "[2J")
    'er\\x1b[2J'
    """
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there; torch's allocators say so in errors of their own.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or
            (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)))


class ClfError(Exception):
    """Any failure that we explain; the command line prints it without a traceback."""

    exit_status = 1


class ConfigError(ClfError):
    """The user asked for something that cannot be run: a name, a key, a value or a combination.

    Several faults are collected and shown at once.

    >>> print(ConfigError(["unknown key 'sed'", "lr must be above 0, got -1"]))
    unknown key 'sed'
    lr must be above 0, got -1
    """

    exit_status = 2

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class Busy(ConfigError):
    """Another process is at work in the same folder."""


class PluginError(ClfError):
    """A plugin breaks the contract: a misspelt hook, a wrong signature, two owners of one hook."""

    exit_status = 2


class DataLeak(ClfError):
    """A strategy reached for data that its scenario does not give: the past or the future."""


class DataError(ClfError):
    """A data file is missing, damaged, or not what its hash says."""


class CheckpointError(ClfError):
    """No checkpoint of a run can be read."""


class Stopped(SystemExit):
    """A signal asked the process to end. No handler of failures holds it up.

    Attributes:
        number: of the signal.
        is_saved: a checkpoint of this very moment is on the disk.
    """

    def __init__(self, number: int = signal.SIGTERM, *, is_saved: bool = False) -> None:
        super().__init__(int(number))
        self.number, self.is_saved = int(number), is_saved
        self.code = self.exit_status

    @property
    def exit_status(self) -> int:
        """What a shell makes of a process that a signal has ended."""
        return 128 + self.number


class Diverged(ClfError):
    """The loss or the weights are no longer finite."""
