"""Some rows of a data set, as many of each class as can be.

With c_k rows of class k and n wanted, class k gives q_k = min(c_k, L) rows, L being the largest level at which they are
at most n in all; what is left goes to the first classes that have more than L, a row each. So no class gives two rows
fewer than another unless it gives all that it has, and a draw of fewer rows is part of a draw of more.

Literature: max-min fairness by progressive filling, Bertsekas and Gallager, Data Networks, 1992, section 6.5.2.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_framework.seeding import generator


def quotas(available: Sequence[int], n: int) -> list[int]:
    """How many rows each class gives, at most `n` in all.

    >>> quotas([5, 1, 9, 9], 12)
    [4, 1, 4, 3]
    """
    level = bisect_right(range(max(available) + 1), n, key=lambda each: sum(min(have, each) for have in available)) - 1
    left = n - sum(min(have, level) for have in available)
    given = []
    for have in available:
        is_extra = left > 0 and have > level
        given.append(min(have, level) + is_extra)
        left -= is_extra
    return given


def balanced(y: Tensor, labels: Sequence[int], n: int, seed: int, *path: str) -> Tensor:
    """Rows of some classes in the order of the data set; which ones is drawn without replacement.

    Args:
        y: the label of every row, int64 [N].
        labels: of the classes that count.
        n: how many rows; all of them for 0, and where there are fewer.
        seed, path: of the draw; a class's draw depends on nothing else.

    Returns:
        Positions, int64, ascending.

    >>> y = torch.tensor([0, 1, 1, 1, 0, 2])
    >>> balanced(y, [0, 1], 0, 0), y[balanced(y, [0, 1], 2, 0)].sort().values
    (tensor([0, 1, 2, 3, 4]), tensor([0, 1]))
    """
    rows = [torch.nonzero(y == label).flatten() for label in labels]
    given = [len(each) for each in rows]
    if n:
        given = quotas(given, n)
    chosen = [each[torch.randperm(len(each), generator=generator(seed, *path, label))[:count]]
              for label, each, count in zip(labels, rows, given, strict=True)]
    return torch.cat(chosen).sort().values
