"""The `train` calls of an experience: each is a fit of its own, and one that was interrupted goes on where it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from cl_framework import seeding
from cl_framework.batches import Chunks
from cl_framework.checkpoint import fitting
from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.hardware import interruptible
from cl_framework.learner import Learner
from cl_framework.nonfinite import Skips
from cl_framework.observer import Cursor
from cl_framework.recipe import carry_on
from cl_framework.stopping import reassert

if TYPE_CHECKING:
    from cl_framework.protocol import _Run

CHUNK = 16
"""Batches that are learned before anything is waited for or written."""


class Calls:
    """Numbers the `train` calls of one experience, and skips those that an interrupted run had finished."""

    def __init__(self, run: _Run, experience: Experience) -> None:
        self._run, self._experience, self._n = run, experience, 0

    def train(self, data: Dataset) -> None:
        """Run the recipe's epochs over `data`; without rows only a checkpoint is written, where one is due."""
        run, call = self._run, self._n
        self._n += 1
        if call < run.pending_call:
            return
        state = run.take_pending()
        if state is None:
            run.cursor = Cursor(run.cursor.experience, call, stream_step=run.cursor.stream_step)
            run.retries.begin(lambda: copy.deepcopy(run.state(None, is_inside=True)))
        else:
            run.cursor = Cursor(**state["cursor"])
            run.restore(state)
        recipe = run.recipe
        chunks = Chunks(data, recipe.batch_size, recipe.epochs, run.seed, run.cursor, CHUNK)
        run.observer.experience_started(self._experience, chunks.n_steps)
        if run.cursor.epoch < recipe.epochs and chunks.steps_per_epoch:
            run.retries.run(lambda state: self._fit(chunks, state), state, run.put_back, run.record)
        elif state is not None:
            seeding.restore(state["rng"])
        if not chunks.steps_per_epoch:
            run.pause(None, ())

    def _fit(self, chunks: Chunks, state: dict[str, Any] | None) -> None:
        run = self._run
        hits, rows = run.online_hits, run.online_rows

        def on_start(optimizer: Optimizer) -> None:
            reassert()
            with fitting():
                if state is not None and state["optimizer"] is not None:
                    optimizer.load_state_dict(state["optimizer"])
                elif run.carried is not None:
                    carry_on(optimizer, run.carried)
                if state is not None:
                    seeding.restore(state["rng"])

        def on_chunk(optimizer: Optimizer, losses: Sequence[float]) -> None:
            if run.info.is_online:
                run.online_hits, run.online_rows = hits + int(learner.online_hits), rows + learner.online_rows
            if not run.recipe.reset_optimizer:
                run.carried = optimizer.state_dict()
            run.pause(optimizer, losses)

        learner = Learner(run.strategy, run.model, run.recipe, run.cursor, steps_per_epoch=chunks.steps_per_epoch,
                          n_steps=chunks.n_steps, is_online=run.info.is_online and not run.info.is_language,
                          rate=run.retries.factor, skips=Skips(run.record), compiled=run.compiled, on_start=on_start,
                          on_chunk=on_chunk)
        run.model.train()
        with interruptible():
            run.hardware.trainer().fit(learner, train_dataloaders=chunks)
        run.model.to(run.device)
        run.model.zero_grad(set_to_none=True)
