"""The chunks of several runs learned at once: `launcher=vector`.

One step of S runs of one configuration, each with its own strategy, model and rows:

    rows_s    = prepare_batch, preprocess                       run by run
    z         = network over [S, B, ...]                        at once
    L         = sum_s loss(z_s, y_s) + penalty_s                at once where the loss is the model's own
    dL/dtheta = one backward pass; after_backward               at once; run by run
    theta     = clip, one optimizer over [S, ...]; after_step   at once; run by run

The gradient of L with respect to the weights of run s is that of its own loss alone, since no run's loss depends on
another's weights. Products of matrices are summed in another order than alone, so numbers agree to rounding. Hooks see
their own model and gradients, and torch's global generator as it is alone; those of numpy and Python are not theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.chain import defines
from cl_framework.learner import Learner
from cl_framework.lockstep import Ask
from cl_framework.models import Model
from cl_framework.preprocess import Preprocess
from cl_framework.stacked_layers import Network
from cl_framework.stacked_optimizer import StackedOptimizer
from cl_framework.stacked_weights import Unlike, Weights
from cl_framework.types import Batch, Output


def obstacle(model: Model) -> str | None:
    """Why models like this one cannot be trained together; None where they can.

    Args:
        model: one of them.
    """
    if type(model) is not Model or model.adapter is not None or type(model.preprocess) is not Preprocess:
        return "its model is no plain network with a classifier"
    try:
        weights = Weights([model])
        Network([model], weights, lambda _: torch.no_grad())
    except Unlike as why:
        return str(why)
    return None


class Vector:
    """Answers those that wait in lockstep: together where they are alike, else one after the other."""

    def __init__(self) -> None:
        self._group: _Group | None = None
        self._unlike: list[Learner] = []

    def __call__(self, asks: Sequence[Ask]) -> None:
        """Learn the chunks."""
        learners = [ask.learner for ask in asks if isinstance(ask.learner, Learner)]
        if 1 < len(asks) == len(learners) and _are_alike([ask.chunk for ask in asks]) and self._has_met(learners):
            assert self._group is not None
            self._group.learn(asks)
            return
        for ask in asks:
            ask.alone()

    def _has_met(self, learners: list[Learner]) -> bool:
        """Whether the networks are stacked, now or before; a strategy may have made them unlike."""
        if self._unlike == learners:
            return False
        if self._group is None or self._group.learners != learners:
            try:
                self._group = _Group(learners)
            except Unlike:
                self._unlike = learners
                return False
        return True


def _are_alike(chunks: Sequence[Sequence[Batch]]) -> bool:
    """Whether the batches of all chunks are tensors of the same shapes."""
    return len({tuple(batch.raw.shape if isinstance(batch.raw, Tensor) else None for batch in chunk)
                for chunk in chunks}) == 1


class _Group:
    """Runs within one `train` call of each."""

    def __init__(self, learners: list[Learner]) -> None:
        self.learners = learners
        self._asks: Sequence[Ask] = ()
        self._strategies = [learner.strategy for learner in learners]
        self._models = [learner.model for learner in learners]
        self._weights = Weights(self._models)
        self._network = Network(self._models, self._weights, self._drawing)
        parts = self._strategies[0].parts()
        self._own = {hook for hook in ("prepare_batch", "loss", "penalty", "after_backward", "after_step", "optimizer")
                     if any(defines(part, hook) for part in parts)}
        self._is_watched = bool(self._own) or learners[0].is_online
        self._augments = self._models[0].preprocess.augment != "none"
        recipe = learners[0].recipe
        self._optimizer = StackedOptimizer([learner.optimizer for learner in learners], self._weights,
                                           None if "optimizer" in self._own else recipe)
        self._clip = recipe.clip

    def _drawing(self, s: int) -> AbstractContextManager[None]:
        return self._asks[s].drawing()

    def learn(self, asks: Sequence[Ask]) -> None:
        """Learn a chunk of each run."""
        self._asks = asks
        self._weights.place_buffers()
        self._optimizer.take()
        losses = torch.stack([self._step(batches) for batches in zip(*(ask.chunk for ask in asks), strict=True)])
        self._optimizer.give()
        for ask, own in zip(asks, losses.unbind(1), strict=True):
            ask.losses = own

    def _step(self, given: Sequence[Batch]) -> Tensor:
        """One step of each run; the losses, [S]."""
        weights = self._weights
        batches, rows = self._begun(given)
        outputs, losses = self._answered(batches, rows)
        with weights.collecting():
            losses.sum().backward()
        is_whole = weights.gather() if self._is_watched else True
        if "after_backward" in self._own:
            for s, (strategy, model) in enumerate(zip(self._strategies, self._models, strict=True)):
                with self._drawing(s):
                    strategy.after_backward(model)
            is_whole = weights.regather()
        if self._clip is not None:
            self._clipped(self._clip, is_whole=is_whole)
        for learner in self.learners:
            learner.schedule()
        if self._own - {"prepare_batch", "after_step"}:
            weights.place()
        self._optimizer.step(is_whole=is_whole, is_watched=self._is_watched)
        if "after_step" in self._own:
            for s, (strategy, model) in enumerate(zip(self._strategies, self._models, strict=True)):
                with self._drawing(s):
                    strategy.after_step(model, batches[s], outputs[s])
        for learner in self.learners:
            learner.advance()
        return losses.detach()

    def _begun(self, given: Sequence[Batch]) -> tuple[list[Batch], Tensor | None]:
        """The rows that each run learns, preprocessed; and as one tensor [S, B, ...] where they are of one shape."""
        batches = list(given)
        if self._is_watched:
            for s, learner in enumerate(self.learners):
                with self._drawing(s):
                    batches[s] = learner.begun(batches[s])
        raws = [batch.raw for batch in batches if isinstance(batch.raw, Tensor)]
        is_one_shape = len({raw.shape for raw in raws}) == 1
        if is_one_shape and not self._augments:
            raw = torch.stack(raws)
            seen = self._models[0].preprocess(raw.flatten(0, 1)).view(raw.shape)
            return [batch._replace(x=x) for batch, x in zip(batches, seen.unbind(0), strict=True)], seen
        xs = []
        for s, (model, batch) in enumerate(zip(self._models, batches, strict=True)):
            with self._drawing(s):
                xs.append(model.preprocess(batch.raw))
        made = [batch._replace(x=x) for batch, x in zip(batches, xs, strict=True)]
        return made, torch.stack(xs) if is_one_shape else None

    def _answered(self, batches: Sequence[Batch], rows: Tensor | None) -> tuple[list[Output], Tensor]:
        """What each model says of its rows, and each run's loss with its penalty, [S]."""
        self._weights.place()
        if rows is None:
            outputs = []
            for s, (model, batch) in enumerate(zip(self._models, batches, strict=True)):
                with self._drawing(s):
                    outputs.append(model(batch.x))
            return outputs, self._penalised(batches, outputs, self._losses(batches, outputs))
        self._weights.join(is_watched=self._is_watched)
        logits, features = self._network(rows)
        if not self._is_watched:
            return [], self._cross_entropies(batches, logits)
        outputs = [Output(*pair) for pair in zip(logits.unbind(0), features.unbind(0), strict=True)]
        losses = self._losses(batches, outputs) if "loss" in self._own else self._cross_entropies(batches, logits)
        return outputs, self._penalised(batches, outputs, losses)

    def _cross_entropies(self, batches: Sequence[Batch], logits: Tensor) -> Tensor:
        """The mean cross-entropy of each run over what its model allows, [S]; logits [S, B, C]."""
        allowed = [mask for model, batch in zip(self._models, batches, strict=True)
                   if (mask := model.allowed(batch.task)) is not None]
        if allowed:
            logits = logits.masked_fill(~torch.stack(allowed), -torch.inf)
        y = torch.cat([batch.y for batch in batches])
        return F.cross_entropy(logits.flatten(0, 1), y, reduction="none").view(logits.shape[:2]).mean(1)

    def _losses(self, batches: Sequence[Batch], outputs: Sequence[Output]) -> Tensor:
        losses = []
        for s, (strategy, model) in enumerate(zip(self._strategies, self._models, strict=True)):
            with self._drawing(s):
                losses.append(strategy.loss(model, batches[s], outputs[s]))
        return torch.stack(losses)

    def _penalised(self, batches: Sequence[Batch], outputs: Sequence[Output], losses: Tensor) -> Tensor:
        if "penalty" not in self._own:
            return losses
        penalties = []
        for s, (strategy, model) in enumerate(zip(self._strategies, self._models, strict=True)):
            with self._drawing(s):
                penalties.append(strategy.penalty(model, batches[s], outputs[s]).to(losses.device))
        return losses + torch.stack(penalties)

    def _clipped(self, limit: float, *, is_whole: bool) -> None:
        if is_whole:
            self._weights.clip(limit)
            return
        for learner in self.learners:
            learner.clip_gradients(learner.optimizer, limit, "norm")
