"""iCaRL: rehearse a few exemplars of each class, distil the old network, answer by the nearest mean of exemplars.

An experience's rows are learned together with the exemplars of all classes met before. Every class has a sigmoid of
its own; the classes that arrive are learned from the labels, the others from what the network answered before,

    L = -mean_i [ sum_{y new}  1[y = y_i] log g_y(x_i) + 1[y != y_i] log(1 - g_y(x_i))
                + sum_{y old}  q_y(x_i) log g_y(x_i) + (1 - q_y(x_i)) log(1 - g_y(x_i)) ],    g_y = sigmoid(z_y),

q being the old network's sigmoids. Then m = memory_size // (classes met) exemplars are herded from each class that
arrived,

    p_k = argmin_x || mu - 1/k (phi(x) + sum_{j<k} phi(p_j)) ||,

older sets are cut to their first m, and a row is answered with the class whose exemplars' mean lies nearest,
y* = argmin_y ||phi(x) - mu_y||. All features phi, and the means mu_y at the end, have length 1.

Rebuffi, Kolesnikov, Sperl, Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
arXiv 1611.07725 (equations 2 and 4, algorithms 1 to 5).

Choices:

- The sum over classes is the paper's; its release takes the mean over classes as well (`reduction=mean`, and a
  learning rate of 2).
- q is computed on the augmented rows that the network sees, in evaluation mode, not once for each stored row.
- mu in the herding is the plain mean of normalised features, as in the release and in Avalanche.
- Features for herding and means are those of rows without augmentation (the release averages in mirrored images).
- A class that comes again is learned from its labels and not distilled; it is herded anew from its exemplars and its
  new rows. Where all classes come again (domain-incremental), nothing is distilled.
- Task labels are stored with the rows, but neither loss nor answer looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.fields import bounded
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo

from ._exemplars import ExemplarSets
from ._features import features_of, logits_over
from ._rows import joined
from ._teacher import frozen_copy, logits_of, n_bytes, restored_teacher, teacher_state, tensors_of


@dataclass(kw_only=True, eq=False)
class ICaRL(Strategy):
    """Rehearses herded exemplars, distils the old network, answers by the nearest mean."""

    memory_size: int = bounded(500, low=1)
    """Exemplars in all; at least one for each class of the stream (2000 in the paper)."""
    classifier: Literal["nearest_mean", "network"] = "nearest_mean"
    """Who answers: the means of exemplars, or the network's own logits (the paper's hybrid1)."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of the loss over classes: the paper's sum, or the mean of its release and of much code (with a larger
    train.lr)."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """There are no exemplars, means or old classes yet."""
        self._exemplars = ExemplarSets("ICaRL", self.memory_size, info)
        self._teacher: Model | None = None
        self._old: list[int] = []
        self._known: list[int] = []
        self._means = torch.empty(0, device=model.device)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The teacher is the network as it is, if it knows classes that do not arrive now."""
        self._old = [label for label in self._known if label not in experience.classes]
        self._teacher = frozen_copy(model) if self._old else None

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """The experience's rows and all exemplars."""
        return joined(data, self._exemplars.rows)

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Binary cross-entropy with labels and, for the old classes, with the teacher's answers."""
        target = F.one_hot(batch.y, output.logits.shape[1]).to(output.logits)
        if self._teacher is not None:
            target[:, self._old] = logits_of(self._teacher, batch.x).sigmoid()[:, self._old]
        loss = F.binary_cross_entropy_with_logits(output.logits, target)
        return loss * output.logits.shape[1] if self.reduction == "sum" else loss

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Herd, cut, and average the exemplars of every class."""
        self._exemplars.after_experience(model, experience)
        assert self._exemplars.rows is not None
        self._known = self._exemplars.classes
        features, y = F.normalize(features_of(model, self._exemplars.rows)), self._exemplars.rows.y
        self._means = F.normalize(torch.stack([features[y == label].mean(0) for label in self._known]))

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Minus the squared distance to each mean; the network's logits until there are means."""
        if self.classifier == "network" or not self._known:
            return super().predict(model, x, task)
        features = F.normalize(model(x).features)
        distances = torch.cdist(features, self._means, compute_mode="donot_use_mm_for_euclid_dist")
        return logits_over(-distances.square(), self._known, model.n_seen)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of exemplars, means and teacher."""
        return {"memory_bytes": self._exemplars.n_bytes + n_bytes([self._means, *tensors_of(self._teacher)])}

    def state_dict(self) -> dict[str, Any]:
        """Exemplars, means, teacher, and which classes are old."""
        return {"exemplars": self._exemplars.state_dict(), "teacher": teacher_state(self._teacher),
                "means": self._means, "known": list(self._known), "old": list(self._old)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._exemplars.load_state_dict(model, state["exemplars"])
        self._teacher = restored_teacher(model, state["teacher"])
        self._means = state["means"].to(model.device)
        self._known, self._old = list(state["known"]), list(state["old"])
