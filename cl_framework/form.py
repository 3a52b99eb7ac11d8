"""How the body of a network is computed: as it is written, with images laid out pixel by pixel, as one compiled graph.

    phi = f(x),   f the body, the same function in every form; its sums are added in another order

The form belongs to a model and not to its body: a copy of the model, a teacher say, is computed in the same form with
its own weights, and no strategy needs to know. One graph serves all bodies of the same layers, so that a stream, all
its heads and all seeds of a process are compiled for once. Ansel et al., "PyTorch 2", ASPLOS 2024, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from cl_framework.types import Inputs

_GRAPHS = 64
"""Graphs that a process keeps: of other layers, of training and evaluation, with and without gradients, of one batch
size and of any."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to compute a body.

    Attributes:
        channels_last: images are handed over pixel by pixel, all channels of one together; other rows as they are.
        is_compiled: by `torch.compile`.
    """

    channels_last: bool = False
    is_compiled: bool = False

    def __call__(self, body: nn.Module, x: Inputs) -> Tensor:
        """Features [B, D] of preprocessed rows."""
        if self.channels_last and isinstance(x, Tensor) and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return (_compiled() if self.is_compiled else _features)(body, x)


def _features(body: nn.Module, x: Inputs) -> Tensor:
    features: Tensor = body(x)
    return features


@cache
def _compiled() -> Callable[[nn.Module, Inputs], Tensor]:
    """The function is compiled and not a module: torch compiles a `Sequential` layer by layer, and gives up after 8.
    Dropout draws the numbers that it draws otherwise."""
    import torch._dynamo.config as limits

    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)
    return torch.compile(_features, options={"fallback_random": True})
