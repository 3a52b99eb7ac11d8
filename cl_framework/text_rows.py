"""Rows of a language stream: a prompt and an answer, each as UTF-8 bytes padded with zeros.

Literature: Yergeau, UTF-8, a transformation format of ISO 10646, RFC 3629, 2003. `tokens.decoded` reads them back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import DataError, printable
from cl_framework.problems import Problem

PROMPT, ANSWER = "prompt", "answer"
"""The names of the two columns."""


def encoded(texts: Sequence[str], n_bytes: int) -> Tensor:
    """Texts as rows, uint8 [B, n_bytes]; nothing is cut.

    Raises:
        DataError: a text is longer than a row, or holds a zero.

    >>> encoded(["hi", "ü"], 3).tolist()
    [[104, 105, 0], [195, 188, 0]]
    """
    rows = torch.zeros((len(texts), n_bytes), dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        content = text.encode()
        if len(content) > n_bytes or b"\0" in content:
            raise DataError(f"the text {printable(text[:60])!r} has {len(content)} bytes; a row has {n_bytes}, and "
                            "none of them may be zero inside a text; shorten it")
        row[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else row[:0]
    return rows


def text_rows(prompts: Sequence[str], answers: Sequence[str], n_prompt: int, n_answer: int) -> dict[str, Tensor]:
    """Prompts and answers as stored rows.

    Args:
        prompts, answers: B texts each.
        n_prompt, n_answer: widths of the two columns, in bytes.

    Raises:
        DataError: a text is too long.
    """
    return {PROMPT: encoded(prompts, n_prompt), ANSWER: encoded(answers, n_answer)}


def problem_rows(problems: Sequence[Problem], n_prompt: int, n_answer: int) -> Dataset:
    """Problems as rows of one label.

    Raises:
        DataError: a text is too long.

    >>> problem_rows([Problem("1 + 1", "2", "sum")], 8, 4).raw["answer"].tolist()
    [[50, 0, 0, 0]]
    """
    raw = text_rows([each.prompt for each in problems], [each.answer for each in problems], n_prompt, n_answer)
    return Dataset(raw, torch.zeros(len(problems), dtype=torch.int64))
