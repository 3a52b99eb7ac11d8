"""Short runs on toy streams, stopped and compared: what the conformance suite for strategies is made of."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_framework.chain import Chain
from cl_framework.checkpoint import Vault
from cl_framework.models import Model
from cl_framework.observer import Cursor, Observer
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.record import StreamRecord
from cl_framework.scenario import Stream
from cl_framework.speaking_toys import SpeakingToy
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Need, Setting


class Stopped(Exception):
    """Stands in for a kill."""


class Stop(Observer):
    """Ends a run after an experience, or after some steps of the stream."""

    def __init__(self, after_experience: int = -1, after_step: int = -1) -> None:
        self._experience, self._step = after_experience, after_step

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Stop once the step is reached."""
        if 0 <= self._step <= cursor.stream_step:
            raise Stopped

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Stop once the experience is learned."""
        if index == self._experience:
            raise Stopped


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run left behind."""

    strategy: Strategy
    model: Model
    record: StreamRecord | None


def fresh(strategy: Strategy) -> Strategy:
    """The same hyperparameters, nothing learned."""
    parts = [type(part)(**{spec.name: copy.deepcopy(vars(part)[spec.name]) for spec in dataclasses.fields(part)})
             for part in strategy.parts()]
    return parts[0] if len(parts) == 1 else Chain(*parts)


def toy_for(strategy: Strategy, sizes: Sequence[int] = (2, 2, 2), n_train: int = 22) -> Toy | SpeakingToy:
    """A toy stream that offers what the strategy needs."""
    if Need.VERIFIER in strategy.needs:
        return SpeakingToy(sizes=sizes, n_train=max(n_train // 8, 1))
    if Need.UNLABELLED in strategy.needs:
        return Toy(sizes=sizes, n_train=n_train, is_labelled=False, n_test=min(n_train, 40))
    setting = Setting.TASK if Need.TASK_LABELS in strategy.needs else Setting.CLASS
    return Toy(sizes=sizes, setting=setting, n_train=n_train)


def learn(strategy: Strategy, stream: Stream, *, recipe: Recipe | None = None, vault: Vault | None = None,
          observer: Observer | None = None) -> Result:
    """Train a fresh copy of the strategy; its record is None where the observer stopped it."""
    learner, model = fresh(strategy), toy_model(stream)
    try:
        record = run_stream(learner, stream, model, recipe=recipe or toy_recipe(), vault=vault, observer=observer)
    except Stopped:
        return Result(learner, model, None)
    return Result(learner, model, record)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested plain data, with its place."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from tensors(item, f"{path}[{index}]")


def same(a: Any, b: Any) -> bool:
    """Equal to the bit; NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9)))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def assert_same_result(a: Result, b: Result) -> None:
    """Weights, state and accuracies are equal to the bit."""
    assert same(a.model.state_dict(), b.model.state_dict()), "the weights differ"
    assert same(a.strategy.state_dict(), b.strategy.state_dict()), "the strategy's state differs"
    assert a.record is not None and b.record is not None
    assert same(a.record.accuracy, b.record.accuracy), "the accuracies differ"
