"""With which mean and variance batch normalisation works while a model adapts.

A layer computes y = w (x - m) / sqrt(v + eps) + b. A *rule* says where m and v come from: the running statistics that
training left, those of the batch (Nado et al. 2020, arXiv 2006.10963), a mixture of both (Schneider et al., NeurIPS
2020, arXiv 2006.16971, equation 2), or a moving average over the stream.

A rule holds inside `normalised_by` and nowhere else: layers, buffers and mode of the model are as before when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.models import Model

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Rule = Callable[[BatchNorm, Tensor], Tensor]

BESIDE: Mapping[str, str] = {
    "answers_each_row_alone": "rows are normalised with the statistics of the batch that they come in"}
"""The rule of the conformance suite that batch statistics cannot obey."""


def batch_norms(model: Model) -> dict[str, BatchNorm]:
    """The layers of batch normalisation that have running statistics, by name."""
    return {name: layer for name, layer in model.named_modules()
            if isinstance(layer, BatchNorm) and layer.running_mean is not None}


@contextmanager
def normalised_by(model: Model, rule: Rule) -> Iterator[None]:
    """Let every layer of batch normalisation follow a rule, whatever the model's mode."""
    layers = batch_norms(model).values()
    for layer in layers:
        vars(layer)["forward"] = partial(rule, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def by_source(layer: BatchNorm, x: Tensor) -> Tensor:
    """The running statistics, as in evaluation mode."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)


def by_batch(layer: BatchNorm, x: Tensor) -> Tensor:
    """The statistics of the batch. A single row is no sample to take them from: it gets the running ones."""
    if len(x) == 1:
        return by_source(layer, x)
    return F.batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)


def mixed(alpha: float) -> Rule:
    """(1 - alpha) times the running statistics plus alpha times those of the batch."""

    def rule(layer: BatchNorm, x: Tensor) -> Tensor:
        return _normalised(layer, x, *_mixture(layer, x, alpha))

    return rule


def moving(momentum: float) -> Rule:
    """As `mixed`, and the mixture becomes the layer's running statistics: they follow the stream."""

    def rule(layer: BatchNorm, x: Tensor) -> Tensor:
        mean, variance = _mixture(layer, x, momentum)
        with torch.no_grad():
            for own, new in ((layer.running_mean, mean), (layer.running_var, variance)):
                assert own is not None
                own.copy_(new)
        return _normalised(layer, x, mean, variance)

    return rule


def _mixture(layer: BatchNorm, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of x [B, C, ...], each mixed with the running one; the variance is the biased one."""
    assert layer.running_mean is not None and layer.running_var is not None
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return layer.running_mean.lerp(mean, alpha), layer.running_var.lerp(variance, alpha)


def _normalised(layer: BatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """w (x - m) / sqrt(v + eps) + b; m and v may carry gradients."""
    scale = (variance + layer.eps).rsqrt()
    shift = -mean * scale
    if layer.affine:
        scale, shift = scale * layer.weight, shift * layer.weight + layer.bias
    shape = (1, -1, *([1] * (x.dim() - 2)))
    return x * scale.view(shape) + shift.view(shape)
