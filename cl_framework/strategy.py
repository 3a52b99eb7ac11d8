"""The strategy contract. Used as it is, `Strategy` is naive fine-tuning: each experience is learned as if it were the
only one, and the earlier ones are forgotten (McCloskey & Cohen, Psychology of Learning and Motivation 24, 1989)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.fields import check_ranges
from cl_framework.models import Model
from cl_framework.recipe import Recipe
from cl_framework.types import Batch, Inputs, Need, Output, StreamInfo

ADDITIVE = ("setup", "before_experience", "train_data", "prepare_batch", "penalty", "after_backward", "after_step",
            "after_experience", "metrics", "documents")
"""Hooks that a chain runs in order, part after part."""

EXCLUSIVE = ("fit", "loss", "optimizer", "predict", "respond", "adapt")
"""Hooks that have at most one owner in a chain."""

PERSISTENCE = ("state_dict", "load_state_dict")
"""Hooks that a chain keeps apart, part by part."""

NO_PENALTY = torch.zeros(())
"""Zero, on the CPU: a scalar there adds to a loss on any device."""


@dataclass(kw_only=True, eq=False)
class Strategy:
    """How a model learns one experience without losing the others.

    A strategy is a dataclass of hyperparameters plus the hooks it overrides. A hook gets exactly the objects it
    needs and returns a value; it never sees a trainer, a stream or a scenario. What is learned (buffers, teachers,
    importance) is set in `setup` or later, and goes through `state_dict`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What a scenario must offer."""
    neutral: ClassVar[Mapping[str, object]] = {}
    """Hyperparameters at which the strategy is exactly fine-tuning; the conformance suite tests it."""
    makes_experts: ClassVar[bool] = False
    """Between `fit` and `after_experience` the model is an expert in the experience alone, and is tested on it once."""
    speaks: ClassVar[bool] = False
    """It works on language rows, which have no classes: the model's own loss is enough for it, or it has another."""
    known_failures: ClassVar[Mapping[str, str]] = {}
    """Conformance checks that fail, each with its reason; one that passes after all is an error."""

    def __post_init__(self) -> None:
        check_ranges(self)

    # the stream

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Once, before the first experience."""

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The head already has the new classes. Of an unlabelled stream once, before its first row, and the experience
        carries neither rows nor a name: only what the model learned before, for strategies that need it."""

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """What to train on. Called again when a run resumes, so it must depend on saved state alone."""
        return data

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Learn from `data`. `train` runs the recipe's epochs with one optimizer.

        When a run resumes, `fit` starts over: calls of `train` that were finished return at once, and the whole
        state is put back at the one that was interrupted. What must survive belongs in `state_dict`.
        """
        train(data)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """After training, before evaluation. Of an unlabelled stream once, after its last row."""

    # one step

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Change the rows before they are preprocessed, e.g. append replayed ones. `batch.x` is not there yet."""
        return batch

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The training loss, a scalar. By default the supervised one of the model: of a classifier the mean
        cross-entropy over the classes seen (over the classes of its task for a row with a task label), of a language
        model that over the tokens of answers."""
        return model.loss(batch, output)

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """A term added to the loss, a scalar."""
        return NO_PENALTY

    def after_backward(self, model: Model) -> None:
        """Edit the gradients in place, before clipping and the optimizer's step."""

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """After the optimizer's step, with the batch that was trained on and its output before the step."""

    def optimizer(self, params: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
        """The optimizer of one `train` call. By default what `train.*` says."""
        return recipe.optimizer_for(params)

    # inference

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """Logits over the classes seen, [B, n_seen]. Pure: it changes neither the model nor the strategy."""
        logits: Tensor = model(x).logits
        return logits

    def respond(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """Texts that answer prompts, one for each; a prompt may occur several times and is answered anew. Pure but for
        torch's global generator, which is seeded for each call. By default what the model says, with no prompt of the
        strategy's own.

        Raises:
            ConfigError: the model answers no text.
        """
        return model.respond(prompts)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """Learn from unlabelled rows and return the logits given for them; called on an online stream, for each batch
        before it is learned, in evaluation mode with gradients on. By default `predict` alone, without them."""
        with torch.no_grad():
            return self.predict(model, x, None)

    # persistence

    def metrics(self) -> Mapping[str, float]:
        """The strategy's own figures after an experience; pulled, never pushed."""
        return {}

    def documents(self) -> Mapping[str, Any]:
        """What it has become that is no number, by name, as plain data for JSON: the run folder holds each as
        `<name>.json`, written anew after every experience."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as tensors and plain data (it is loaded with `weights_only=True`)."""
        return {}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned; `model` already has its own state back."""

    def parts(self) -> tuple[Strategy, ...]:
        """The strategies this one is made of."""
        return (self,)
