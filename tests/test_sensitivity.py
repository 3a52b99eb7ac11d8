"""Sizes of per-row gradients: both ways against a loop over rows, for every kind of network."""

import pytest
import torch
from torch import nn

from cl_framework import sensitivity
from cl_framework.data import Dataset
from cl_framework.functional import cross_entropy
from cl_framework.models import CNN, MLP, Head, Model
from cl_framework.protocol import build_model
from cl_framework.sensitivity import mean_gradient
from cl_framework.types import StreamInfo

INFO = StreamInfo(n_experiences=3, n_classes=6, input_shape=(1, 8, 8))
DATA = Dataset(torch.randint(0, 256, (13, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
               torch.arange(13) % 4)


def by_loop(model, magnitude):
    """One backward pass a row."""
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    model.eval()
    for batch in DATA.batches(1):
        loss = cross_entropy(model(model.preprocess(batch.raw)).logits, batch.y)
        for (name, _), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())),
                                strict=True):
            total[name] += magnitude(g) / len(DATA)
    return total


def network(architecture):
    model = build_model(architecture, INFO, 0)
    model.observe(range(4))
    return model.train()


@pytest.mark.parametrize("magnitude", [torch.square, torch.abs])
@pytest.mark.parametrize("head", ["whole", "growing", "full"])
@pytest.mark.parametrize("architecture", [MLP(hidden=[7, 5]), MLP(hidden=[7], norm="batch"), CNN(channels=[3])])
def test_the_mean_is_that_of_a_loop_over_rows(architecture, head, magnitude):
    architecture.head = head
    model = network(architecture)
    found = mean_gradient(model, DATA, cross_entropy, magnitude, chunk=5)
    assert model.training and all(param.grad is None for param in model.parameters())
    for name, expected in by_loop(model, magnitude).items():
        assert torch.allclose(found[name], expected, atol=1e-6), name


class Twice(nn.Module):
    """Uses one layer two times, so that a row's gradient is no outer product."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = nn.Flatten(), nn.Linear(64, 64)

    def forward(self, x):
        return self.layer(torch.relu(self.layer(self.inner(x))))


class Positions(nn.Module):
    """A linear layer over every row of the image, eight inputs a row."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x).flatten(1)


class Folded(nn.Module):
    """Puts the positions of an image into the batch, so that a layer sees eight inputs a row, in two dimensions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x.reshape(-1, 8)).tanh().reshape(len(x), 64)


@pytest.mark.parametrize("body", [Twice, Positions, Folded])
def test_layers_that_are_used_more_than_once_a_row_are_not_taken_for_products(body):
    torch.manual_seed(0)
    preprocess = build_model(MLP(), INFO, 0).preprocess
    model = Model(preprocess, body(), Head(64, 4))
    model.observe(range(4))
    found = mean_gradient(model, DATA, cross_entropy, torch.square)
    for name, expected in by_loop(model, torch.square).items():
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-6), name


def test_a_linear_network_is_done_by_products(monkeypatch):
    monkeypatch.setattr(sensitivity, "_row_by_row", None)
    found = mean_gradient(network(MLP(hidden=[7])), DATA, cross_entropy, torch.square)
    assert all(bool(value.isfinite().all()) for value in found.values())
