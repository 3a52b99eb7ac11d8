"""Runs a strategy inside Lightning. Knows every hook and no strategy."""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.errors import Diverged
from cl_framework.evaluate import answer_online
from cl_framework.models import Model
from cl_framework.observer import Cursor
from cl_framework.recipe import Recipe
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, move


class Learner(L.LightningModule):
    """One `train` call of a strategy.

    It optimizes manually and takes a chunk of batches at a time, so that Lightning's cost is paid once a chunk.
    Backward is torch's own: Lightning's wrapper sets four attributes of the module a step, a tenth of the time of a
    small one, and none of the precisions on offer scales the loss.

    Args:
        strategy, model, recipe: what learns, what is trained, and how.
        cursor: how far the stream has got; advanced after every step.
        steps_per_epoch, n_steps: batches of one pass, and of the whole call.
        is_online: every row is answered before it is learned.
        on_start: called once the optimizer exists, to put a saved state back.
        on_chunk: called after every chunk with its losses, when nothing is in flight.
    """

    automatic_optimization = False

    def __init__(self, strategy: Strategy, model: Model, recipe: Recipe, cursor: Cursor, *, steps_per_epoch: int,
                 n_steps: int, is_online: bool, on_start: Callable[[Optimizer], None],
                 on_chunk: Callable[[Optimizer, Sequence[float]], None]) -> None:
        super().__init__()
        self.model = model
        self.strategy, self.recipe, self.cursor = strategy, recipe, cursor
        self.steps_per_epoch, self.n_steps, self.is_online = steps_per_epoch, n_steps, is_online
        self.online_hits = torch.zeros((), dtype=torch.int64)
        self.online_rows = 0
        self._on_start, self._on_chunk = on_start, on_chunk
        self._optimizer: Optimizer
        self._params: list[nn.Parameter]
        self._rates: list[float]

    def configure_optimizers(self) -> Optimizer:
        """The strategy's optimizer over all parameters of the model."""
        return self.strategy.optimizer(self.model.parameters(), self.recipe)

    def on_train_start(self) -> None:
        """Hold on to the optimizer, and put a saved state back."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        self._optimizer = optimizer
        self._params = list(self.model.parameters())
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.online_hits = self.online_hits.to(self.device)
        self._on_start(optimizer)

    def transfer_batch_to_device(self, batch: list[Batch], device: torch.device, dataloader_idx: int) -> list[Batch]:
        """Resident batches are where they should be; others are moved."""
        if batch[0].y.device == device:
            return batch
        return [Batch(move(b.raw, device), b.x, b.y.to(device), None if b.task is None else b.task.to(device))
                for b in batch]

    def training_step(self, chunk: Sequence[Batch], chunk_index: int) -> None:
        """Learn the batches of a chunk, one after the other."""
        losses = [self._step(batch) for batch in chunk]
        self._settle(torch.stack(losses).tolist())

    def _step(self, batch: Batch) -> Tensor:
        strategy, model = self.strategy, self.model
        for parameter in self._params:  # all of the model's, also those that the optimizer leaves alone
            parameter.grad = None
        if self.is_online:
            self.online_hits += self._hits_before_learning(batch)
            self.online_rows += len(batch.y)
        batch = strategy.prepare_batch(model, batch)
        batch = batch._replace(x=model.preprocess(batch.raw))
        output = model(batch.x)
        loss = strategy.loss(model, batch, output) + strategy.penalty(model, batch, output)
        loss.backward()
        strategy.after_backward(model)
        if self.recipe.clip is not None:
            self.clip_gradients(self._optimizer, self.recipe.clip, "norm")
        self._schedule()
        self._optimizer.step()
        strategy.after_step(model, batch, output)
        self._advance()
        return loss.detach()

    def _hits_before_learning(self, batch: Batch) -> Tensor:
        logits, allowed = answer_online(self.strategy, self.model, batch), self.model.allowed(batch.task)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        return (logits.argmax(1) == batch.y).sum()

    def _schedule(self) -> None:
        if self.recipe.scheduler == "constant":
            return
        done = self.cursor.epoch * self.steps_per_epoch + self.cursor.step
        factor = self.recipe.lr_factor(done, self.n_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _advance(self) -> None:
        self.cursor.stream_step += 1
        self.cursor.step += 1
        if self.cursor.step == self.steps_per_epoch:
            self.cursor.epoch, self.cursor.step = self.cursor.epoch + 1, 0

    def _settle(self, losses: list[float]) -> None:
        """Between chunks: refuse what is not finite, then tell the run."""
        for back, loss in enumerate(reversed(losses)):
            worst = len(losses) - 1 - back
            if not math.isfinite(loss) and all(math.isfinite(value) for value in losses[:worst]):
                step = self.cursor.stream_step - back
                raise Diverged(
                    f"the loss is {loss} at step {step} of the stream (experience {self.cursor.experience}); the run "
                    "stops and its last good checkpoint is kept. Try a lower train.lr, train.clip=1.0, or a weaker "
                    "penalty of the strategy"
                )
        self._on_chunk(self._optimizer, losses)


def finite_weights(state: dict[str, Any]) -> bool:
    """Whether every floating-point tensor of a model's state is finite."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
