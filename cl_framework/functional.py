"""Pure functions that several strategies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cross_entropy(logits: Tensor, y: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of B rows.

    Args:
        logits: [B, C].
        y: [B], int64.
        allowed: bool [B, C]; where given, the softmax of a row runs over its allowed classes alone.

    >>> round(float(cross_entropy(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([[True, True, False, False]]))), 4)
    0.6931
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return F.cross_entropy(logits, y)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over rows (Hinton et al. 2015, section 2).

    Args:
        student, teacher: logits [B, C] over the same classes.
        temperature: T > 0.
    """
    target = F.log_softmax(teacher / temperature, 1)
    answer = F.log_softmax(student / temperature, 1)
    return F.kl_div(answer, target, log_target=True, reduction="batchmean") * temperature**2


def symmetric_cross_entropy(a: Tensor, b: Tensor) -> Tensor:
    """SCE(a, b) = -1/2 sum p_b log p_a - 1/2 sum p_a log p_b, mean over rows; logits [B, C].

    Symmetric in its arguments; SCE(z, z) is the entropy of softmax(z) (Doebler et al., CVPR 2023, equation 2).
    """
    log_a, log_b = F.log_softmax(a, 1), F.log_softmax(b, 1)
    return -0.5 * ((log_b.exp() * log_a).sum(1) + (log_a.exp() * log_b).sum(1)).mean()


def quadratic(params: Mapping[str, Tensor], anchor: Mapping[str, Tensor], importance: Mapping[str, Tensor]) -> Tensor:
    """sum_k sum_i F_ki (theta_ki - anchor_ki)^2, a scalar.

    Where a parameter has more rows than its anchor (a head that has grown), the new rows are free.
    """
    terms = [(importance[k] * (leading(params[k], a) - a).square()).sum() for k, a in anchor.items()]
    return torch.stack(terms).sum()


def leading(value: Tensor, like: Tensor) -> Tensor:
    """The first rows of a tensor, as many as `like` has; itself where the shapes agree (also of a scalar)."""
    return value if value.shape == like.shape else value[: len(like)]


def grown(value: Tensor, rest: Tensor) -> Tensor:
    """A tensor followed by the rows that it lacks of `rest`; itself where the shapes agree.

    >>> grown(torch.tensor([1.0]), torch.zeros(3))
    tensor([1., 0., 0.])
    """
    return value if value.shape == rest.shape else torch.cat([value, rest[len(value):]])


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two lists of tensors, a scalar.

    >>> dot([torch.ones(2)], [torch.tensor([1.0, 2.0])])
    tensor(3.)
    """
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def gradients_of(params: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients, with zeros where a parameter has none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]


def quantile(values: Tensor, q: float) -> Tensor:
    """Linear-interpolation quantile of a flat tensor of any size, by selection and not by sorting.

    Same definition as `numpy.quantile(..., method="linear")`; `torch.quantile` stops at 2^24 elements. The nearer the
    quantile to either end, the less there is to select.

    >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.5)
    tensor(2.5000)
    """
    n = len(values)
    place = q * (n - 1)
    low = int(place)
    if 2 * low >= n - 1:
        tail = values.topk(n - low, sorted=False).values
        pair = tail.topk(min(2, len(tail)), largest=False).values
        below, above = pair[0], pair[-1]
    else:
        tail = values.topk(low + 2, largest=False, sorted=False).values
        pair = tail.topk(2).values
        below, above = pair[-1], pair[0]
    return below if low == place else torch.lerp(below, above, place - low)
