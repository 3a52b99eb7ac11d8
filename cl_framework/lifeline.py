"""A worker process does not outlive the command that started it, also where that one is killed."""

from __future__ import annotations

import os
import threading
import time

_EVERY = 1.0
"""Seconds between two looks."""


def hold(parent: int) -> None:
    """End this process as soon as its parent is another one than `parent`.

    Whoever loses its parent is given another (POSIX, _exit). A run that ends so goes on from its last checkpoint.

    Args:
        parent: id of the process that started this one.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)
