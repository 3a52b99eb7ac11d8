"""Deep SLDA: linear discriminant analysis over the features of a frozen network, updated row by row.

Each class has a running mean, and all share a covariance. A row z of class k, of which c were seen before, makes

    Delta = c / (c + 1) (z - mu_k)(z - mu_k)^T,      mu_k <- (c mu_k + z) / (c + 1),      S <- S + Delta,

so that Sigma = S / n is the covariance within the classes of all n rows. The answer is linear in z,

    Lambda = ((1 - eps) Sigma + eps I)^{-1},      w_k = Lambda mu_k,      b_k = -1/2 mu_k^T Lambda mu_k,

and is solved for after each experience by a Cholesky factorisation.

Hayes & Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR Workshops 2020,
arXiv 1909.01520, section 3.

Choices:

- Delta has the class's own count c where the paper (and its release, and Avalanche) has the count t of all rows. Then
  Sigma is exact, and neither the order of rows nor their batches matter; theirs counts the first row of each class
  as a deviation from 0. Avalanche also begins with a Sigma of ones, which the first row removes.
- `body=first` is the paper's base initialisation: the network is trained on the first experience, and its statistics
  are then taken in like any others. `body=frozen` is for a network that comes trained.
- Statistics are kept in float64, of rows in evaluation mode without augmentation. Until there are any, the network's
  logits answer. Nothing is trained after the first experience, so on an online stream there is no online accuracy
  from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.fields import tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, StreamInfo

from ._features import Body, ClassMeans, features_of, logits_over
from ._teacher import n_bytes


@dataclass(kw_only=True, eq=False)
class SLDA(Strategy):
    """Answers by linear discriminant analysis of streamed features."""

    body: Body = "first"
    """The network below: trained on the first experience alone, or frozen as it is given."""
    shrinkage: float = tunable(1e-4, 1e-4, 1e-3, 1e-2, 1e-1, low=1e-12, high=1.0)
    """How far eps the covariance is shrunk towards the identity."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """No class has a mean yet."""
        n_features, device = model.head.weight.shape[1], model.device
        self._classes = ClassMeans(info.n_classes, n_features, device)
        self._scatter = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)
        self._weight = torch.zeros(0, n_features, dtype=torch.float64, device=device)
        self._bias = torch.zeros(0, dtype=torch.float64, device=device)

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Train the body in the first experience, if it is to be."""
        if self.body == "first" and not self._classes.known:
            train(data)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Take the experience's features in, and solve."""
        self._add(features_of(model, experience.train).double(), experience.train.y.to(model.device))
        self._solve()

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """W z + b; the network's logits until there are means."""
        if not self._classes.known:
            return super().predict(model, x, task)
        scores = model(x).features.double() @ self._weight.T + self._bias
        return logits_over(scores, self._classes.known, model.n_seen).float()

    def metrics(self) -> Mapping[str, float]:
        """Bytes of means, counts, covariance and the solution."""
        return {"memory_bytes": n_bytes([*self._classes.tensors, self._scatter, self._weight, self._bias])}

    def state_dict(self) -> dict[str, Any]:
        """Means, counts, scatter and the solution."""
        return {"classes": self._classes.state_dict(), "scatter": self._scatter.clone(), "weight": self._weight,
                "bias": self._bias}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._classes.load_state_dict(state["classes"])
        self._scatter.copy_(state["scatter"])
        self._weight, self._bias = state["weight"].to(model.device), state["bias"].to(model.device)

    def _add(self, rows: Tensor, y: Tensor) -> None:
        """Welford's update for a batch: the sum of (z - old mean)(z - new mean)^T is the sum of its Deltas."""
        from_old = rows - self._classes.means[y]
        self._classes.add(rows, y)
        self._scatter += from_old.T @ (rows - self._classes.means[y])

    def _solve(self) -> None:
        known, n_features = self._classes.known, len(self._scatter)
        means, total = self._classes.means[known], self._classes.counts.sum()
        sigma = (self._scatter + self._scatter.T) / (2 * total)
        shrunk = (1 - self.shrinkage) * sigma + self.shrinkage * torch.eye(n_features).to(sigma)
        self._weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(shrunk)).T.contiguous()
        self._bias = -0.5 * (means * self._weight).sum(1)
