"""What a rule of the two-phase protocol says of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
Finding = tuple[bool | None, str]
"""Kept (True), broken (False) or not shown by the record (None), and why."""
ALONE = "not applicable: one strategy; clf protocol compares several"


@dataclass(frozen=True)
class Verdict:
    """A finding with the name of its rule."""

    rule: str
    kept: bool | None
    reason: str

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return "not shown" if self.kept is None else "kept" if self.kept else "broken"


def finding(faults: Sequence[str], kept: str) -> Finding:
    """Broken by any fault; else kept, and why."""
    return (False, "; ".join(faults)) if faults else (True, kept)
