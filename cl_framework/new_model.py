"""One hidden layer with layer normalisation, over flattened rows of any shape."""

import math
from dataclasses import dataclass

from torch import nn

from cl_framework import Architecture, bounded


@dataclass(kw_only=True)
class MyMethod(Architecture):
    """Linear, layer normalisation, ReLU."""

    # Fields are the configuration: a type, a default, a docstring each. `head` is inherited.
    width: int = bounded(128, low=1)
    """Width of the hidden layer."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The network below the head for rows of one shape, and how many features D it returns: [B, D]."""
        # The framework puts preprocessing before it, and the head, which knows the classes seen, behind it.
        layers = [nn.Flatten(), nn.Linear(math.prod(input_shape), self.width), nn.LayerNorm(self.width), nn.ReLU()]
        return nn.Sequential(*layers), self.width
