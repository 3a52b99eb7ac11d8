"""Which rows a stream of test images shows, and in which order: at random, or with correlated labels.

Correlated labels: each class's rows are dealt to K slots, K being the number of classes, in shares of a Dirichlet
distribution Dir(c, ..., c); slot follows slot, and within one class follows class in a random order. The smaller c, the
longer a label stays. Gong et al., NOTE: Robust continual test-time adaptation against temporal correlation, NeurIPS
2022, arXiv 2208.05117; Yuan, Xie and Li, Robust test-time adaptation in dynamic scenarios (RoTTA), CVPR 2023,
arXiv 2303.13899.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cl_framework.seeding import derive, generator


def balanced(y: Tensor, n: int) -> Tensor:
    """Positions of n rows, equally many of each class (but for one), in ascending order; of all where n is 0.

    >>> balanced(torch.tensor([0, 0, 0, 0, 1, 1]), 4).bincount(minlength=6).sum().item()
    4
    """
    if n == 0 or n >= len(y):
        return torch.arange(len(y))
    drawn = torch.randperm(len(y), generator=generator(0, "some test images"))
    rank = torch.empty_like(drawn)
    for label in y.unique().tolist():
        own = drawn[y[drawn] == label]
        rank[own] = torch.arange(len(own))
    return drawn[rank[drawn].argsort(stable=True)[:n]].sort().values


def arranged(y: Tensor, concentration: float, seed: int, *path: int | str) -> Tensor:
    """An order of rows, int64 [N]: shuffled, or with correlated labels where the concentration is above 0.

    Args:
        y: their labels.
        concentration: of the Dirichlet distribution.
        seed, path: decide the order.

    >>> arranged(torch.zeros(3), 0.0, 1).sort().values
    tensor([0, 1, 2])
    """
    rng = np.random.default_rng(derive(seed, "order of rows", *path))
    if concentration == 0:
        return torch.from_numpy(rng.permutation(len(y)))
    labels = y.numpy()
    classes = np.unique(labels)
    slots: list[list[np.ndarray]] = [[] for _ in classes]
    for label in classes:
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(len(classes), concentration))
        ends = np.round(shares.cumsum()[:-1] * len(rows)).astype(np.int64)
        for slot, piece in zip(slots, np.split(rows, ends), strict=True):
            slot.append(piece)
    return torch.from_numpy(np.concatenate([slot[at] for slot in slots for at in rng.permutation(len(slot))]))
