"""The one evaluator: test sets ask a strategy about held-out rows and measure its answers, whatever kind they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from cl_framework import seeding
from cl_framework.activations import in_parts
from cl_framework.data import TestSet
from cl_framework.errors import Diverged, PluginError
from cl_framework.models import Model
from cl_framework.modes import set_mode
from cl_framework.record import AccuracyMatrix
from cl_framework.strategy import Strategy
from cl_framework.types import NOT_YET, Batch, move


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Inside, evaluation mode and no gradients; both are left as they were."""
    mode = model.training
    set_mode(model, False)
    try:
        with torch.no_grad():
            yield
    finally:
        if model.training != mode:
            set_mode(model, mode)


def prepared(model: Model, batch: Batch) -> Batch:
    """The batch on the device of the model, with `x` as the model sees it when it is not trained."""
    with _evaluating(model):
        return _prepared(model, batch)


def _prepared(model: Model, batch: Batch) -> Batch:
    raw, task = move(batch.raw, model.device), None if batch.task is None else batch.task.to(model.device)
    return Batch(raw, model.preprocess(raw), batch.y, task)


def answer(strategy: Strategy, model: Model, batch: Batch) -> Tensor:
    """The strategy's logits for a batch, [B, classes seen]; mode and gradients are left as they were."""
    with _evaluating(model):
        ready = _prepared(model, batch) if batch.x is NOT_YET else batch
        return strategy.predict(model, ready.x, ready.task)


def answer_online(strategy: Strategy, model: Model, batch: Batch) -> Tensor:
    """The logits given for rows of an online stream before they are learned: the strategy may `adapt` to them.

    The model is in evaluation mode and gradients are on; the mode is restored.
    """
    mode = model.training
    set_mode(model, False)
    try:
        with torch.enable_grad():
            return strategy.adapt(model, model.preprocess(batch.raw)).detach()
    finally:
        set_mode(model, mode)


def reply(strategy: Strategy, model: Model, prompts: Sequence[str], seed: int, *path: int | str) -> list[str]:
    """The strategy's texts for some prompts; mode, gradients and the global generators are left as they were.

    Args:
        seed, path: what the replies are drawn from, and nothing else.

    Raises:
        PluginError: there is not one text for each prompt.
    """
    with _evaluating(model), seeding.untouched():
        seeding.seed_all(seed, "replies", *path)
        texts = strategy.respond(model, prompts)
    if len(texts) != len(prompts) or not all(isinstance(text, str) for text in texts):
        raise PluginError(f"respond of {type(strategy).__name__} gave {len(texts)} answers to {len(prompts)} prompts; "
                          "return one text for each")
    return texts


class _Asked:
    """A strategy and its model, asked about the held-out rows of one experience at one moment."""

    def __init__(self, strategy: Strategy, model: Model, seed: int, row: int, column: int) -> None:
        self._strategy, self._model = strategy, model
        self._seed, self._row, self._column, self._n_asked = seed, row, column, 0

    def prepared(self, batch: Batch) -> Batch:
        """The batch where the model is, with `x` as the model sees it."""
        return prepared(self._model, batch)

    def logits(self, batch: Batch) -> Tensor:
        """The strategy's logits; rows that are not prepared are answered as many at a time as is fastest."""
        def answered(part: Batch) -> Tensor:
            return answer(self._strategy, self._model, part)

        return answered(batch) if batch.x is not NOT_YET else in_parts(self._model, batch, answered)

    def replies(self, prompts: Sequence[str]) -> list[str]:
        """The strategy's texts, drawn anew each time that it is asked."""
        self._n_asked += 1
        return reply(self._strategy, self._model, prompts, self._seed, self._row, self._column, self._n_asked - 1)


def evaluate(strategy: Strategy, model: Model, tests: Iterable[tuple[int, TestSet]], matrix: AccuracyMatrix,
             row: int, advice: str = "a lower train.lr, or train.clip=1.0", seed: int = 0) -> None:
    """Let test sets measure the answers to held-out rows.

    Args:
        tests: column of the matrix and test set, for each experience to evaluate.
        matrix: receives the hits.
        row: its row: 0 before training, i + 1 after experience i.
        advice: what to try where the model has diverged.
        seed: replies are drawn from it, the row and the column.

    Raises:
        Diverged: the largest logit of an answer is not finite; -inf may rule a class out.
    """
    with _evaluating(model):
        for column, test in tests:
            if not _measure(test, _Asked(strategy, model, seed, row, column), matrix, row, column):
                when = f"after experience {row - 1}" if row else "before the stream"
                raise Diverged(f"an answer to held-out rows of experience {column} is not finite {when}; the run stops "
                               f"and its last good checkpoint is kept. Try {advice}")


def _measure(test: TestSet, asked: _Asked, matrix: AccuracyMatrix, row: int, column: int) -> bool:
    """Count what a test set finds; whether all answers were finite."""
    is_finite = []
    for part in test.measure(asked):
        is_finite.append(part.is_finite)
        columns = torch.full((len(part.hits),), column, device=part.hits.device)
        matrix.update(row, columns, part.hits, part.task_hits)
        if part.losses is not None:
            matrix.add_losses(row, column, part.losses)
    return not is_finite or bool(torch.stack(is_finite).all())
