"""The `prompts.json` of a run, read back: what its results are called, its prompts, and where each came from.

Its texts come from a data set or a model: they are shown as they are and are never markup. A file that is not there, or
is not as a run wrote it, is none. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_framework.plain_files import read_json

FILE = "prompts.json"


@dataclass(frozen=True, kw_only=True)
class Known:
    """One prompt; see `prompt_pool.Prompt`."""

    name: str
    text: str
    parent: str | None
    note: str
    experience: int
    cycle: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """The prompts of one run.

    Attributes:
        label: what its results are called.
        best: the prompt that held-out problems are answered under, by name.
        population: the names of those in use; one may be there several times.
        lineage: all that were ever accepted, in order.
    """

    label: str
    best: str
    population: tuple[str, ...]
    lineage: tuple[Known, ...]


def read_prompts(folder: Path) -> PromptRecord | None:
    """The prompts of the run in a folder; None where it has none."""
    try:
        content = read_json(folder / FILE)
        return PromptRecord(label=_text(content["label"]), best=_text(content["best"]),
                            population=tuple(_text(name) for name in content["population"]),
                            lineage=tuple(_known(row) for row in content["lineage"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _known(row: Mapping[str, Any]) -> Known:
    parent, score = row["parent"], row["score"]
    is_placed = all(isinstance(row[name], int) for name in ("experience", "cycle"))
    if not is_placed or not isinstance(score, int | float | None):
        raise ValueError("a place or a score of a prompt is no number")
    return Known(name=_text(row["name"]), text=_text(row["text"]), parent=None if parent is None else _text(parent),
                 note=_text(row["note"]), experience=row["experience"], cycle=row["cycle"], score=score)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
