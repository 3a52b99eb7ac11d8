"""The run loop: a strategy learns a stream, experience by experience, and can be taken up at any step."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from cl_framework import seeding
from cl_framework.adaptation import Tally, adapt, lower_rate, weight_limit
from cl_framework.checkpoint import Vault, fitting
from cl_framework.compiled import Compiled
from cl_framework.errors import Diverged
from cl_framework.evaluate import evaluate
from cl_framework.experience import Experience
from cl_framework.garbage import set_aside
from cl_framework.hardware import Hardware, quiet_lightning, repeatable
from cl_framework.learner import finite_weights
from cl_framework.models import Architecture, Model
from cl_framework.nonfinite import Retries, Skips
from cl_framework.observer import Cursor, Moment, Observer
from cl_framework.packing import Packer, unpacked
from cl_framework.recipe import Recipe
from cl_framework.record import AccuracyMatrix, StreamRecord
from cl_framework.requirements import check_needs, check_recipe
from cl_framework.row_checks import check_rows
from cl_framework.scenario import Stream
from cl_framework.stopping import is_asked, leave
from cl_framework.strategy import Strategy
from cl_framework.strategy_figures import own_figures
from cl_framework.stream_view import StreamView
from cl_framework.team import anywhere
from cl_framework.train_calls import Calls
from cl_framework.types import Setting, StreamInfo

__all__ = ["build_model", "check_needs", "check_recipe", "run_stream"]


def build_model(architecture: Architecture, info: StreamInfo, seed: int) -> Model:
    """A model whose initial weights depend on the architecture, the stream's shape and the seed alone."""
    with seeding.untouched():
        seeding.seed_all(seed, "model")
        return architecture.build(info)


def run_stream(strategy: Strategy, stream: Stream, model: Model, *, recipe: Recipe | None = None, seed: int = 0,
               hardware: Hardware | None = None, vault: Vault | None = None,
               observer: Observer | None = None) -> StreamRecord:
    """Learn a stream and say how much was kept and how much could still be learned.

    Args:
        strategy: a fresh strategy; it is trained in place, and so is `model`.
        recipe: how one experience is trained.
        seed: the training seed; everything random comes from it and the experience's index.
        vault: where checkpoints lie. If it holds one, the run goes on from there, to the same bits.

    Raises:
        ConfigError: strategy, recipe and stream do not go together.
        Diverged: loss or weights are no longer finite.
    """
    with seeding.untouched(), quiet_lightning(), set_aside():
        run = _Run(strategy, stream, model, recipe or Recipe(), seed, hardware or Hardware(), vault,
                   observer or Observer())
        with repeatable(run.device):
            return run.run()


