"""Pure functions that several strategies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.types import move

if TYPE_CHECKING:
    from cl_framework.data import Dataset
    from cl_framework.models import Model


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


def fisher_diagonal(model: Model, data: Dataset, *, n_samples: int, generator: torch.Generator, chunk: int = 32,
                    labels: str = "model") -> dict[str, Tensor]:
    """Diagonal of the Fisher information: the mean over samples of the squared per-sample gradient of log p.

    F_i = E_x E_{y ~ p(y|x)} [(d log p(y|x) / d theta_i)^2], one drawn label a sample ("model"), or the given label
    ("data", the empirical Fisher). Per-sample gradients make it independent of any batch size
    (Kirkpatrick et al., PNAS 2017, equation 3; Kunstner et al., NeurIPS 2019, on the two label choices).

    Args:
        model: its mode and gradients are left as they were; it is evaluated in eval mode.
        data: the rows; `n_samples` of them are drawn without replacement.
        chunk: how many per-sample gradients are held at once; changes memory, not the result.
    """
    mode, device = model.training, model.device
    model.eval()
    params = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    total = {k: torch.zeros_like(p) for k, p in params.items()}

    def log_likelihood(weights: dict[str, Tensor], x: Tensor, y: Tensor, allowed: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights, (x.unsqueeze(0),)).logits
        return -cross_entropy(logits, y.unsqueeze(0), allowed.unsqueeze(0))

    gradients = torch.func.vmap(torch.func.grad(log_likelihood), in_dims=(None, 0, 0, 0))
    chosen = data.subset(torch.randperm(len(data), generator=generator)[:n_samples].to(data.device))
    uniform = torch.rand(len(chosen), generator=generator)
    seen = 0
    for batch in chosen.batches(chunk):
        x, y = model.preprocess(move(batch.raw, device)), batch.y.to(device)
        allowed = model.allowed(None if batch.task is None else batch.task.to(device))
        if allowed is None:
            allowed = torch.ones(len(y), model.n_seen, dtype=torch.bool, device=device)
        if labels == "model":
            with torch.no_grad():
                logits = model(x).logits.masked_fill(~allowed, -torch.inf)
            below = uniform[seen:seen + len(y)].to(device).unsqueeze(1)
            y = (logits.softmax(1).cumsum(1) < below).sum(1).clamp(max=model.n_seen - 1)
            y = torch.where(allowed.gather(1, y.unsqueeze(1)).squeeze(1), y, batch.y.to(device))
        for k, g in gradients(params, x, y, allowed).items():
            total[k] += g.square().sum(0)
        seen += len(y)
    model.train(mode)
    return {k: t / max(seen, 1) for k, t in total.items()}


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
