"""Memory that only cycles of objects hold, given back while a run goes on.

A trainer and its loops refer to one another, so what an experience leaves behind waits for a full collection. Python
starts one when the objects it has not yet seen are a quarter of those it has (`gc`, "Design of CPython's garbage
collector"), and the imports of a run are half a million: hundreds of experiences would wait, with their tensors.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def set_aside() -> Iterator[None]:
    """Leave the objects that are there out of collections, which are then short and frequent; undone at the end.

    Nothing is changed where somebody else has set objects aside, as they could not be told apart afterwards.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    gc.collect()  # of nothing: what counts as seen begins at 0
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Start no collection while libraries are imported: what they make stays, and looking through it again and again
    takes a sixth of the time. Afterwards it counts as looked through. Nothing changes where somebody has switched
    collections off, or has set objects aside.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # into the oldest generation, and not into the youngest, which is looked through next
        gc.enable()
