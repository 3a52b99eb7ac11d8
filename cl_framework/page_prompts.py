"""The prompts of runs, for the report page: which are in use, where each came from, and what its results are called.

A prompt's lines are joined by a sign, and control characters are spelled out. The template escapes every text. Imports
no torch.
"""

from __future__ import annotations

from cl_framework.errors import printable
from cl_framework.page_parts import Cell, Grid
from cl_framework.prompt_records import Known, PromptRecord, read_prompts
from cl_framework.sheets import Sheet

_MOST_PROMPTS = 60
"""Prompts of one run that are shown; the file holds them all."""
_MOST_SIGNS = 600


def prompt_tables(sheet: Sheet) -> tuple[Grid, ...]:
    """A table for each run that has prompts; prompts in use come first, the others the newest first."""
    found = ((label, run.order_seed, run.seed, read_prompts(run.folder))
             for label, each in zip(sheet.labels, sheet.rows, strict=True) for run in each.runs)
    return tuple(_grid(f"{label}, order {'natural' if order is None else order}, seed {seed}", record)
                 for label, order, seed, record in found if record is not None)


def _grid(title: str, record: PromptRecord) -> Grid:
    used = set(record.population)
    newest = [*enumerate(record.lineage)]
    ordered = [known for _, known in sorted(newest, key=lambda pair: (
        pair[1].name != record.best, pair[1].name not in used, -pair[0]))]
    rows = tuple(_row(known, record) for known in ordered[:_MOST_PROMPTS])
    left_out = len(record.lineage) - len(rows)
    notes = [f"{left_out} older prompts are in prompts.json"] if left_out else []
    return Grid(caption=f"prompts of {title}: {record.label}", rows=rows, is_words=True, notes=(
        *notes, "reward: the mean on the cycle's own problems when the prompt was accepted; best: answers held-out "
                "problems"),
        headings=("prompt", "use", "from", "by", "experience", "cycle", "reward", "text"))


def _row(known: Known, record: PromptRecord) -> tuple[Cell, ...]:
    use = "best" if known.name == record.best else "in use" if known.name in record.population else "-"
    score = Cell("-") if known.score is None else Cell(f"{known.score:.2f}", known.score)
    return (Cell(printable(known.name), is_marked=use == "best"), Cell(use), Cell(printable(known.parent or "-")),
            Cell(printable(known.note)), Cell(str(known.experience), known.experience),
            Cell(str(known.cycle), known.cycle), score, Cell(_shown(known.text)))


def _shown(text: str) -> str:
    r"""A prompt in one line.

    >>> _shown("Answer." + chr(10) + "<b>" + chr(27))
    'Answer. ⏎ <b>\\x1b'
    """
    line = " ⏎ ".join(printable(line) for line in text.splitlines())
    return line if len(line) <= _MOST_SIGNS else line[:_MOST_SIGNS] + " ..."
