"""Nearest class mean: average the features of each class, answer with the nearest average.

    mu_y = (1 / n_y) sum_{i: y_i = y} phi(x_i),      y*(x) = argmin_y || phi(x) - mu_y ||.

The means are running ones, so no row is kept, and the body never changes once there are means, so they never age.

Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero
Cost", TPAMI 2013 (without the learned metric). With `normalize`, features and means have length 1 as in
Rebuffi et al., "iCaRL", CVPR 2017, section 2.1.

Rows are averaged in evaluation mode and without augmentation. Until there are means the network's logits answer.
Nothing is trained after the first experience, so on an online stream there is no online accuracy from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, StreamInfo

from ._features import Body, ClassMeans, features_of, logits_over
from ._teacher import n_bytes


@dataclass(kw_only=True, eq=False)
class NCM(Strategy):
    """Answers with the class whose mean feature is nearest."""

    body: Body = "first"
    """The network below: trained on the first experience alone, or frozen as it is given."""
    normalize: bool = False
    """Features and means of length 1."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """No class has a mean yet."""
        self._classes = ClassMeans(info.n_classes, model.head.weight.shape[1], model.device)

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Train the body in the first experience, if it is to be."""
        if self.body == "first" and not self._classes.known:
            train(data)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Take the experience's features into the means."""
        features = features_of(model, experience.train)
        if self.normalize:
            features = F.normalize(features)
        self._classes.add(features.double(), experience.train.y.to(model.device))

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Minus the squared distance to each mean; the network's logits until there are means."""
        known = self._classes.known
        if not known:
            return super().predict(model, x, task)
        features, means = model(x).features.double(), self._classes.means[known]
        if self.normalize:
            features, means = F.normalize(features), F.normalize(means)
        distances = torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")
        return logits_over(-distances.square(), known, model.n_seen).float()

    def metrics(self) -> Mapping[str, float]:
        """Bytes of means and counts."""
        return {"memory_bytes": n_bytes(self._classes.tensors)}

    def state_dict(self) -> dict[str, Any]:
        """Means and counts."""
        return self._classes.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._classes.load_state_dict(state)
