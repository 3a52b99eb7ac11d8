"""Features of a model that is left as it was, and what classifiers make of them without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.models import Model
from cl_framework.types import move

Body = Literal["first", "frozen"]

_CHUNK = 512


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode and no gradients inside; the mode of every module is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def features_of(model: Model, data: Dataset) -> Tensor:
    """The features of all rows in evaluation mode, without augmentation, [n, D] on the model's device."""
    with evaluating(model):
        return torch.cat([model(model.preprocess(move(batch.raw, model.device))).features
                          for batch in data.batches(_CHUNK)])


def logits_over(scores: Tensor, classes: Sequence[int], n_seen: int) -> Tensor:
    """Scores of some classes as logits over all that the model answers for; the others get less than any of them.

    Args:
        scores: [B, len(classes)].

    >>> logits_over(torch.tensor([[2.0, 1.0]]), [2, 0], 3)
    tensor([[1., 0., 2.]])
    """
    logits = (scores.min(1, keepdim=True).values - 1).repeat(1, n_seen)
    logits[:, list(classes)] = scores
    return logits


class ClassMeans:
    """The running mean of each class, in float64, so that neither the order of rows nor their batches matter.

    Args:
        n_classes, n_features: shape of the means.
    """

    def __init__(self, n_classes: int, n_features: int, device: torch.device) -> None:
        self.counts = torch.zeros(n_classes, dtype=torch.int64, device=device)
        self.means = torch.zeros(n_classes, n_features, dtype=torch.float64, device=device)
        self.known: list[int] = []

    def add(self, rows: Tensor, y: Tensor) -> None:
        """Take n rows in: mu_k <- mu_k + sum over the rows of class k of (row - mu_k), over the class's new count."""
        deviation = torch.zeros_like(self.means).index_add_(0, y, rows - self.means[y])
        self.counts += torch.bincount(y, minlength=len(self.counts))
        self.means += deviation / self.counts.clamp(min=1).unsqueeze(1)
        self.known = self.counts.nonzero().squeeze(1).tolist()

    @property
    def tensors(self) -> list[Tensor]:
        """What is kept."""
        return [self.counts, self.means]

    def state_dict(self) -> dict[str, Any]:
        """Counts and means, copied."""
        return {"counts": self.counts.clone(), "means": self.means.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.counts.copy_(state["counts"])
        self.means.copy_(state["means"])
        self.known = self.counts.nonzero().squeeze(1).tolist()