class _Run:
    """The state of one run, and the loop over it."""

    def __init__(self, strategy: Strategy, stream: Stream, model: Model, recipe: Recipe, seed: int,
                 hardware: Hardware, vault: Vault | None, observer: Observer) -> None:
        size = stream.info.batch_size or recipe.batch_size
        self.info = dataclasses.replace(stream.info, seed=seed, batch_size=size)
        check_needs(strategy, self.info)
        check_recipe(recipe, self.info)
        hardware.check_form(model, self.info)
        self.strategy, self.stream, self.model, self.recipe = strategy, stream, model, recipe
        self.seed, self.hardware, self.vault, self.observer = seed, hardware, vault, observer
        self.record = StreamRecord(n_experiences=len(stream), n_rounds=stream.info.n_rounds)
        self.tally = Tally()
        self.matrix = AccuracyMatrix(len(stream), self.info.is_language)
        self.cursor = Cursor()
        self.online_hits = self.online_rows = 0
        self.carried: dict[str, Any] | None = None
        self.retries = Retries(is_on=self.recipe.on_nonfinite == "reset")
        self.device = hardware.trainer().strategy.root_device
        self.view = StreamView(stream, self.info, strategy.needs, recipe, self.device)
        self._pack = Packer()
        self._pending: dict[str, Any] | None = None
        self._saved_at = self._clock = time.monotonic()

    def run(self) -> StreamRecord:
        """The loop over experiences."""
        self.model.to(self.device)
        self.model.channels_last = self.hardware.channels_last
        self.compiled = Compiled(self.model) if self.hardware.compile else None
        seeding.seed_all(self.seed, "setup")
        self.limit = math.inf if self.info.is_labelled else weight_limit(self.model)
        self.strategy.setup(self.model, self.info)
        self._take_up()
        anywhere(False)  # the processes of a run take up the same checkpoint: none goes on before all have it
        self.observer.started(self.info, self.record, self.cursor)
        if self.record.n_done:  # taken up: the process may have ended between its checkpoint and these
            self.observer.documented(self.strategy.documents())
        for index in range(self.record.n_done, len(self.stream)):
            self._learn(self.view.given(self.stream[index]))
            if anywhere(is_asked()) and self.record.n_done < len(self.stream):
                leave(is_saved=self.vault is not None)
        self.observer.finished(self.record)
        return self.record

    def _learn(self, experience: Experience) -> None:
        index, is_taken_up = experience.index, self._pending is not None
        check_rows(experience, self.stream.test(index), has_labels=not self.info.is_language)
        self._clock = time.monotonic()
        if not is_taken_up:
            self.cursor = Cursor(index, stream_step=self.cursor.stream_step)
            self.online_hits = self.online_rows = 0
            self.tally = Tally()
            seeding.seed_all(self.seed, "experience", index)
            self.model.observe(experience.classes, experience.task)
            if index == 0 and self.info.setting is Setting.DOMAIN:
                evaluate(Strategy(), self.model, self.view.due(-1), self.matrix, 0,
                         "a model with finite weights (of an unlabelled stream see scenario.source)", self.seed)
                self._clock = time.monotonic()
            if self.info.is_labelled or index == 0:
                self.strategy.before_experience(self.model, self.view.told(experience))
            self._show("start", index)
        if self.info.is_labelled:
            data = self.strategy.train_data(experience, experience.train)
            self.strategy.fit(self.model, data, Calls(self, experience).train)
        else:
            self._adapt(experience)
        self._show("trained", index)
        if self.strategy.makes_experts:
            self._test_expert(index)
        self._clock = time.monotonic()
        if self.info.is_labelled or index == len(self.stream) - 1:
            self.strategy.after_experience(self.model, self.view.told(experience))
        self._show("deployed", index)
        self._evaluate(index)

    def _show(self, moment: Moment, index: int) -> None:
        """Show the weights to the observer while the clock stands."""
        self.record.seconds[index] += time.monotonic() - self._clock
        self.observer.reached(moment, index, self.model)
        self._clock = time.monotonic()

    def _adapt(self, experience: Experience) -> None:
        state = self.take_pending()
        if state is not None:
            with fitting():
                seeding.restore(state["rng"])

        def on_chunk(errors: Sequence[float]) -> None:
            self.pause(None, errors)

        n_steps = -(-len(experience.train) // self.info.batch_size)
        self.record.batches[experience.index] = n_steps
        self.observer.experience_started(experience, n_steps)
        adapt(self.strategy, self.model, experience.train, self.info.batch_size, self.cursor, self.tally, self.limit,
              on_chunk, Skips(self.record) if self.recipe.on_nonfinite == "skip" else None)
        self.record.online[experience.index] = self.tally.accuracy
        self.record.calibration[experience.index] = self.tally.calibration

    def _advice(self) -> str:
        """What to try where the run diverges."""
        return "a lower train.lr, or train.clip=1.0" if self.info.is_labelled else lower_rate(self.strategy)

    def _test_expert(self, index: int) -> None:
        matrix = AccuracyMatrix(len(self.stream), self.info.is_language)
        evaluate(self.strategy, self.model, self.view.tests(range(index, index + 1)), matrix, index + 1, seed=self.seed)
        self.record.expert[index] = matrix.compute().task_accuracy[index, index]

    def _evaluate(self, index: int) -> None:
        record = self.record
        own = own_figures(self.strategy)
        self._check_weights()
        evaluate(self.strategy, self.model, self.view.due(index), self.matrix, index + 1, self._advice(), self.seed)
        record.initial, _, record.initial_loss = self.matrix.row(0)
        record.accuracy[index], record.task_accuracy[index], record.loss[index] = self.matrix.row(index + 1)
        if self.info.is_online and self.online_rows == len(self.stream[index].train):
            record.online[index] = self.online_hits / max(self.online_rows, 1)
        record.strategy_metrics.append(own)
        record.memory_bytes = int(own.get("memory_bytes", 0))
        record.n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.cursor = Cursor(index + 1, stream_step=self.cursor.stream_step)
        self.save(None)
        self.observer.documented(self.strategy.documents())
        self.observer.evaluated(index, record, own)

    def _check_weights(self) -> None:
        if not finite_weights(self.model.state_dict()):
            raise Diverged(f"the weights are no longer finite at step {self.cursor.stream_step} of the stream; the run "
                           f"stops and its last good checkpoint is kept. Try {self._advice()}")

    # checkpoints

    def pause(self, optimizer: Optimizer | None, losses: Sequence[float]) -> None:
        """Between two chunks: write a checkpoint where one is due, and leave where a signal asks for that."""
        is_leaving = anywhere(is_asked())
        is_due = is_leaving or anywhere(time.monotonic() - self._saved_at >= self.recipe.checkpoint_every)
        if self.vault is not None and is_due:
            self.save(optimizer, losses, is_inside=True)
        self.observer.stepped(self.cursor, losses)
        if is_leaving:
            leave(is_saved=self.vault is not None)

    def save(self, optimizer: Optimizer | None, losses: Sequence[float] = (), *, is_inside: bool = False) -> None:
        """Write a checkpoint: between two chunks (`is_inside`), the last of which had `losses`, or experiences."""
        if self.vault is None:
            return
        self._check_weights()
        state = self.state(optimizer, is_inside=is_inside)
        self.observer.saving(self.cursor, losses)
        self.vault.save(state, self.cursor.experience, self.cursor.stream_step)
        self._saved_at = time.monotonic()

    def state(self, optimizer: Optimizer | None, *, is_inside: bool) -> dict[str, Any]:
        """All that a run goes on from; its tensors are those of the run."""
        seconds = self.record.seconds.clone()
        if is_inside:
            seconds[self.cursor.experience] += time.monotonic() - self._clock
        return {
            "cursor": dataclasses.asdict(self.cursor), "model": self.model.state_dict(),
            "strategy": self.strategy.state_dict(), "rng": seeding.capture(), "retries": self.retries.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(), "tally": self.tally.state_dict(),
            "matrix": self._pack(self.matrix.counts(), self.cursor.experience + 1),  # the first row is before training
            "record": {**self.record.state_dict(), "seconds": seconds},
            "online": (self.online_hits, self.online_rows), "carried": self.carried, "is_inside": is_inside,
        }

    def _take_up(self) -> None:
        """Put back the newest checkpoint, if there is one."""
        state = None if self.vault is None else self.vault.load()
        if state is None:
            return
        with fitting():
            counts = self.matrix.counts()
            if state["record"]["n_experiences"] != len(self.stream):
                raise ValueError(f"it is of another stream than one of {len(self.stream)} experiences")
            self.record = StreamRecord.from_state_dict(state["record"])
            state = {**state, "matrix": unpacked(state["matrix"], counts)}
            own, kept = ({name: (value.shape, value.dtype) for name, value in some.items()}
                         for some in (counts, state["matrix"]))
            if own != kept:
                raise ValueError(f"it counts another stream than one of {len(self.stream)} experiences")
            self.matrix.load_state_dict(state["matrix"])
            self.record.take(self.matrix.so_far())
            self.cursor = Cursor(**state["cursor"])
            self.restore(state)
            self._pending = state if state["is_inside"] else None

    def restore(self, state: dict[str, Any]) -> None:
        """Put back model, strategy and what was counted."""
        self.model.load_state_dict(state["model"])
        self.strategy.load_state_dict(self.model, copy.deepcopy(state["strategy"]))  # may be put back twice
        self.online_hits, self.online_rows = state["online"]
        self.carried = state["carried"]
        self.retries.load_state_dict(state.get("retries"))
        self.tally.load_state_dict(state["tally"])

    def put_back(self, state: dict[str, Any]) -> None:
        """Be where a state was taken; those who hold the cursor keep it."""
        vars(self.cursor).update(state["cursor"])
        self.restore(state)

    def take_pending(self) -> dict[str, Any] | None:
        """The state to go on from, handed out once."""
        state, self._pending = self._pending, None
        return state

    @property
    def pending_call(self) -> int:
        """The `train` call that was interrupted; -1 where nothing waits."""
        return -1 if self._pending is None else int(self._pending["cursor"]["call"])
