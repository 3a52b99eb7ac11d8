"""TENT: minimise the entropy of the answers by the scale and shift of normalisation layers.

For every batch the model answers with the statistics of the batch, and takes a step of

    L = (1/B) sum_b H(p(x_b; theta)),    H(p) = -sum_c p_c log p_c

over the scales and shifts alone. Wang, Shelhamer, Liu, Olshausen and Darrell, "Tent: Fully Test-Time Adaptation by
Entropy Minimization", ICLR 2021, arXiv 2006.10726, section 3.

The answer to a batch is the one before its first step (with `n_steps` above 1 the released code gives the one before
the last). Layer and group normalisation take part too. Held-out rows are answered with the statistics of the rows that
they are asked with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import Adapted, batch_logits, entropy, norm_weights, several_rows, unlabelled
from ._statistics import BESIDE
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class Tent(Strategy):
    """Makes its answers to the stream more certain."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})
    known_failures: ClassVar[Mapping[str, str]] = BESIDE

    lr: float = tunable(1e-3, 1e-4, 2.5e-4, 1e-3, 3e-3, low=0.0)
    """Learning rate; the paper has 1e-3 with adam for small images, 2.5e-4 with sgd for ImageNet."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; sgd has momentum 0.9."""
    n_steps: int = bounded(1, low=1)
    """Steps on each batch."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Scale and shift of the normalisation layers learn, nothing else."""
        unlabelled("tent", info)
        several_rows("tent", info)
        self._adapted = Adapted(model, norm_weights("tent", model), self.update_rule, self.lr)
        self._watch = Watch(info, model.device)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The logits before the first step, and the steps."""
        first = None
        for _ in range(self.n_steps):
            logits = batch_logits(model, x)
            first = logits.detach() if first is None else first
            self._adapted.step(entropy(logits).mean())
        assert first is not None
        self._watch.saw(x, first)
        return first

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits with the statistics of these rows."""
        return batch_logits(model, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the optimizer, and mean entropy of the answers."""
        return {"memory_bytes": self._adapted.n_bytes, **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer and what was counted."""
        return {"optimizer": self._adapted.state_dict(), "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._adapted.load_state_dict(state["optimizer"])
        self._watch.load_state_dict(state["watch"])
