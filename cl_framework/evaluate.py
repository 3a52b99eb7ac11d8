"""The one evaluator: a strategy answers held-out rows, test sets score the answers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from cl_framework.data import TestSet
from cl_framework.errors import Diverged
from cl_framework.metrics import AccuracyMatrix
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, move

_BATCH_SIZE = 1024


def answer(strategy: Strategy, model: Model, batch: Batch) -> Tensor:
    """The strategy's logits for a batch, [B, classes seen]; mode and gradients are left as they were."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            task = None if batch.task is None else batch.task.to(model.device)
            return strategy.predict(model, model.preprocess(move(batch.raw, model.device)), task)
    finally:
        model.train(mode)


def answer_online(strategy: Strategy, model: Model, batch: Batch) -> Tensor:
    """The logits given for rows of an online stream before they are learned: the strategy may `adapt` to them.

    The model is in evaluation mode and gradients are on; the mode is restored.
    """
    mode = model.training
    model.eval()
    try:
        with torch.enable_grad():
            return strategy.adapt(model, model.preprocess(batch.raw)).detach()
    finally:
        model.train(mode)


def evaluate(strategy: Strategy, model: Model, tests: Iterable[tuple[int, TestSet]], matrix: AccuracyMatrix,
             row: int, advice: str = "a lower train.lr, or train.clip=1.0") -> None:
    """Answer and score held-out rows.

    Args:
        tests: column of the matrix and test set, for each experience to evaluate.
        matrix: receives the hits.
        row: its row: 0 before training, i + 1 after experience i.
        advice: what to try where the model has diverged.

    Raises:
        Diverged: the largest logit of an answer is not finite; -inf may rule a class out.
    """
    for column, test in tests:
        is_finite = []
        for batch in test.data.batches(_BATCH_SIZE):
            logits = answer(strategy, model, batch)
            is_finite.append(logits.amax(1).isfinite().all())
            hits, task_hits = test.score(logits, batch.y.to(logits.device))
            matrix.update(row, torch.full_like(batch.y, column), hits, task_hits)
        if is_finite and not bool(torch.stack(is_finite).all()):
            when = f"after experience {row - 1}" if row else "before the stream"
            raise Diverged(f"an answer to held-out rows of experience {column} is not finite {when}; the run stops and "
                           f"its last good checkpoint is kept. Try {advice}")
