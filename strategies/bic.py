"""BiC: rehearse and distil, then correct the bias towards the new classes with two numbers.

Stage 1 learns an experience's rows and the exemplars of the n old classes with the loss

    L = lambda L_d + (1 - lambda) L_c,      lambda = n / (n + m),

m being the number of classes that arrive, L_c the cross-entropy with the labels, and L_d the cross-entropy with the
old network's answer over the old classes, both softened by T. Stage 2 freezes everything and fits two numbers on rows
that were held back, equally many of each class,

    q_k = z_k for k old,      q_k = alpha z_k + beta for k new,      (alpha, beta) = argmin mean CE(q, y),

by L-BFGS in float64, from alpha = 1 and beta = 0. A term 0.0001/2 ((alpha - 1)^2 + beta^2) keeps the optimum finite
where the held-back rows are told apart without fault. The corrections of all experiences belong to the network from
then on: they are applied when it answers, when it is the teacher, and while it goes on learning.

Wu, Chen, Wang, Ye, Liu, Guo, Fu, "Large Scale Incremental Learning", CVPR 2019, arXiv 1905.13260, sections 3 to 5.

Choices:

- The release corrects the teacher's answers only, and answers with the last correction alone; here the network keeps
  every correction, so that teacher and student are one function when an experience begins.
- The release softens with a fixed T = 2 and, like here, does not multiply L_d by T^2.
- Exemplars are herded as in iCaRL, see `_exemplars.py`. Held back of each class are max(1, val_fraction * s) random
  rows, s being the smallest number of rows that a class has among exemplars and new rows (paper: 0.1).
- A class that comes again counts as new. Where no old class stays behind, as in the first experience and always in
  domain-incremental streams, nothing is distilled, held back or corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import cross_entropy
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo, move

from ._exemplars import ExemplarSets
from ._features import evaluating
from ._rows import joined
from ._teacher import frozen_copy, logits_of, n_bytes, restored_teacher, teacher_state, tensors_of

_RIDGE = 1e-4
_CHUNK = 512


@dataclass(kw_only=True, eq=False)
class BiC(Strategy):
    """Rehearses and distils, then rescales the new classes' logits."""

    memory_size: int = bounded(500, low=2)
    """Exemplars in all; at least two for each class of the stream, so that one can be held back."""
    temperature: float = tunable(2.0, 1.0, 2.0, 4.0, low=0.01)
    """Softening T of both answers in the distillation."""
    val_fraction: float = bounded(0.1, low=0.0, high=0.5)
    """Fraction of the smallest class's rows that is held back of each class."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """No exemplars, no teacher; every class is answered as it comes."""
        self._exemplars = ExemplarSets("BiC", self.memory_size, info, least=2)
        self._teacher: Model | None = None
        self._old: list[int] = []
        self._new: list[int] = []
        self._scale = torch.ones(info.n_classes, device=model.device)
        self._shift = torch.zeros(info.n_classes, device=model.device)
        self._held = torch.empty(0, dtype=torch.int64)
        self._generator = generator(info.seed, "bic", "held back")

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Choose the teacher and the rows to hold back."""
        self._new = list(experience.classes)
        self._old = [label for label in self._exemplars.classes if label not in self._new]
        self._teacher = frozen_copy(model) if self._old else None
        y = joined(experience.train, self._exemplars.rows).y.cpu()
        places = [(y == label).nonzero().squeeze(1) for label in y.unique().tolist()]
        n = max(1, int(self.val_fraction * min(map(len, places)))) if self._old else 0
        self._held = torch.cat([rows[torch.randperm(len(rows), generator=self._generator)[:n]] for rows in places])

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """The experience's rows and all exemplars, without those that are held back."""
        pool = joined(data, self._exemplars.rows)
        stays = torch.ones(len(pool), dtype=torch.bool)
        stays[self._held] = False
        return pool.subset(stays.nonzero().squeeze(1).to(pool.device))

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Cross-entropy and distillation, weighted by the numbers of new and of old classes."""
        logits = self._corrected(output.logits)
        learned = cross_entropy(logits, batch.y, model.allowed(batch.task))
        if self._teacher is None:
            return learned
        target = self._corrected(logits_of(self._teacher, batch.x))[:, self._old] / self.temperature
        distilled = F.cross_entropy(logits[:, self._old] / self.temperature, target.softmax(1))
        weight = len(self._old) / (len(self._old) + len(self._new))
        return weight * distilled + (1 - weight) * learned

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Fit the correction on the rows held back, then choose exemplars."""
        if len(self._held):
            pool = joined(experience.train, self._exemplars.rows)
            rows = pool.subset(self._held.to(pool.device))
            with evaluating(model):
                logits = torch.cat([self.predict(model, model.preprocess(move(batch.raw, model.device)), None)
                                    for batch in rows.batches(_CHUNK)])
            is_new = torch.zeros(logits.shape[1], dtype=torch.bool)
            is_new[self._new] = True
            met = sorted(self._old + self._new)
            rank = torch.zeros(logits.shape[1], dtype=torch.int64)
            rank[met] = torch.arange(len(met))
            alpha, beta = fit_bias(logits.cpu()[:, met], rank[rows.y.cpu()], is_new[met])
            self._scale[self._new] *= alpha
            self._shift[self._new] = alpha * self._shift[self._new] + beta
            self._held = torch.empty(0, dtype=torch.int64)
        self._exemplars.after_experience(model, experience)

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The network's logits with the corrections so far."""
        return self._corrected(super().predict(model, x, task))

    def metrics(self) -> Mapping[str, float]:
        """Bytes of exemplars, teacher and corrections."""
        kept = n_bytes([self._scale, self._shift, self._held, *tensors_of(self._teacher)])
        return {"memory_bytes": self._exemplars.n_bytes + kept}

    def state_dict(self) -> dict[str, Any]:
        """Exemplars, teacher, corrections, the rows held back and the generator."""
        return {"exemplars": self._exemplars.state_dict(), "teacher": teacher_state(self._teacher),
                "old": list(self._old), "new": list(self._new), "scale": self._scale.clone(),
                "shift": self._shift.clone(), "held": self._held, "generator": self._generator.get_state()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._exemplars.load_state_dict(model, state["exemplars"])
        self._teacher = restored_teacher(model, state["teacher"])
        self._old, self._new = list(state["old"]), list(state["new"])
        self._scale, self._shift = state["scale"].to(model.device), state["shift"].to(model.device)
        self._held = state["held"].cpu()
        self._generator.set_state(state["generator"].cpu())

    def _corrected(self, logits: Tensor) -> Tensor:
        n = logits.shape[1]
        return logits * self._scale[:n] + self._shift[:n]


@torch.enable_grad()
def fit_bias(logits: Tensor, y: Tensor, is_new: Tensor) -> tuple[float, float]:
    """alpha and beta that minimise the mean cross-entropy of corrected logits, with a small pull towards 1 and 0.

    Args:
        logits: [V, C].
        y: columns of the right answers, int64 [V].
        is_new: which columns are corrected, bool [C].
    """
    logits = logits.double()
    point = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    start = point.detach().clone()
    solver = torch.optim.LBFGS([point], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12,
                               line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        corrected = torch.where(is_new, point[0] * logits + point[1], logits)
        value = F.cross_entropy(corrected, y) + _RIDGE / 2 * (point - start).square().sum()
        value.backward()
        return value

    solver.step(closure)
    alpha, beta = point.tolist()
    return alpha, beta
