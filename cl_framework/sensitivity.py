"""How much each weight matters: the mean, over rows, of the size of one row's gradient, and the Fisher information.

A linear layer's gradient for one row is an outer product, G = g a^T of the gradient g at its outputs and its inputs a.
So for a magnitude with m(g a) = m(g) m(a), such as the square, the sum over B rows is one matrix product,

    sum_b m(g_b a_b^T) = m(g)^T m(a),

and costs what a batch's backward pass costs. A network of other layers has its rows' gradients computed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cl_framework.data import Dataset
from cl_framework.functional import cross_entropy, grown
from cl_framework.models import Head, Model
from cl_framework.types import Inputs, move

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A scalar of one row's logits [1, C], label [1] and allowed classes, bool [1, C]."""

Magnitude = Callable[[Tensor], Tensor]
"""Of a gradient, element by element, with m(x y) = m(x) m(y): `torch.square` or `torch.abs`."""


def mean_gradient(model: Model, data: Dataset, objective: Objective, magnitude: Magnitude, *, chunk: int = 32,
                  relabel: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """For each parameter the mean, over rows, of the magnitude of *one* row's gradient; no batch size enters.

    Args:
        model: its mode and gradients are left as they were; it is evaluated in eval mode.
        chunk: how many rows are taken at once; changes memory, not the result.
        relabel: makes other labels of a chunk's logits [B, C], labels [B] and allowed classes [B, C].
    """
    mode, device = model.training, model.device
    model.eval()
    params = {k: p for k, p in model.named_parameters() if p.requires_grad}
    total = {k: torch.zeros_like(p) for k, p in params.items()}
    is_linear = _is_linear(model)
    for batch in data.batches(chunk):
        x, y = model.preprocess(move(batch.raw, device)), batch.y.to(device)
        allowed = model.allowed(None if batch.task is None else batch.task.to(device))
        if allowed is None:
            allowed = torch.ones(len(y), model.n_seen, dtype=torch.bool, device=device)
        if relabel is not None:
            with torch.no_grad():
                y = relabel(model(x).logits, y, allowed)
        rows = Rows(x, y, allowed)
        sums = _by_products(model, rows, objective, magnitude) if is_linear else None
        for k, value in (sums or _row_by_row(model, rows, objective, magnitude)).items():
            total[k] += value
    model.train(mode)
    return {k: t / max(len(data), 1) for k, t in total.items()}


class Rows(NamedTuple):
    """Preprocessed rows [B, ...], labels [B] and allowed classes, bool [B, C]."""

    x: Inputs
    y: Tensor
    allowed: Tensor


def _is_linear(model: Model) -> bool:
    """Whether all parameters are those of linear layers, and all are trained."""
    owned = {id(p) for layer in _linear_layers(model) for p in layer.parameters(recurse=False)}
    return all(id(p) in owned and p.requires_grad for p in model.parameters())


def _linear_layers(model: Model) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Linear | Head)]


@contextmanager
def _watched(layers: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Layer, inputs and outputs of each call in a forward pass."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((layer, inputs[0].detach(), output))

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _by_products(model: Model, rows: Rows, objective: Objective, magnitude: Magnitude) -> dict[str, Tensor] | None:
    """The sum over rows, a matrix product for each layer; None where a layer has not exactly one input a row."""
    layers = _linear_layers(model)
    with torch.enable_grad(), _watched(layers) as seen:
        logits = model(rows.x).logits
        if len(seen) != len(layers) or any(
                inputs.dim() != 2 or len(inputs) != len(rows.y) for _, inputs, _ in seen):
            return None
        values = torch.vmap(objective)(logits.unsqueeze(1), rows.y.unsqueeze(1), rows.allowed.unsqueeze(1))
        gradients = torch.autograd.grad(values.sum(), [output for _, _, output in seen])
    sums = {}
    for (layer, inputs, _), gradient in zip(seen, gradients, strict=True):
        size = magnitude(gradient)
        for name, param in layer.named_parameters(recurse=False):
            own = size.T @ magnitude(inputs) if name == "weight" else size.sum(0)
            sums[id(param)] = grown(own, torch.zeros_like(param))  # rows of a head that do not answer yet
    return {name: sums[id(param)] for name, param in model.named_parameters()}


def _row_by_row(model: Model, rows: Rows, objective: Objective, magnitude: Magnitude) -> dict[str, Tensor]:
    """The sum over rows, each row's gradient for itself."""
    params = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}

    def of_one_row(weights: dict[str, Tensor], x: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights, (x.unsqueeze(0),)).logits
        return objective(logits, y.unsqueeze(0), allowed.unsqueeze(0))

    assert isinstance(rows.x, Tensor), "rows of several tensors have no per-row gradients yet"
    gradients = torch.func.vmap(torch.func.grad(of_one_row), in_dims=(None, 0, 0, 0))
    return {k: magnitude(g).sum(0) for k, g in gradients(params, rows.x, rows.y, rows.allowed).items()}


def fisher_diagonal(model: Model, data: Dataset, *, n_samples: int, generator: torch.Generator, chunk: int = 128,
                    labels: str = "model") -> dict[str, Tensor]:
    """Diagonal of the Fisher information: the mean over samples of the squared per-sample gradient of log p.

    F_i = E_x E_{y ~ p(y|x)} [(d log p(y|x) / d theta_i)^2], one drawn label a sample ("model"), the given label
    ("data", the empirical Fisher), or the model's most likely one ("argmax", as in much code). Per-sample gradients
    make it independent of any batch size (Kirkpatrick et al., PNAS 2017, equation 3; Kunstner et al., NeurIPS 2019, on
    the choice of labels).

    Args:
        model: its mode and gradients are left as they were; it is evaluated in eval mode.
        data: the rows; `n_samples` of them are drawn without replacement.
        chunk: how many per-sample gradients are held at once; changes memory, not the result.
    """
    chosen = some_rows(data, n_samples, generator)
    uniform = iter(torch.rand(len(chosen), generator=generator).split(chunk))

    def log_likelihood(logits: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
        return -cross_entropy(logits, y, allowed)

    def drawn(logits: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
        below = next(uniform).to(logits.device).unsqueeze(1)
        chances = logits.masked_fill(~allowed, -torch.inf).softmax(1)
        label = (chances.cumsum(1) < below).sum(1).clamp(max=logits.shape[1] - 1)
        return torch.where(allowed.gather(1, label.unsqueeze(1)).squeeze(1), label, y)

    def most_likely(logits: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
        return logits.masked_fill(~allowed, -torch.inf).argmax(1)

    ways = {"model": drawn, "argmax": most_likely, "data": None}
    return mean_gradient(model, chosen, log_likelihood, torch.square, chunk=chunk, relabel=ways[labels])


def some_rows(data: Dataset, n: int, generator: torch.Generator) -> Dataset:
    """`n` rows drawn without replacement; all, in another order, where there are no more."""
    return data.subset(torch.randperm(len(data), generator=generator)[:n].to(data.device))
