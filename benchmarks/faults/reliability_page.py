"""Puts the tables of kills, signals and storage into docs/reliability.md, from the records in runs/reference.

    python benchmarks/faults/reliability_page.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_framework.files import write_atomic
from cl_framework.plain_files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reliability.md"
_RIGHT = " | ---: | ---: | ---: |"


def kills(record: dict[str, Any]) -> list[str]:
    """A row for each kind of run, and where the kills hit."""
    rows = record["results"]
    lines = ["| run | runs | kills | identical |", "| ---" + _RIGHT]
    lines += [f"| {row['kind']} | {row['runs']} | {row['kills']} | {row['identical']} |" for row in rows]
    lines.append(f"| all | {_sum(rows, 'runs')} | {_sum(rows, 'kills')} | {_sum(rows, 'identical')} |")
    hit = sum((Counter(row["kills_while"]) for row in rows), Counter[str]())
    told = ", ".join(f"{phase} {n}" for phase, n in hit.most_common() if phase != "unknown")
    n_whole = _sum(rows, "as_a_user_starts_it")
    return [*lines, "", f"What the forked runs were doing when they were killed: {told}. {n_whole} of the runs started "
            f"in a new interpreter. {_made(record)}"]


def signals(record: dict[str, Any]) -> list[str]:
    """A row for each thing that was interrupted."""
    rows = record["results"]
    lines = ["| what | tried | kills | right |", "| ---" + _RIGHT]
    lines += [f"| {name} | {row['tried']} | {row['kills']} | {row['right']} |" for name, row in rows.items()]
    n_twice, n_saved = (rows["signals"][name] for name in ("twice", "with_a_checkpoint_at_once"))
    return [*lines, "", f"{n_twice} signals came twice; after {n_saved} a checkpoint was written at once, the others "
            f"came before the first step. {_made(record)}"]


def storage(record: dict[str, Any]) -> list[str]:
    """A row for each fault."""
    lines = ["| fault | tried | right |", "| --- | ---: | ---: |"]
    lines += [f"| {row['what'].rstrip('.')} | {row['tried']} | {row['right']} |" for row in record["results"]]
    return [*lines, "", _made(record)]


def _sum(rows: Sequence[dict[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def _made(record: dict[str, Any]) -> str:
    return f"Commit {record['git_commit']}; Python {record['python']}, torch {record['torch']}."


def filled(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with other lines between the marks of a table.

    >>> filled("<!-- a -->old<!-- /a -->", "a", ["new"])
    '<!-- a -->\\nnew\\n<!-- /a -->'
    """
    head, tail = text.split(f"<!-- {name} -->")[0], text.split(f"<!-- /{name} -->")[1]
    return "\n".join([f"{head}<!-- {name} -->", *lines, f"<!-- /{name} -->"]) + tail


def main() -> None:
    """Write each table whose record is there."""
    text = PAGE.read_text()
    for made in (kills, signals, storage):
        place = ROOT / "runs" / "reference" / f"{made.__name__}.json"
        if place.exists():
            text = filled(text, made.__name__, made(read_json(place)))
    write_atomic(PAGE, text)


if __name__ == "__main__":
    main()
