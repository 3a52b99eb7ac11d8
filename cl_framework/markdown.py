"""Text inside Markdown: names that others chose stay names, and become neither cells, nor HTML, nor links.

Source: GitHub Flavored Markdown, https://github.github.com/gfm, sections 2.4 (backslash escapes) and 4.10 (tables).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ACTIVE = re.compile(r"[\\|]|<(?=[A-Za-z/!?])|(?<=\])\(")


def row(cells: Iterable[str]) -> str:
    """A line of a table.

    >>> print(row(["er|x", "<0.0001", "<b>"]))
    | er\\|x | <0.0001 | \\<b> |
    """
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(text: str) -> str:
    """A text that is shown as it is."""
    return _ACTIVE.sub(r"\\\g<0>", text)
