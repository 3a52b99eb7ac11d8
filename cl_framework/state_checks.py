"""What a strategy must leave as it was, and take up where it was; each function's docstring is the rule."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cl_framework.check_runs import Stop, assert_same_result, fresh, learn, same, tensors, toy_for
from cl_framework.checkpoint import Vault
from cl_framework.evaluate import answer
from cl_framework.models import Model
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.seeding import capture
from cl_framework.strategy import Strategy
from cl_framework.toys import toy_model, toy_recipe

# determinism and resume


def is_deterministic(strategy: Strategy) -> None:
    """Same seed, same bits, whatever was drawn from the global generators before."""
    first = learn(strategy, toy_for(strategy).open())
    torch.rand(3)
    assert_same_result(first, learn(strategy, toy_for(strategy).open()))


def _resumes(strategy: Strategy, stops: Sequence[Stop], recipe: Recipe) -> None:
    toy = toy_for(strategy, n_train=40)
    whole = learn(strategy, toy.open(), recipe=recipe)
    for stop in stops:
        with tempfile.TemporaryDirectory() as folder:
            vault = Vault(Path(folder), "check")
            stopped = learn(strategy, toy.open(), recipe=recipe, vault=vault, observer=stop)
            if stopped.record is not None:
                return  # a strategy that trains little has ended before that step
            assert_same_result(whole, learn(strategy, toy.open(), recipe=recipe, vault=vault))


def resumes_between_experiences(strategy: Strategy) -> None:
    """Stopped after the first experience and taken up again, it ends with the bits of a run never stopped."""
    _resumes(strategy, [Stop(after_experience=0)], toy_recipe())


def resumes_inside_an_experience(strategy: Strategy) -> None:
    """Stopped in the middle of a later experience's epoch and taken up again, it ends with the same bits."""
    _resumes(strategy, [Stop(after_step=step) for step in (16, 60, 96)], toy_recipe(epochs=2, checkpoint_every=0.0))


def state_is_plain(strategy: Strategy) -> None:
    """The state loads with `weights_only=True`, and no tensor in it wants gradients."""
    result = learn(strategy, toy_for(strategy).open())
    state, buffer = result.strategy.state_dict(), io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert same(torch.load(buffer, weights_only=True), state), "the state changes when saved and loaded"
    wanting = [path for path, tensor in tensors(state) if tensor.requires_grad]
    assert not wanting, f"tensors with requires_grad in the state: {', '.join(wanting[:3])}"


# purity


def predict_is_pure(strategy: Strategy) -> None:
    """`predict` changes neither model, strategy, batch nor the global generators, and answers the same twice."""
    stream = toy_for(strategy).open()
    result = learn(strategy, stream)
    batch = next(stream.test(1).data.batches(7))
    before = copy.deepcopy((result.model.state_dict(), result.strategy.state_dict(), batch.raw, capture()))
    first = answer(result.strategy, result.model, batch)
    second = answer(result.strategy, result.model, batch)
    after = (result.model.state_dict(), result.strategy.state_dict(), batch.raw, capture())
    for name, old, new in zip(("model", "strategy", "batch", "global generators"), before, after, strict=True):
        assert same(old, new), f"predict changes the {name}"
    assert same(first, second), "predict answers differently the second time"


def answers_each_row_alone(strategy: Strategy) -> None:
    """The answer for a row does not depend on the rows beside it."""
    stream = toy_for(strategy).open()
    result = learn(strategy, stream)
    together, lone = (answer(result.strategy, result.model, next(stream.test(1).data.batches(n))) for n in (7, 1))
    assert torch.allclose(together[:1], lone, atol=1e-5), "the answer for a row depends on the rows beside it"


@contextmanager
def mode_watched(strategy: Strategy) -> Iterator[list[str]]:
    """Wrap each hook that takes the model, and note where its mode is not left as it was."""
    faults: list[str] = []

    def watched(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            model = next(argument for argument in arguments if isinstance(argument, Model))
            modes = [module.training for module in model.modules()]
            value = hook(*arguments)
            if name != "fit" and modes != [module.training for module in model.modules()]:
                faults.append(name)
            return value
        return call

    for part in strategy.parts():
        for name, hook in inspect.getmembers(part, inspect.ismethod):
            if not name.startswith("_") and "model" in inspect.signature(hook).parameters:
                vars(part)[name] = watched(name, hook)
    yield faults


def mode_is_restored(strategy: Strategy) -> None:
    """A hook leaves `model.training` as it found it, in training and in evaluation mode."""
    stream = toy_for(strategy).open()
    learner, model = fresh(strategy), toy_model(stream)
    with mode_watched(learner) as faults:
        run_stream(learner, stream, model, recipe=toy_recipe())
        for mode in (True, False):
            model.train(mode)
            learner.predict(model, torch.zeros(2, 1, 4, 4), torch.tensor([0, 0]))
            learner.after_experience(model, dataclasses.replace(stream[0], past=()))
    assert not faults, f"the model's mode is changed by {', '.join(sorted(set(faults)))}"


def inputs_are_not_mutated(strategy: Strategy) -> None:
    """The rows and labels that it was given are unchanged afterwards."""
    stream = toy_for(strategy).open()
    learn(strategy, stream)
    for given, original in zip(stream, toy_for(strategy).open(), strict=True):
        assert same(given.train.raw, original.train.raw), "training rows were overwritten"
        assert same(given.train.y, original.train.y), "labels were overwritten"
