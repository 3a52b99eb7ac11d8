"""The k-th smallest of numbers that come in parts, exactly and without holding them at once.

Floating-point numbers sort like integers made of their bits: those of a negative number turned over. The answer is
found 16 bits at a time, the upper ones first: count the values of each, find the bin that holds rank k, then count the
next 16 bits of the values in that bin. float32 takes two passes, float64 four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_BITS = 16
_PLACES = 2**_BITS
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def order_statistic(parts: Callable[[], Iterable[Tensor]], rank: int) -> float:
    """The value at `rank`, from 0, among all entries in rising order.

    Args:
        parts: gives the same tensors each time it is called, all float32 or all float64; NaN is not ordered.
        rank: below the number of entries.

    >>> order_statistic(lambda: [torch.tensor([4.0, -1.0]), torch.tensor([0.5])], 1)
    0.5
    """
    prefix, n_known, below, kind = 0, 0, rank, torch.float32
    while True:
        counts = torch.zeros(_PLACES, dtype=torch.int64)
        for part in parts():
            kind = part.dtype
            counts += _histogram(_keys(part), prefix, n_known).cpu()
        cumulative = counts.cumsum(0)
        place = int(torch.searchsorted(cumulative, below, right=True))
        below -= int(cumulative[place - 1]) if place else 0
        prefix, n_known = prefix << _BITS | place, n_known + 1
        if n_known * _BITS == torch.finfo(kind).bits:
            return _value(prefix, kind)


def _keys(part: Tensor) -> Tensor:
    """Integers that sort like the entries."""
    bits = part.flatten().view(_INTEGERS[part.dtype])
    return torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)


def _histogram(keys: Tensor, prefix: int, n_known: int) -> Tensor:
    """How often each value of the next 16 bits occurs among keys that begin with `prefix`."""
    width = torch.iinfo(keys.dtype).bits
    places = keys >> width - (n_known + 1) * _BITS
    offset = _PLACES // 2
    if n_known:
        places = places[places >> _BITS == _signed(prefix, n_known)] & _PLACES - 1
        offset = 0
    return torch.bincount((places + offset).flatten(), minlength=_PLACES)


def _signed(prefix: int, n_known: int) -> int:
    """Unsigned places, the first one shifted by half, as the leading bits of a signed key."""
    return prefix - (1 << n_known * _BITS - 1)


def _value(prefix: int, kind: torch.dtype) -> float:
    """The number that a key stands for."""
    integer = _INTEGERS[kind]
    key = torch.tensor(_signed(prefix, torch.finfo(kind).bits // _BITS), dtype=integer)
    bits = torch.where(key < 0, key ^ torch.iinfo(integer).max, key)
    return float(bits.view(kind))
