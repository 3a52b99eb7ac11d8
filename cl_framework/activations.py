"""What a network holds for one row while it computes, measured; and how many rows it should therefore answer at once.

    n = clamp(C / l, 64, 512)

l: bytes of the largest tensor of one row; C: bytes that stay near a processor's core. An output that does not fit there
is written to main memory and read again by the next layer: small convolutional networks answer 1024 rows half as fast
as the same rows in parts. More than 512 gain nothing and take memory. On a GPU many rows are what makes it fast.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cl_framework.models import Model
from cl_framework.types import Batch, Inputs

CACHE = 8 * 2**20
"""Bytes; from 2 to 32 MiB the measured times are within a quarter of the best."""
FEWEST, MOST = 64, 512
_ELSEWHERE = 1024
"""Rows at once where nothing is measured: on a GPU, and of inputs of several columns."""
_FOUND: WeakKeyDictionary[Model, int] = WeakKeyDictionary()


def kept(model: Model, compute: Callable[[], object]) -> tuple[int, int]:
    """Bytes that autograd keeps while something is computed, weights left out, and those of the largest tensor."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute()
    return sum(found.values()), max(found.values(), default=0)


def rows_at_once(model: Model, raw: Inputs) -> int:
    """How many rows a model in evaluation mode should answer at once; measured once in the life of a model.

    Args:
        model: any.
        raw: some rows as they are stored; the first is looked at.
    """
    if not isinstance(raw, Tensor) or model.device.type != "cpu" or not len(raw):
        return _ELSEWHERE
    if model not in _FOUND:
        _, largest = kept(model, lambda: model(model.preprocess(raw[:1])))
        _FOUND[model] = min(max(CACHE // max(largest, 1), FEWEST), MOST)
    return _FOUND[model]


def in_parts(model: Model, batch: Batch, answered: Callable[[Batch], Tensor]) -> Tensor:
    """The answers to a batch, asked for some rows at a time.

    Args:
        model: who answers.
        batch: B rows that are not prepared.
        answered: gives the logits of some rows, [b, C].
    """
    raw, n = batch.raw, rows_at_once(model, batch.raw)
    if not isinstance(raw, Tensor) or len(raw) <= n:
        return answered(batch)
    cuts = [slice(start, start + n) for start in range(0, len(raw), n)]
    return torch.cat([answered(batch._replace(raw=raw[cut], y=batch.y[cut],
                                              task=None if batch.task is None else batch.task[cut])) for cut in cuts])
