"""ROID: certain and diverse rows by a soft likelihood ratio, views that agree, and an average with the source.

With p_b the softmax of row b, m a running mean of the batch's mean softmax, and both factors scaled to [0, 1] over the
batch, a row weighs w_b = exp(3 (1 - cos(m, p_b)) (-H(p_b))), and 0 where its diversity is below the batch's mean. Then

    L = (1/B) sum_b w_b [ SLR(p_b) + SCE(z(view(x_b)), z(x_b)) ],    SLR(p) = -sum_c p_c log(p_c / (1 - p_c)),

with p_c clipped to 0.99, over scales and shifts of normalisation layers. After the step theta <- 0.99 theta + 0.01
theta_0. The answer is z times the smoothed prior (p + s) / (1 + s C), p the batch's mean softmax and s = max(1/B, 1/C)
/ max p. Marsden, Doebler and Yang, "Universal Test-Time Adaptation through Weight Ensembling, Diversity Weighting, and
Prior Correction", WACV 2024, arXiv 2306.00650, sections 4.1 to 4.4, and the authors' code.

Views leave out blur and noise, as there; the edge is repeated where that code reflects it. Both sides of SCE carry
gradients. Held-out rows are answered without the correction of the prior, since theirs need not be that of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import Adapted, batch_logits, entropy, norm_weights, several_rows, soft_cross_entropy, unlabelled
from ._statistics import BESIDE
from ._teacher import n_bytes
from ._views import Views
from ._watch import Watch

_CLIP = 0.99
_EPSILON = 1e-5


@dataclass(kw_only=True, eq=False)
class ROID(Strategy):
    """Adapts by weighted likelihood ratios, stays near the source, and corrects for the prior."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    lr: float = tunable(1e-3, 1e-4, 2.5e-4, 1e-3, low=0.0)
    """Learning rate."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; sgd has momentum 0.9."""
    source_momentum: float = tunable(0.99, 0.95, 0.99, 0.999, 1.0, low=0.0, high=1.0)
    """Weight of the adapted weights in the average with the source; 1 never averages."""
    mean_momentum: float = bounded(0.9, low=0.0, high=1.0)
    """Momentum of the running mean m."""
    temperature: float = bounded(1 / 3, low=1e-6)
    """Divides the product of diversity and certainty."""
    is_weighted: bool = True
    """Weigh rows by diversity and certainty."""
    is_consistent: bool = True
    """Ask views of the rows to agree with them."""
    is_prior_corrected: bool = True
    """Correct the answers by the batch's mean softmax."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Scale and shift of the normalisation layers learn; their source values are kept."""
        unlabelled("roid", info)
        several_rows("roid", info)
        self._adapted = Adapted(model, norm_weights("roid", model), self.update_rule, self.lr)
        self._source = self._adapted.copied()
        self._mean = torch.full((info.n_classes,), 1 / info.n_classes, device=model.device)
        self._views = Views(info, model.device, "roid", is_sharp=True) if self.is_consistent else None
        self._n_batch = info.batch_size
        self._watch = Watch(info, model.device)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The corrected logits before the step, the step, and the average with the source."""
        logits = batch_logits(model, x)
        answer = self._corrected(logits.detach())
        weights = self._weights(logits.detach())
        chosen = weights > 0
        self._watch.saw(x, answer)
        self._watch.add("adapted_rows", chosen.sum(), len(chosen))
        if chosen.any():
            self._step(model, x, logits, weights, chosen)
        return answer

    def _step(self, model: Model, x: Inputs, logits: Tensor, weights: Tensor, chosen: Tensor) -> None:
        kept = logits[chosen]
        losses = likelihood_ratio(kept)
        if self._views is not None and isinstance(x, Tensor):
            seen = batch_logits(model, self._views(x[chosen]))
            losses = losses + 0.5 * (soft_cross_entropy(seen, kept) + soft_cross_entropy(kept, seen))
        self._adapted.step((weights[chosen] * losses).sum() / (self._n_batch or len(logits)))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._adapted.params.values()), list(self._source.values()),
                                 1 - self.source_momentum)

    @torch.no_grad()
    def _weights(self, logits: Tensor) -> Tensor:
        """The weight of each row, [B]; the running mean moves on."""
        if not self.is_weighted:
            return torch.ones_like(logits[:, 0])
        p = logits.softmax(1)
        mean = self._mean.to(p.dtype)
        diversity = _scaled(1 - F.cosine_similarity(mean.unsqueeze(0), p, dim=1))
        weights = (diversity * _scaled(-entropy(logits)) / self.temperature).exp()
        self._mean = mean.lerp(p.mean(0), 1 - self.mean_momentum)
        return weights.masked_fill(diversity < diversity.mean(), 0.0)

    def _corrected(self, logits: Tensor) -> Tensor:
        """Logits times the smoothed prior of the batch, [B, C]."""
        if not self.is_prior_corrected:
            return logits
        n, n_classes = logits.shape
        prior = logits.softmax(1).mean(0)
        smooth = max(1 / n, 1 / n_classes) / prior.amax()
        return logits * (prior + smooth) / (1 + smooth * n_classes)

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits with the statistics of these rows."""
        return batch_logits(model, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, mean entropy of the answers, and the part of rows that took part."""
        return {"memory_bytes": n_bytes(self._source.values()) + self._adapted.n_bytes, **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, source weights, running mean, generators and what was counted."""
        return {"optimizer": self._adapted.state_dict(), "source": dict(self._source), "mean": self._mean,
                "views": None if self._views is None else self._views.state_dict(), "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._adapted.load_state_dict(state["optimizer"])
        self._source = {name: value.to(model.device) for name, value in state["source"].items()}
        self._mean = state["mean"].to(model.device)
        if self._views is not None:
            self._views.load_state_dict(state["views"])
        self._watch.load_state_dict(state["watch"])


def likelihood_ratio(logits: Tensor) -> Tensor:
    """Soft likelihood ratio of each row [B]; low where one class is likely."""
    p = logits.softmax(1).clamp(max=_CLIP)
    return -(p * (p / (1 - p) + _EPSILON).log()).sum(1)


def _scaled(values: Tensor) -> Tensor:
    """Values scaled to [0, 1]; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-12)
