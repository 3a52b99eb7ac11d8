"""Layers over S networks at once: batched products, grouped convolutions, wide normalisation.

Rows of network s are x[s], [S, B, ...]. A linear layer is one batched product,

    y[s] = x[s] W[s]^T + b[s],    dW[s] = dy[s]^T x[s],

whose backward pass is written down here: dW comes out in the memory order of W, and need not be copied. Where there are
images the networks lie side by side as channels, [B, S C, H, W]: a convolution of all is one with S groups (Krizhevsky
et al., NeurIPS 2012, section 3.5), and batch normalisation and pooling, which treat each channel by itself, are
what they are for one network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework import models, resnets
from cl_framework.models import Head
from cl_framework.stacked_weights import Unlike, Weights

Drawing = Callable[[int], AbstractContextManager[None]]
"""Around what network s draws at random."""


class _Product(torch.autograd.Function):
    """x[s] W[s]^T + b[s]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [S, B, D], weight [S, O, D], bias [S, O] to [S, B, O]."""
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Slopes of x, weight and bias."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (torch.bmm(slope, weight) if wants_x else None,
                torch.bmm(slope.transpose(1, 2), x) if wants_weight else None,
                slope.sum(1) if wants_bias else None)


def apart(x: Tensor, n: int) -> Tensor:
    """[B, S D] as [S, B, D]; what is [S, B, D] already stays."""
    return x if x.dim() == 3 else x.reshape(len(x), n, -1).transpose(0, 1)


class _Flat(nn.Module):
    """Flatten: rows [S, B, ...] to [S, B, D], images [B, S C, H, W] to [B, S D]."""

    def __init__(self, are_images: bool) -> None:
        super().__init__()
        self._from = 1 if are_images else 2

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self._from) if x.dim() > 3 else x


class _Linear(nn.Module):
    """Linear layers, [S, B, D] or [B, S D] to [S, B, O]."""

    def __init__(self, layer: nn.Linear, weights: Weights) -> None:
        super().__init__()
        self._weights, self._weight = weights, weights.place_of(layer.weight)
        self._bias = None if layer.bias is None else weights.place_of(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        now = self._weights.now
        bias = None if self._bias is None else now[self._bias]
        made: Tensor = _Product.apply(apart(x, self._weights.n), now[self._weight], bias)  # type: ignore[no-untyped-call]
        return made


class _Conv(nn.Module):
    """Convolutions, [B, S C, H, W] to [B, S O, H', W']."""

    def __init__(self, layer: nn.Conv2d, weights: Weights) -> None:
        super().__init__()
        if layer.padding_mode != "zeros":
            raise Unlike(f"a convolution padded by '{layer.padding_mode}' has no batched form")
        self._weights, self._weight = weights, weights.place_of(layer.weight)
        self._bias = None if layer.bias is None else weights.place_of(layer.bias)
        self._shape: tuple[Any, ...] = layer.stride, layer.padding, layer.dilation, layer.groups * weights.n

    def forward(self, x: Tensor) -> Tensor:
        now = self._weights.now
        bias = None if self._bias is None else now[self._bias].flatten()
        return F.conv2d(x, now[self._weight].flatten(0, 1), bias, *self._shape)


class _Norm(nn.Module):
    """Batch normalisation by the layer's own rule, over S times its channels."""

    def __init__(self, layers: list[nn.Module], weights: Weights) -> None:
        super().__init__()
        first = layers[0]
        assert isinstance(first, nn.BatchNorm1d | nn.BatchNorm2d)
        if not first.track_running_stats or first.momentum is None or not first.affine:
            raise Unlike("a batch normalisation without weights, running statistics or momentum has no batched form")
        self._weights, self._n = weights, weights.n
        self._places = {"weight": weights.place_of(first.weight), "bias": weights.place_of(first.bias)}
        wide = copy.copy(first)
        wide._parameters, wide._buffers = {}, {}
        wide.num_features = first.num_features * weights.n
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(wide, name, weights.buffer(layers, name).flatten())
        self.wide = wide

    def forward(self, x: Tensor) -> Tensor:
        for name, place in self._places.items():
            setattr(self.wide, name, self._weights.now[place].flatten())
        if x.dim() != 3:
            made: Tensor = self.wide(x)
            return made
        return apart(self.wide(x.transpose(0, 1).flatten(1)), self._n)


class _Dropout(nn.Module):
    """Each network drops what it drops alone."""

    def __init__(self, p: float, drawing: Drawing) -> None:
        super().__init__()
        self._p, self._drawing = p, drawing

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._p == 0:
            return x
        kept = []
        for s, rows in enumerate(x.unbind(0)):
            with self._drawing(s):
                kept.append(F.dropout(rows, self._p))
        return torch.stack(kept)


class Network:
    """The networks of S models as one.

    Args:
        parts: the models, whose parameters `weights` has stacked.
        drawing: around what the network of a number draws.

    Raises:
        Unlike: a layer has no form over several networks; the text names it.
    """

    def __init__(self, parts: Sequence[models.Model], weights: Weights, drawing: Drawing) -> None:
        bodies = [model.body for model in parts]
        self._weights, self._drawing = weights, drawing
        self._are_images = any(isinstance(layer, nn.Conv2d) for layer in bodies[0].modules())
        self._body = self._stacked(bodies)
        head: Head = parts[0].head
        if type(head) is not Head or any(model.head.n_seen != head.n_seen for model in parts):
            raise Unlike(f"a head of type {type(head).__name__} has no batched form")
        self._head, self._places = head, (weights.place_of(head.weight), weights.place_of(head.bias))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S, B, n_seen] and features [S, B, D] of rows [S, B, ...], in training mode."""
        if self._are_images:
            x = x.transpose(0, 1).flatten(1, 2)
        features = apart(self._body(x), self._weights.n)
        weight, bias = (self._weights.now[place] for place in self._places)
        if self._head.n_seen < weight.shape[1]:
            weight, bias = weight[:, : self._head.n_seen], bias[:, : self._head.n_seen]
        logits: Tensor = _Product.apply(features, weight, bias)  # type: ignore[no-untyped-call]
        return logits, features

    def _stacked(self, layers: list[nn.Module]) -> nn.Module:
        """One module for the same layer of all networks."""
        first = layers[0]
        kind = type(first)
        if kind in _AS_THEY_ARE:
            return first
        if kind in _NORMS:
            return _Norm(layers, self._weights)
        if isinstance(first, nn.Linear) and kind is nn.Linear:
            return _Linear(first, self._weights)
        if isinstance(first, nn.Conv2d) and kind is nn.Conv2d:
            return _Conv(first, self._weights)
        if isinstance(first, nn.Flatten) and (first.start_dim, first.end_dim) == (1, -1):
            return _Flat(self._are_images)
        if isinstance(first, nn.Dropout) and not self._are_images:
            return _Dropout(first.p, self._drawing)
        if kind not in _CONTAINERS:
            raise Unlike(f"a layer of type {kind.__name__} has no batched form")
        made = copy.copy(first)
        made._modules = {name: self._stacked([layer.get_submodule(name) for layer in layers])
                         for name, _ in first.named_children()}
        return made


_AS_THEY_ARE = (nn.ReLU, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Layers without weights that treat each channel, or each number, by itself."""
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, models.BatchNorm, resnets.BatchNorm)
_CONTAINERS = (nn.Sequential, resnets.Block)
"""Layers made of layers, which join only what has the same shape."""
