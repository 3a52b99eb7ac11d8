"""Earlier weights of a model, put in the place of its own for a moment: a reference policy without a second model.

Only what is trained is kept: all weights, or with an adapter the adapter's, so that a reference costs what an adapter
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


def noted(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that are trained, by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@contextmanager
def standing_in(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model has these weights; afterwards its own again, the same tensors as before.

    >>> layer = nn.Linear(1, 1)
    >>> before = noted(layer)
    >>> _ = layer.weight.data.add_(1.0)
    >>> with standing_in(layer, before):
    ...     bool(layer.weight.data == before["weight"])
    True
    """
    replaced = [(value, value.data, weights[name]) for name, value in model.named_parameters() if name in weights]
    for value, _, other in replaced:
        value.data = other
    try:
        yield
    finally:
        for value, own, _ in replaced:
            value.data = own
