"""Tables as CSV in which no text is a formula: a spreadsheet computes what begins with =, +, - or @, whoever wrote it.

A text that begins so is written with an apostrophe before it, which spreadsheets take for "this is text"; numbers stay
as they are. Source: OWASP, CSV injection, https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines; texts are guarded, numbers are not.

    >>> as_csv([("strategy", "mean"), ("=1+1", -0.5)])
    "strategy,mean\\n'=1+1,-0.5\\n"
    """
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([guarded(cell) for cell in row] for row in rows)
    return table.getvalue()


def guarded(cell: object) -> object:
    """A cell that no spreadsheet computes."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_BEGINNINGS) else cell


def unguarded(cell: str) -> str:
    """What a guarded text was.

    >>> unguarded("'=1+1"), unguarded("'t Hooft")
    ('=1+1', "'t Hooft")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_BEGINNINGS) else cell
