"""Squared gradients as a measure of what matters: the entries that a step selects, and the Fisher of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.functional import cross_entropy, quantile
from cl_framework.models import Model
from cl_framework.types import move

_REFERENCE_BATCH = 200


def unselected(squared: Mapping[str, Tensor], fraction: float, mask: Literal["crucial", "least"],
               scope: Literal["global", "layer"]) -> dict[str, Tensor]:
    """Which entries a step leaves to the average (bool), by parameter name.

    Selected are the entries strictly beyond the quantile of their scope: above 1 - `fraction`, or below `fraction`.
    """
    place = 1 - fraction if mask == "crucial" else fraction

    def beyond(value: Tensor, threshold: Tensor) -> Tensor:
        return value > threshold if mask == "crucial" else value < threshold

    if scope == "layer":
        return {name: ~beyond(value, quantile(value.flatten(), place)) for name, value in squared.items()}
    threshold = quantile(torch.cat([value.flatten() for value in squared.values()]), place)
    return {name: ~beyond(value, threshold) for name, value in squared.items()}


def batch_fisher(model: Model, data: Dataset, *, n_samples: int, batch_size: int,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """Mean over batches of the squared gradient of their mean loss, a batch of B rows counting B/200 times.

    The labels are the model's own answers, the mode is eval, and no `.grad` is touched.
    """
    mode = model.training
    model.eval()
    params = {name: param for name, param in model.named_parameters() if param.requires_grad}
    total = {name: torch.zeros_like(param) for name, param in params.items()}
    chosen = data.subset(torch.randperm(len(data), generator=generator)[:n_samples].to(data.device))
    n_batches = 0
    for batch in chosen.batches(batch_size):
        logits = model(model.preprocess(move(batch.raw, model.device))).logits
        allowed = model.allowed(None if batch.task is None else batch.task.to(model.device))
        best = (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).argmax(1)
        gradients = torch.autograd.grad(cross_entropy(logits, best, allowed), list(params.values()),
                                        materialize_grads=True)
        for mean, gradient in zip(total.values(), gradients, strict=True):
            mean.add_(gradient.square(), alpha=len(best) / _REFERENCE_BATCH)
        n_batches += 1
    model.train(mode)
    return {name: mean / max(n_batches, 1) for name, mean in total.items()}
