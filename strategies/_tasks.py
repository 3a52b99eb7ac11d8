"""Answers that depend on a row's task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cl_framework.types import Inputs, select


def by_task(x: Inputs, task: Tensor, answer: Callable[[Inputs, int], Tensor]) -> Tensor:
    """Ask once for each task that occurs, and put the answers in the order of the rows.

    Args:
        x: B rows.
        task: their task labels, int64 [B].
        answer: from rows of one task and its label to their logits, [n, C].

    >>> by_task(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 0, 1]), lambda x, label: x * 10**label)
    tensor([[10.],
            [ 2.],
            [30.]])
    """
    labels = task.unique().tolist()
    if len(labels) == 1:
        return answer(x, labels[0])
    places = [(task == label).nonzero().squeeze(1) for label in labels]
    logits = torch.cat([answer(select(x, rows), label) for rows, label in zip(places, labels, strict=True)])
    return logits[torch.cat(places).argsort()]
