"""A network and contexts in float64, for the tests of fast-slow training with contexts."""

import torch


class _Double(torch.nn.Module):
    """What the network sees, in float64."""

    def __init__(self, preprocess):
        super().__init__()
        self.preprocess = preprocess

    def forward(self, raw):
        return self.preprocess(raw).double()


def in_double(model):
    """The model, with its weights and what it sees in float64."""
    model.preprocess = _Double(model.preprocess)
    return model.double()


def contexts_of(k, n, seed=0):
    """k contexts of n features, [k, 2, n]."""
    return torch.randn(k, 2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
