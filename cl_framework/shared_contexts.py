"""Rows of tokens that share their contexts, as one longer row for each context, which is then read once.

A group of G answers to one problem is G rows of c + m tokens. Packed, it is one row of c + G m: the context, and then
the answers side by side. A query at column i sees

    column j   if   j <= i, and j is a token of the context or belongs to the same answer as i,

and positions count on from the context within each answer, so that every token sees what it sees in a row of its own;
gradients of the context add up. Rollouts' gradients cost a third to a quarter so where contexts are long and answers
short. Dropout, where a network has some, falls on a shared context once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cl_framework.types import Inputs

_WORTH = 0.75
"""Share of the tokens, padding among them, that packed rows may have at most; above it rows stay as they are."""
_WIDE = 2
"""How many times the pairs of tokens, which attention looks at, they may have: long answers side by side have many."""


@dataclass(frozen=True, eq=False)
class Packed:
    """B rows of L tokens as C rows of W, one a context; the contexts end in column K - 1.

    Attributes:
        ids: tokens, int64 [C, W].
        positions: the place of each in its own text, int64 [C, W].
        is_seen: which columns a column sees, bool [C, W, W].
        scoring: columns whose logits are needed, int64 [W - K + 1], from the end of the contexts on.
        row: the packed row of each row, int64 [B, 1].
        scored_by: which of `scoring` gives the logits of each of the last S columns, int64 [B, S]; 0 where the column
            is no answer's.
        place: the packed column of each column, int64 [B, L]; 0 for padding.
    """

    ids: Tensor
    positions: Tensor
    is_seen: Tensor
    scoring: Tensor
    row: Tensor
    scored_by: Tensor
    place: Tensor

    def mask(self, kind: torch.dtype) -> Tensor:
        """What is added to attention scores, [C, 1, W, W]."""
        added = torch.zeros(self.is_seen.shape, dtype=kind, device=self.ids.device)
        return added.masked_fill_(~self.is_seen, torch.finfo(kind).min).unsqueeze(1)


def packed(x: Inputs, n_scored: int, n_most: int = 1 << 20) -> Packed | None:
    """Rows packed by their contexts; None where that saves too little.

    Args:
        x: preprocessed rows whose answers end in the last column.
        n_scored: S, the columns that hold answers.
        n_most: columns that a packed row may have.
    """
    assert not isinstance(x, Tensor)
    length, device = x["ids"].shape[1], x["ids"].device
    texts = [_split(*row) for row in zip(x["ids"].tolist(), x["is_token"].sum(1).tolist(),
                                         x["is_answer"].sum(1).tolist(), strict=True)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (context, _) in enumerate(texts):
        groups.setdefault(context, []).append(row)
    n_context = max(map(len, groups))
    width = n_context + max(sum(len(texts[row][1]) for row in rows) for rows in groups.values())
    if width > n_most or len(groups) * width > _WORTH * len(texts) * length or \
            len(groups) * width**2 > _WIDE * len(texts) * length**2:
        return None
    ids, positions = torch.zeros(2, len(groups), width, dtype=torch.int64)
    owner = torch.full((len(groups), width), -1)  # -1: padding, 0: the context, k: the k-th answer
    where, scored_by = torch.zeros(len(texts), dtype=torch.int64), torch.zeros(len(texts), n_scored, dtype=torch.int64)
    place = torch.zeros(len(texts), length, dtype=torch.int64)
    for group, (context, rows) in enumerate(groups.items()):
        begin, end = n_context - len(context), n_context
        ids[group, begin:end], positions[group, begin:end] = torch.tensor(context), torch.arange(len(context))
        owner[group, begin:end] = 0
        ends = torch.tensor([len(texts[row][1]) for row in rows]).cumsum(0) + n_context
        for k, (row, (start, stop)) in enumerate(zip(rows, pairwise([n_context, *ends.tolist()]), strict=True), 1):
            n = stop - start
            ids[group, start:stop] = torch.tensor(texts[row][1], dtype=torch.int64)
            positions[group, start:stop] = torch.arange(n) + len(context)
            owner[group, start:stop] = k
            where[row] = group
            place[row, length - n - len(context): length - n] = torch.arange(begin, end)
            place[row, length - n:] = torch.arange(start, stop)
            scored_by[row, n_scored - n + 1:] = torch.arange(start, max(start, stop - 1)) - n_context + 1
    owner = owner.to(device)
    is_seen = (owner.unsqueeze(1) == owner.unsqueeze(2)) | (owner == 0).unsqueeze(1)
    is_seen &= torch.ones(width, width, dtype=torch.bool, device=device).tril() & (owner >= 0).unsqueeze(1)
    return Packed(ids.to(device), positions.to(device), is_seen, torch.arange(n_context - 1, width, device=device),
                  where.unsqueeze(1).to(device), scored_by.to(device), place.to(device))


def _split(ids: list[int], n: int, n_answer: int) -> tuple[tuple[int, ...], list[int]]:
    """The context and the answer of a padded row with n tokens."""
    whole = ids[len(ids) - n:]
    return tuple(whole[: n - n_answer]), whole[n - n_answer:]
