"""Where the runs of a report were made: what each `environment.json` says, and how many runs say it.

Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl_framework.page_parts import Cell, Grid
from cl_framework.plain_files import read_json
from cl_framework.row_labels import text

_PRIVATE = ("wandb_id",)
_HARDWARE = ("platform", "device", "threads")


def environments(folders: Sequence[Path]) -> dict[str, Counter[str]]:
    """For each key how many runs have which value; a file that cannot be read counts for none."""
    found: dict[str, Counter[str]] = {}
    for folder in folders:
        for key, value in _flat(_read(folder)):
            found.setdefault(key, Counter())[value] += 1
    return found


def environment_grid(found: Mapping[str, Counter[str]], n_runs: int) -> Grid | None:
    """A row for each value; None where no run tells."""
    rows = tuple((Cell(key), Cell(value, is_marked=len(values) > 1), Cell(f"{n} of {n_runs}", n))
                 for key, values in found.items() for value, n in values.most_common())
    return Grid(caption="environment", headings=("what", "value", "runs"), rows=rows, notes=(
        "bold: not the same in all runs",), is_words=True) if rows else None


def mixed(found: Mapping[str, Counter[str]]) -> list[str]:
    """Sentences on what changes the numbers or the seconds of runs, and is not the same in all."""
    return [f"{key} is not the same in all runs: {', '.join(f'{value} ({n})' for value, n in values.most_common())}"
            for key, values in found.items() if len(values) > 1 and key in _HARDWARE]


def _read(folder: Path) -> Mapping[str, Any]:
    try:
        content = read_json(folder / "environment.json")
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from ((f"{key}: {name}", text(own)) for name, own in value.items())
        elif key not in _PRIVATE:
            yield key, text(value)
