"""Test-time batch statistics: normalise with what the stream shows, and learn nothing else.

Every layer of batch normalisation uses m = (1 - a) m_source + a m_batch, and the same mixture of variances:

- `batch`: a = 1, the statistics of the batch alone (BN-1). Nado et al., "Evaluating Prediction-Time Batch Normalization
  for Robustness under Covariate Shift", 2020, arXiv 2006.10963.
- `mixed`: a fixed a, or a = B / (B + N) where `prior_rows` is N. Schneider et al., "Improving robustness against common
  corruptions by covariate shift adaptation", NeurIPS 2020, arXiv 2006.16971, equation 2.
- `moving`: the mixture takes the place of m_source after each batch, a moving average over the stream.

A batch's variance is the biased one; torch's own moving average, which released code uses for `moving`, takes the
unbiased one. With `batch` and `mixed`, held-out rows are answered with the statistics of the rows that they are asked
with, so an answer depends on the rows beside it; with `moving` it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo, n_rows

from ._adaptation import several_rows, unlabelled
from ._statistics import BESIDE, Rule, batch_norms, by_batch, by_source, mixed, moving, normalised_by
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class BNStats(Strategy):
    """Replaces the statistics of batch normalisation by those of the stream."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    statistics: Literal["batch", "mixed", "moving"] = "batch"
    """Of the batch alone, mixed with those of the source, or a moving average over the stream."""
    alpha: float = tunable(0.1, 0.01, 0.05, 0.1, 0.3, low=0.0, high=1.0)
    """Weight a of the batch, of `mixed` and `moving`."""
    prior_rows: int | None = bounded(None, low=0)
    """Rows N that the source statistics count for, of `mixed`: a is then B / (B + N). Null takes `alpha`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics == "moving":
            self.known_failures = {}  # type: ignore[misc]

    def setup(self, model: Model, info: StreamInfo) -> None:
        """The model stays as it is; `moving` changes its running statistics."""
        unlabelled("bn_stats", info)
        if self.statistics == "batch":
            several_rows("bn_stats", info)
        if not batch_norms(model):
            raise ConfigError("bn_stats replaces the statistics of batch normalisation, and this model has none; set "
                              "model=cnn, model=slim_resnet18 or model.norm=batch (of mlp)")
        self._watch = Watch(info, model.device)

    @torch.no_grad()
    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """Logits with the statistics of this batch in."""
        rule = moving(self.alpha) if self.statistics == "moving" else self._rule(x)
        logits = self._logits(model, x, rule)
        self._watch.saw(x, logits)
        return logits

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits with the statistics of these rows, or the moving ones."""
        return self._logits(model, x, self._rule(x))

    def metrics(self) -> Mapping[str, float]:
        """Mean entropy of the answers."""
        return self._watch.metrics()

    def state_dict(self) -> dict[str, Any]:
        """What was counted; the moving statistics are the model's."""
        return {"watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._watch.load_state_dict(state["watch"])

    def _rule(self, x: Inputs) -> Rule:
        """How rows are normalised without learning from them."""
        if self.statistics == "batch":
            return by_batch
        if self.statistics == "moving":
            return by_source
        return mixed(self.alpha if self.prior_rows is None else n_rows(x) / (n_rows(x) + self.prior_rows))

    @staticmethod
    def _logits(model: Model, x: Inputs, rule: Rule) -> Tensor:
        with normalised_by(model, rule):
            logits: Tensor = model(x).logits
        return logits
