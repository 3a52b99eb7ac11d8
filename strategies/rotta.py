"""RoTTA: robust normalisation, a balanced memory, and a teacher, for streams whose rows are correlated.

Layers of batch normalisation keep moving statistics, m <- (1 - a) m + a m_batch, instead of trusting one batch. The
teacher theta' answers each row with its own moving statistics; the row enters a class-balanced memory bank. After every
`update_every` rows the student learns the bank from the teacher,

    L = mean_i w(A_i) CE(p(x_i; theta'), p(view(x_i); theta)),    w(A) = exp(-A) / (1 + exp(-A)),

A_i being the row's age over the bank's size, in scale and shift of the normalisation layers; then theta' <- (1 - nu)
theta' + nu theta. Yuan, Xie and Li, "Robust Test-Time Adaptation in Dynamic Scenarios", CVPR 2023, arXiv 2303.13899,
equations 2 to 9, and the authors' code: both networks move their statistics when the bank is learned, and at no other
time; rows of the bank are mixed with the statistics in place, the gradient flows through the batch's part.

Dropout stays off while the bank is learned. Held-out rows are answered by the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo

from ._adaptation import Adapted, entropy, meet_classes, norm_weights, soft_cross_entropy, unlabelled
from ._bank import Bank
from ._statistics import batch_norms, moving, normalised_by
from ._teacher import frozen_copy, logits_of, n_bytes, restored_teacher, teacher_state, tensors_of
from ._views import Views
from ._watch import Watch


@dataclass(kw_only=True, eq=False)
class RoTTA(Strategy):
    """Learns a balanced memory of the stream from a teacher, with moving statistics."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED})

    lr: float = tunable(1e-3, 1e-4, 3e-4, 1e-3, low=0.0)
    """Learning rate."""
    update_rule: Literal["adam", "sgd", "nesterov"] = "adam"
    """Update rule; sgd has momentum 0.9."""
    alpha: float = tunable(0.05, 0.01, 0.05, 0.1, low=0.0, high=1.0)
    """Weight a of a batch in the moving statistics."""
    nu: float = tunable(0.001, 0.0001, 0.001, 0.01, low=0.0, high=1.0)
    """How far the teacher follows the student at each update."""
    capacity: int = bounded(64, low=1)
    """Rows of the memory bank."""
    update_every: int = bounded(64, low=1)
    """Rows of the stream between two updates."""
    timeliness: float = bounded(1.0, low=0.0)
    """Weight of age in the score by which rows leave the bank."""
    certainty: float = bounded(1.0, low=0.0)
    """Weight of entropy in that score."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """The teacher is a copy of the model; the bank is empty."""
        unlabelled("rotta", info)
        if not batch_norms(model):
            raise ConfigError("rotta moves the statistics of batch normalisation, and this model has none; set "
                              "model=cnn, model=slim_resnet18 or model.norm=batch (of mlp)")
        self._teacher: Model | None = frozen_copy(model)
        self._adapted = Adapted(model, norm_weights("rotta", model), self.update_rule, self.lr)
        self._bank = Bank(self.capacity, info.n_classes, self.timeliness, self.certainty)
        self._views = Views(info, model.device, "rotta")
        self._watch = Watch(info, model.device)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Figures are given for each experience."""
        meet_classes(model, self._teacher)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The teacher's logits; then the rows enter the bank, which is learned whenever it is due."""
        assert self._teacher is not None and isinstance(x, Tensor)
        answer = logits_of(self._teacher, x)
        self._watch.saw(x, answer)
        uncertainty = torch.where(answer.isfinite().all(1), entropy(answer), torch.inf)
        labels = answer.argmax(1).tolist()
        for row, label, value in zip(x, labels, uncertainty.tolist(), strict=True):
            self._bank.offer(row, label, value)
            if self._bank.n_offered % self.update_every == 0:
                self._learn(model)
        return answer

    def _learn(self, model: Model) -> None:
        assert self._teacher is not None
        rows, ages = self._bank.rows()
        views = self._views(rows)
        with normalised_by(self._teacher, moving(self.alpha)):
            target = logits_of(self._teacher, rows)
        with normalised_by(model, moving(self.alpha)):
            logits = model(views).logits
        self._adapted.step(((-ages).sigmoid() * soft_cross_entropy(logits, target)).mean())
        own = norm_weights("rotta", self._teacher)
        with torch.no_grad():
            torch._foreach_lerp_(list(own.values()), list(self._adapted.params.values()), self.nu)

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The teacher's logits with its moving statistics."""
        assert self._teacher is not None
        return logits_of(self._teacher, x)

    def metrics(self) -> Mapping[str, float]:
        """Bytes kept, rows in the bank, and mean entropy of the answers."""
        kept = n_bytes(tensors_of(self._teacher)) + self._bank.n_bytes + self._adapted.n_bytes
        return {"memory_bytes": kept, "bank_rows": len(self._bank), **self._watch.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Teacher, optimizer, bank, generators and what was counted; the student's statistics are the model's."""
        return {"teacher": teacher_state(self._teacher), "optimizer": self._adapted.state_dict(),
                "bank": self._bank.state_dict(), "views": self._views.state_dict(), "watch": self._watch.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._teacher = restored_teacher(model, state["teacher"])
        self._adapted.load_state_dict(state["optimizer"])
        self._bank.load_state_dict(state["bank"], model.device)
        self._views.load_state_dict(state["views"])
        self._watch.load_state_dict(state["watch"])
