"""Runs a strategy inside Lightning. Knows every hook and no strategy."""

from __future__ import annotations

import cl_framework._torchmetrics  # noqa: F401  (before lightning, torchmetrics)

# isort: split
import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.compiled import Compiled, explained
from cl_framework.errors import Diverged, PluginError
from cl_framework.evaluate import answer_online
from cl_framework.lockstep import learned
from cl_framework.models import Model
from cl_framework.nonfinite import Skips, Snapshot, are_finite, moments_of
from cl_framework.observer import Cursor
from cl_framework.recipe import Recipe
from cl_framework.strategy import NO_PENALTY, Strategy
from cl_framework.team import team
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
        rate: what the optimizer's learning rates are multiplied by.
        skips: where steps are noted that are left out.
        compiled: what answers whole batches, where the network is compiled.
        on_start: called once the optimizer exists, to put a saved state back.
        on_chunk: called after every chunk with its losses, when nothing is in flight.

    Attributes:
        optimizer: of the call; there is one from the start of training on.
    """

    automatic_optimization = False

    def __init__(self, strategy: Strategy, model: Model, recipe: Recipe, cursor: Cursor, *, steps_per_epoch: int,
                 n_steps: int, is_online: bool, rate: float, skips: Skips, compiled: Compiled | None,
                 on_start: Callable[[Optimizer], None], on_chunk: Callable[[Optimizer, Sequence[float]], None]) -> None:
        super().__init__()
        self.model = model
        self.strategy, self.recipe, self.cursor = strategy, recipe, cursor
        self.steps_per_epoch, self.n_steps, self.is_online = steps_per_epoch, n_steps, is_online
        self.rate, self.skips = rate, skips
        self.online_hits = torch.zeros((), dtype=torch.int64)
        self.online_rows = 0
        self._on_start, self._on_chunk = on_start, on_chunk
        self._team, self._compiled = team(), compiled
        self.optimizer: Optimizer
        self._params: list[nn.Parameter]
        self._floats: list[Tensor]
        self._rates: list[float]

    def configure_optimizers(self) -> Optimizer:
        """The strategy's optimizer over all parameters of the model."""
        return self.strategy.optimizer(self.model.parameters(), self.recipe)

    def on_train_start(self) -> None:
        """Hold on to the optimizer, and put a saved state back."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        self.optimizer = optimizer
        self._params = list(self.model.parameters())
        self._floats = [value for value in self.model.buffers() if value.is_floating_point()]
        self._rates = [group["lr"] * self.rate for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
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
        with explained():
            losses = self._sound(chunk) if self.recipe.on_nonfinite == "skip" else learned(self, chunk).tolist()
        self._settle(losses)

    def steps(self, chunk: Sequence[Batch]) -> Tensor:
        """Learn the batches of a chunk, one after the other; their losses, [n]."""
        return torch.stack([self._step(batch) for batch in chunk])

    def on_train_end(self) -> None:
        """A moment that overflowed would hold its weight still without a word."""
        if not bool(are_finite(moments_of(self.optimizer, self.device))):
            raise Diverged(f"the gradients exploded: the optimizer's moments are not finite at step "
                           f"{self.cursor.stream_step} of the stream (experience {self.cursor.experience}); the run "
                           "stops and its last good checkpoint is kept. Try a lower train.lr, or train.clip=1.0")

    def _sound(self, chunk: Sequence[Batch]) -> list[float]:
        """Learn a chunk without the steps that lead to what is not finite; the losses of the others."""
        before = Snapshot(self.model, self.strategy, self.optimizer, self.cursor)
        hits, rows, left_out = self.online_hits.clone(), self.online_rows, set[int]()
        while True:
            losses, flags = [], []
            for position, batch in enumerate(chunk):
                losses.append(self._pass_over(batch) if position in left_out else self._step(batch))
                kept = [*self._params, *self._floats, *moments_of(self.optimizer, self.device)]
                flags.append(are_finite([losses[-1], *kept]))
            settled, sound = torch.stack(losses).tolist(), torch.stack(flags).tolist()
            if all(sound):
                return [loss for position, loss in enumerate(settled) if position not in left_out]
            worst = sound.index(False)
            before.put_back()
            self.online_hits.copy_(hits)
            self.online_rows = rows
            fault = self._fault(settled[worst], worst + 1)
            if worst in left_out:
                raise Diverged(f"{fault}, though its rows were answered alone; the run stops and its last good "
                               "checkpoint is kept. Try a lower learning rate of the strategy")
            self.skips.note(self.cursor.stream_step + worst + 1, fault)
            left_out.add(worst)

    def _pass_over(self, batch: Batch) -> Tensor:
        """Answer the rows of an online stream, and learn nothing."""
        if self.is_online:
            answers = self._answers_before_learning(batch)
            self.online_hits += ((answers.argmax(1) == batch.y) & ~answers.isnan().any(1)).sum()
            self.online_rows += len(batch.y)
        self.advance()
        return torch.zeros((), device=self.device)

    def begun(self, batch: Batch) -> Batch:
        """Begin a step: no gradients, rows of an online stream answered; the rows to learn, not preprocessed yet.

        Raises:
            PluginError: the strategy leaves none.
        """
        strategy, model = self.strategy, self.model
        for parameter in self._params:  # all of the model's, also those that the optimizer leaves alone
            parameter.grad = None
        if self.is_online:
            self.online_hits += (self._answers_before_learning(batch).argmax(1) == batch.y).sum()
            self.online_rows += len(batch.y)
        batch = strategy.prepare_batch(model, batch)
        if not len(batch.y):
            raise PluginError(f"prepare_batch of {type(strategy).__name__} leaves an empty batch at step "
                              f"{self.cursor.stream_step + 1} of the stream (experience {self.cursor.experience}); it "
                              "returns at least one row")
        return batch

    def _step(self, batch: Batch) -> Tensor:
        strategy, model = self.strategy, self.model
        answering = model if self._compiled is None or len(batch.y) < self.recipe.batch_size else self._compiled
        batch = self.begun(batch)
        batch = batch._replace(x=model.preprocess(batch.raw))
        output = answering(batch.x) if self._team is None else self._team.forward(model, batch.x)
        loss, penalty = strategy.loss(model, batch, output), strategy.penalty(model, batch, output)
        if penalty is not NO_PENALTY:
            loss = loss + penalty
        loss.backward()
        if self._team is not None:
            self._team.average(self._params)
        strategy.after_backward(model)
        if self.recipe.clip is not None:
            self.clip_gradients(self.optimizer, self.recipe.clip, "norm")
        self.schedule()
        self.optimizer.step()
        strategy.after_step(model, batch, output)
        self.advance()
        return loss.detach()

    def _answers_before_learning(self, batch: Batch) -> Tensor:
        logits, allowed = answer_online(self.strategy, self.model, batch), self.model.allowed(batch.task)
        return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)

    def schedule(self) -> None:
        """Give the optimizer the learning rate of this step."""
        if self.recipe.scheduler == "constant":
            return
        done = self.cursor.epoch * self.steps_per_epoch + self.cursor.step
        factor = self.recipe.lr_factor(done, self.n_steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def advance(self) -> None:
        """One step is learned."""
        self.cursor.stream_step += 1
        self.cursor.step += 1
        if self.cursor.step == self.steps_per_epoch:
            self.cursor.epoch, self.cursor.step = self.cursor.epoch + 1, 0

    def _settle(self, losses: list[float]) -> None:
        """Between chunks: refuse what is not finite, then tell the run."""
        for back, loss in enumerate(reversed(losses)):
            worst = len(losses) - 1 - back
            if not math.isfinite(loss) and all(math.isfinite(value) for value in losses[:worst]):
                raise Diverged(f"{self._fault(loss, -back)}; the run stops and its last good checkpoint is kept. Try a "
                               "lower train.lr, train.clip=1.0, or a weaker penalty of the strategy")
        if self._team is not None:
            self._team.check(losses)
        self._on_chunk(self.optimizer, losses)

    def _fault(self, loss: float, ahead: int) -> str:
        """What is wrong with a step, counted from where the cursor is."""
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the update is not finite"
        return f"{what} at step {self.cursor.stream_step + ahead} of the stream (experience {self.cursor.experience})"


def finite_weights(state: dict[str, Any]) -> bool:
    """Whether every floating-point tensor of a model's state is finite."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
