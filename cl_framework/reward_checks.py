"""What a strategy that learns from rewards (`Need.VERIFIER`) must obey; each function's docstring is the rule.

They are those of every strategy wherever these ask for no labels, and replies stand for logits.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from cl_framework.chain import Chain
from cl_framework.check_runs import Stop, assert_same_result, fresh, learn, same, tensors, toy_for
from cl_framework.checkpoint import Vault
from cl_framework.evaluate import reply
from cl_framework.observer import Observer
from cl_framework.protocol import run_stream
from cl_framework.record import StreamRecord
from cl_framework.scenario import Stream
from cl_framework.seeding import capture
from cl_framework.speaking_toys import SpeakingToy
from cl_framework.state_checks import (
    inputs_are_not_mutated,
    is_deterministic,
    mode_watched,
    state_is_plain,
)
from cl_framework.strategy import Strategy
from cl_framework.strategy_checks import (
    constructs_from_defaults,
    documents_itself,
    does_not_see_the_future,
    fields_are_data,
    hooks_match_the_contract,
    runs_a_last_batch_of_one,
)
from cl_framework.text_rows import PROMPT
from cl_framework.tokens import decoded
from cl_framework.toys import toy_model, toy_recipe
from cl_framework.types import Need

_SLACK = 64 * 1024
"""Bytes of state that need not be declared: prompts, counters."""


def _prompts(stream: Stream, index: int) -> list[str]:
    raw = stream.test(index).data.raw
    assert not isinstance(raw, Tensor)
    return decoded(raw[PROMPT])


def runs_a_stream_of_problems(strategy: Strategy) -> None:
    """It learns three experiences and replies to every held-out problem, also to one that is given twice."""
    stream = toy_for(strategy).open()
    result = learn(strategy, stream)
    assert result.record is not None and result.record.n_done == 3, "the stream was not finished"
    prompts = _prompts(stream, 0)
    replies = reply(result.strategy, result.model, [*prompts, prompts[0]], 0)
    assert all(isinstance(text, str) for text in replies), "respond returns what is no text"


def respond_is_pure(strategy: Strategy) -> None:
    """`respond` changes neither model nor strategy, and draws from the global generators alone."""
    stream = toy_for(strategy).open()
    result = learn(strategy, stream)
    before = copy.deepcopy((result.model.state_dict(), result.strategy.state_dict(), capture()))
    first, second = (reply(result.strategy, result.model, _prompts(stream, 1), 5) for _ in range(2))
    after = (result.model.state_dict(), result.strategy.state_dict(), capture())
    for name, old, new in zip(("model", "strategy", "global generators"), before, after, strict=True):
        assert same(old, new), f"respond changes the {name}"
    assert first == second, "respond gives other texts from the same state of the generators"


def _resumes(strategy: Strategy, stop: Stop, toy: SpeakingToy) -> None:
    recipe = toy_recipe(epochs=1, checkpoint_every=0.0)
    whole = learn(strategy, toy.open(), recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        learn(strategy, toy.open(), recipe=recipe, vault=Vault(Path(folder), "check"), observer=stop)
        resumed = learn(strategy, toy.open(), recipe=recipe, vault=Vault(Path(folder), "check"))
    assert_same_result(whole, resumed)


def resumes_between_experiences(strategy: Strategy) -> None:
    """Stopped after the first experience and taken up again, it ends with the bits of a run never stopped."""
    _resumes(strategy, Stop(after_experience=0), SpeakingToy(sizes=(1, 1), n_train=6))


def resumes_inside_an_experience(strategy: Strategy) -> None:
    """Stopped inside an experience and taken up again, it ends with the same bits."""
    _resumes(strategy, Stop(after_step=6), SpeakingToy(sizes=(1,), n_train=28))


def mode_is_restored(strategy: Strategy) -> None:
    """A hook leaves `model.training` as it found it, in training and in evaluation mode."""
    stream = toy_for(strategy).open()
    learner, model = fresh(strategy), toy_model(stream)
    with mode_watched(learner) as faults:
        run_stream(learner, stream, model, recipe=toy_recipe(epochs=1))
        for mode in (True, False):
            model.train(mode)
            learner.respond(model, _prompts(stream, 0))
            learner.after_experience(model, dataclasses.replace(stream[0], past=()))
    assert not faults, f"the model's mode is changed by {', '.join(sorted(set(faults)))}"


class _Spoil(Observer):
    """Overwrites the rows of an experience once it is learned."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Spoil the rows in their store."""
        raw = self._stream[index].train._raw
        assert not isinstance(raw, Tensor)
        for column in raw.values():
            column.fill_(ord("z"))


def does_not_reread_the_past(strategy: Strategy) -> None:
    """Once an experience is over its rows are gone, unless `Need.HISTORY` is declared."""
    if Need.HISTORY in strategy.needs:
        return
    kept, stream = learn(strategy, toy_for(strategy).open()), toy_for(strategy).open()
    spoilt = learn(strategy, stream, observer=_Spoil(stream))
    assert same(kept.model.state_dict(), spoilt.model.state_dict()), (
        "training changes when the rows of earlier experiences do; declare Need.HISTORY, or copy what is kept")


def declares_its_memory(strategy: Strategy) -> None:
    """Figures are finite; `memory_bytes` covers what the state holds."""
    result = learn(strategy, toy_for(strategy).open())
    state, figures = result.strategy.state_dict(), result.strategy.metrics()
    held = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors(state))
    for name, value in figures.items():
        assert math.isfinite(value), f"metrics() give {name} = {value}"
    declared = figures.get("memory_bytes", 0.0)
    assert held <= 1.05 * declared + _SLACK, f"the state holds {held} bytes, metrics() declare {declared:.0f}"


class _Plain(Strategy):
    """Fine-tuning on texts."""

    speaks = True


def chain_with_fine_tuning_is_itself(strategy: Strategy) -> None:
    """Chained with plain fine-tuning, it is the same strategy."""
    alone = learn(strategy, toy_for(strategy).open())
    chained = learn(Chain(*(fresh(part) for part in strategy.parts()), _Plain()), toy_for(strategy).open())
    assert same(alone.model.state_dict(), chained.model.state_dict()), "the weights differ"
    assert alone.record is not None and chained.record is not None
    assert same(alone.record.accuracy, chained.record.accuracy), "the replies differ"


REWARD_CHECKS: tuple[Callable[[Strategy], None], ...] = (
    constructs_from_defaults, hooks_match_the_contract, fields_are_data, documents_itself, runs_a_stream_of_problems,
    runs_a_last_batch_of_one, is_deterministic, resumes_between_experiences, resumes_inside_an_experience,
    state_is_plain, respond_is_pure, mode_is_restored, inputs_are_not_mutated, does_not_reread_the_past,
    does_not_see_the_future, declares_its_memory, chain_with_fine_tuning_is_itself,
)
