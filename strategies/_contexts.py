"""Context vectors: a scale and a shift of a model's features, and how well rows are answered under them.

With h(x) of D features before the head, a context c = (gamma, beta) of 2 x D numbers makes

    z(x; c) = head((1 + gamma) h(x) + beta)

Perez, Strub, de Vries, Dumoulin and Courville, "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
arXiv 1709.07871, equation 2, with 1 + gamma for their gamma, so that the seed context, all zeros, changes nothing to
the bit. It is put on the features before the head alone, and not on each layer: every model has these, whatever it is
made of; the body is passed through once for all contexts; and what is searched without gradients stays small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.models import Head, Model

from ._features import features_of


def seed_context(model: Model) -> Tensor:
    """The context that changes nothing, [1, 2, D]."""
    weight = model.head.weight.detach()
    return weight.new_zeros(1, 2, weight.shape[1])


def modulated(features: Tensor, contexts: Tensor) -> Tensor:
    """Features [B, D] under each of K contexts [K, 2, D], [K, B, D].

    >>> modulated(torch.tensor([[2.0, 3.0]]), torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]]]))
    tensor([[[2., 3.]],
    <BLANKLINE>
            [[3., 4.]]])
    """
    scale, shift = contexts.unbind(1)
    return features * (1 + scale).unsqueeze(1) + shift.unsqueeze(1)


def different(contexts: Tensor) -> Tensor:
    """Each of K contexts [K, 2, D] once, in order."""
    chosen: list[int] = []
    for row in range(len(contexts)):
        if not any(torch.equal(contexts[row], contexts[other]) for other in chosen):
            chosen.append(row)
    return contexts[chosen]


class Anchors:
    """The rows of a fast phase, as features of weights that stand still: evaluation mode, no augmentation.

    A context's score on a row is p(y | x, c), the reward that an answer drawn from the softmax would have on average.

    Args:
        model: gives the features, the head, and the classes that take part in the softmax of a row.
        rows: A of them.
    """

    def __init__(self, model: Model, rows: Dataset) -> None:
        self._head: Head = model.head
        self._features = features_of(model, rows)
        self._y = rows.y.to(model.device)
        self._allowed = model.allowed(None if rows.task is None else rows.task.to(model.device))

    def __len__(self) -> int:
        return len(self._y)

    def log_answers(self, context: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities of all classes seen under a context [2, D], of some rows or of all, [n, C]; gradients reach
        the context."""
        places = slice(None) if rows is None else torch.tensor(rows, device=self._y.device)
        logits = self._head(modulated(self._features[places], context.unsqueeze(0)).squeeze(0))
        if self._allowed is not None:
            logits = logits.masked_fill(~self._allowed[places], -torch.inf)
        found: Tensor = logits.log_softmax(1)
        return found

    def log_right(self, context: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities of the right classes, [n]."""
        y = self._y if rows is None else self._y[torch.tensor(rows, device=self._y.device)]
        return self.log_answers(context, rows).gather(1, y.unsqueeze(1)).squeeze(1)

    @torch.no_grad()
    def scores(self, context: Tensor, rows: Sequence[int] | None = None) -> list[float]:
        """The score of a context [2, D] on some rows, or on all."""
        found: list[float] = self.log_right(context, rows).exp().tolist()
        return found

    @torch.no_grad()
    def distance(self, first: Tensor, second: Tensor) -> float:
        """How much answers under two contexts differ: the mean over rows of the total variation distance, in [0, 1]."""
        one, other = (self.log_answers(context).exp() for context in (first, second))
        return float((one - other).abs().sum(1).mean() / 2)
