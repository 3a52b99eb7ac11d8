"""EATA: minimise entropy on the rows that are reliable and new, and stay near the source where it matters.

A row takes part where its entropy H is below E_0 = 0.4 ln C and, from the second batch on, where the cosine of its
softmax with m, the running mean of the softmax of rows that took part, is below d in absolute value. Over those rows

    L = mean_b exp(E_0 - H_b) H_b  +  beta sum_i F_i (theta_i - theta_0i)^2,    m <- 0.9 m + 0.1 mean_b p_b,

with the weight exp(E_0 - H_b) held fixed, over scales and shifts of normalisation layers. F is the batch-Fisher at the
source, its labels the model's own answers. Niu et al., "Efficient Test-Time Model Adaptation without Forgetting", ICML
2022, arXiv 2204.02610, equations 3 to 9; a batch in which no row takes part changes nothing.

F is the mean over batches of the squared gradient of their mean loss, as released. It shrinks like 1/B, so a batch of
B rows counts B/200 times here, and beta means the same at any B: 1 for small images (d = 0.4), 2000 at B = 64 and d =
0.05 for ImageNet in the paper, which is 6250 here. The paper measures F on clean test rows; `fisher=source` takes
source training rows, as later benchmarks do, and `fisher=stream` the first rows of the stream, while they are adapted
to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import quadratic
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import (
    Adapted,
    answer_fisher,
    batch_logits,
    by_batch_in,
    entropy,
    norm_weights,
    several_rows,
    source_rows,
    unlabelled,
)
from ._selection import batch_fisher
from ._statistics import BESIDE
from ._teacher import n_bytes
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class EATA(Strategy):
    """Minimises the entropy of reliable, diverse rows, anchored at the source."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED, Need.SOURCE_DATA})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    lr: float = tunable(1e-3, 1e-4, 2.5e-4, 1e-3, 3e-3, low=0.0)
    """Learning rate."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; sgd has momentum 0.9."""
    entropy_margin: float = tunable(0.4, 0.2, 0.4, 0.6, low=0.0, high=1.0)
    """E_0 as a part of ln C, the largest entropy."""
    diversity_margin: float = tunable(0.4, 0.05, 0.1, 0.4, low=0.0, high=1.0)
    """Cosine d; 0.4 for small images and 0.05 for ImageNet in the paper."""
    penalty_strength: float = tunable(1.0, 0.1, 1.0, 10.0, 100.0, low=0.0)
    """Strength beta of the anchor, for a batch-Fisher of 200 rows; 0 needs no Fisher."""
    fisher: Literal["source", "stream"] = "source"
    """Where F is measured: on source rows before the stream, or on the stream's first rows."""
    n_samples: int = bounded(2000, low=1)
    """Rows on which F is measured."""
    fisher_batch_size: int = bounded(200, low=1)
    """Rows of one batch of the source Fisher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fisher != "source" or self.penalty_strength == 0:
            self.needs = frozenset({Need.UNLABELLED})  # type: ignore[misc]

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Scale and shift of the normalisation layers learn; the source is their anchor."""
        unlabelled("eata", info)
        several_rows("eata", info)
        self._adapted = Adapted(model, norm_weights("eata", model), self.update_rule, self.lr)
        self._anchor = self._adapted.copied()
        self._fisher: dict[str, Tensor] = {}
        self._n_measured = self._n_merged = 0
        self._mean: Tensor | None = None
        self._margin = self.entropy_margin * math.log(max(info.n_classes, 2))
        self._generator = generator(info.seed, "eata", "fisher")
        self._watch = Watch(info, model.device)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Figures are given for each experience; before the first one, F is measured on source rows."""
        if Need.SOURCE_DATA in self.needs:
            with by_batch_in(model):
                self._fisher = batch_fisher(model, source_rows("eata", experience), n_samples=self.n_samples,
                                            batch_size=self.fisher_batch_size, generator=self._generator)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The logits before the step, and a step on the rows that take part."""
        logits = batch_logits(model, x)
        answer = logits.detach()
        self._measure(logits)
        uncertainty = entropy(logits)
        chosen = self._chosen(answer, uncertainty.detach())
        self._watch.saw(x, answer)
        self._watch.add("adapted_rows", chosen.sum(), len(chosen))
        if chosen.any():
            kept = uncertainty[chosen]
            loss = ((self._margin - kept.detach()).exp() * kept).mean()
            if self._fisher and self.penalty_strength > 0:
                loss = loss + self.penalty_strength * quadratic(self._adapted.params, self._anchor, self._fisher)
            self._adapted.step(loss)
            mean = answer[chosen].softmax(1).mean(0)
            self._mean = mean if self._mean is None else 0.9 * self._mean + 0.1 * mean
        return answer

    def _chosen(self, logits: Tensor, uncertainty: Tensor) -> Tensor:
        """Which rows take part, bool [B]."""
        chosen = uncertainty < self._margin
        if self._mean is None:
            return chosen
        cosine = F.cosine_similarity(self._mean.unsqueeze(0), logits.softmax(1), dim=1)
        return chosen & (cosine.abs() < self.diversity_margin)

    def _measure(self, logits: Tensor) -> None:
        """Merge the first rows of the stream into the mean of their batch-Fisher."""
        if self.fisher != "stream" or self.penalty_strength == 0 or self._n_measured >= self.n_samples:
            return
        self._n_measured += len(logits)
        self._n_merged += 1
        for name, new in answer_fisher(logits, self._adapted.params).items():
            self._fisher[name] = self._fisher[name].lerp(new, 1 / self._n_merged) if name in self._fisher else new

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits with the statistics of these rows."""
        return batch_logits(model, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, mean entropy of the answers, and the part of rows that took part."""
        kept = n_bytes([*self._anchor.values(), *self._fisher.values()]) + self._adapted.n_bytes
        return {"memory_bytes": kept, **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, anchor, Fisher, running mean, counts and the generator."""
        return {"optimizer": self._adapted.state_dict(), "anchor": dict(self._anchor), "fisher": dict(self._fisher),
                "mean": self._mean, "n_measured": self._n_measured, "n_merged": self._n_merged,
                "generator": self._generator.get_state(), "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._adapted.load_state_dict(state["optimizer"])
        self._anchor = {name: value.to(model.device) for name, value in state["anchor"].items()}
        self._fisher = {name: value.to(model.device) for name, value in state["fisher"].items()}
        self._mean = None if state["mean"] is None else state["mean"].to(model.device)
        self._n_measured, self._n_merged = state["n_measured"], state["n_merged"]
        self._generator.set_state(state["generator"].cpu())
        self._watch.load_state_dict(state["watch"])
