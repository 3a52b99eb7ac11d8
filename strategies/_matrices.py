"""Which layers are merged as matrices [d_out, d_in], and how a kernel or a fused projection becomes some."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cl_framework.merging import Layer

_FUSED = ("qkv.weight", "in_proj_weight")


def is_matrix(layer: Layer, excluded: Sequence[str] = ()) -> bool:
    """A linear or convolutional weight below the head, or a fused projection of queries, keys and values.

    Args:
        layer: which.
        excluded: a layer whose name contains one of these is none.
    """
    if layer.name.startswith("head.") or any(text in layer.name for text in excluded):
        return False
    return layer.kind in ("linear", "conv") or layer.name.endswith(_FUSED)


def as_matrices(layer: Layer, value: Tensor) -> Tensor:
    """One layer's update as k matrices, [k, p, d]: a kernel [out, in, h, w] is [out, in h w], which acts on unfolded
    patches; a fused projection is its three."""
    k = 3 if layer.name.endswith(_FUSED) and len(value) % 3 == 0 else 1
    return value.reshape(k, len(value) // k, -1)
