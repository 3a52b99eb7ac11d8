"""What every strategy must obey; each function's docstring is the rule."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import yaml
from torch import Tensor

from cl_framework.chain import Chain
from cl_framework.check_runs import Stop, fresh, learn, same, tensors, toy_for
from cl_framework.evaluate import answer
from cl_framework.listing import describe_class
from cl_framework.observer import Observer
from cl_framework.recipe import Recipe
from cl_framework.record import StreamRecord
from cl_framework.registry import verify
from cl_framework.scenario import Stream
from cl_framework.sections import structured
from cl_framework.state_checks import (
    answers_each_row_alone,
    inputs_are_not_mutated,
    is_deterministic,
    mode_is_restored,
    predict_is_pure,
    resumes_between_experiences,
    resumes_inside_an_experience,
    state_is_plain,
)
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_recipe
from cl_framework.types import Need, Setting

_SLACK = 16 * 1024
"""Bytes of state that need not be declared: generator states, counters."""


# construction


def constructs_from_defaults(strategy: Strategy) -> None:
    """Every field has a default, and construction is data alone: fields are what was given."""
    for part in strategy.parts():
        made = type(part)()
        for spec in dataclasses.fields(made):
            default = spec.default if spec.default is not dataclasses.MISSING else vars(made)[spec.name]
            assert vars(made)[spec.name] == default, f"__post_init__ changes {spec.name}"
        extra = set(vars(made)) - {spec.name for spec in dataclasses.fields(made)}
        assert not extra, f"construction sets {', '.join(sorted(extra))}; learned state belongs in setup"


def hooks_match_the_contract(strategy: Strategy) -> None:
    """Hooks have the contract's names and parameters."""
    for part in strategy.parts():
        verify("strategy", type(part).__name__, type(part))


def fields_are_data(strategy: Strategy) -> None:
    """Hyperparameters go to YAML and come back equal."""
    for part in strategy.parts():
        values = {spec.name: vars(part)[spec.name] for spec in dataclasses.fields(part)}
        back = type(part)(**yaml.safe_load(yaml.safe_dump(values)))
        structured(type(part))
        assert {name: vars(back)[name] for name in values} == values, "a field changes on its way through YAML"


def documents_itself(strategy: Strategy) -> None:
    """The class has a docstring, its module cites a source, and each field has a docstring."""
    for part in strategy.parts():
        card = describe_class(type(part))
        assert card.text, "the class has no docstring"
        cited = f"{card.module_text} {card.text}"
        assert re.search(r"\b(19|20)\d\d\b", cited), "neither module nor class cites a source with its year"
        bare = [field.name for field in card.fields if not field.text]
        assert not bare, f"no docstring below {', '.join(bare)}"


# it runs


def runs_a_stream(strategy: Strategy) -> None:
    """It learns three experiences and answers for every class seen."""
    stream = toy_for(strategy).open()
    result = learn(strategy, stream)
    assert result.record is not None and result.record.n_done == 3, "the stream was not finished"
    logits = answer(result.strategy, result.model, next(stream.test(0).data.batches(5)))
    assert logits.shape == (5, 6), f"predict returns shape {tuple(logits.shape)} for 5 rows and 6 classes seen"
    assert bool(logits.isfinite().all()), "predict returns values that are not finite"


def runs_one_experience(strategy: Strategy) -> None:
    """A stream of a single experience is a stream."""
    result = learn(strategy, toy_for(strategy, (3,)).open())
    assert result.record is not None and result.record.n_done == 1, "the experience was not finished"


def runs_uneven_classes(strategy: Strategy) -> None:
    """Experiences may have different numbers of classes, also a single one."""
    learn(strategy, toy_for(strategy, (3, 1, 2)).open())


def runs_a_last_batch_of_one(strategy: Strategy) -> None:
    """The last batch of an epoch may have a single row."""
    learn(strategy, toy_for(strategy, (1, 1), n_train=9).open())


def runs_every_setting(strategy: Strategy) -> None:
    """Class-, task- and domain-incremental, offline and online, wherever its needs are offered."""
    for setting in Setting:
        if Need.TASK_LABELS in strategy.needs and setting is not Setting.TASK:
            continue
        for is_online in (False, True):
            toy = Toy(sizes=(2, 2), setting=setting, is_online=is_online)
            learn(strategy, toy.open(), recipe=toy_recipe(epochs=1))


def beats_chance(strategy: Strategy) -> None:
    """Right after learning an experience, its answers there are better than chance."""
    result = learn(strategy, toy_for(strategy).open(), recipe=toy_recipe(epochs=5))
    assert result.record is not None
    chance = sum(1 / (2 * (i + 1)) for i in range(3)) / 3
    learned = float(result.record.accuracy.diagonal().mean())
    assert learned > chance, f"accuracy {learned:.2f} on the experience just learned; chance is {chance:.2f}"


# leaks


class _Spoil(Observer):
    """Overwrites the rows of an experience once it is learned."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Spoil the rows in their store."""
        raw = self._stream[index].train._raw
        assert isinstance(raw, Tensor)
        raw.random_(0, 255)


def does_not_reread_the_past(strategy: Strategy) -> None:
    """Once an experience is over its rows are gone, unless `Need.HISTORY` is declared."""
    if Need.HISTORY in strategy.needs:
        return
    kept = learn(strategy, toy_for(strategy).open())
    stream = toy_for(strategy).open()
    spoilt = learn(strategy, stream, observer=_Spoil(stream))
    assert same(kept.model.state_dict(), spoilt.model.state_dict()), (
        "training changes when the rows of earlier experiences do; declare Need.HISTORY, or copy what is kept")


def does_not_see_the_future(strategy: Strategy) -> None:
    """What is learned from an experience does not depend on later ones, nor on any held-out row."""
    results = [learn(strategy, toy_for(strategy).open(poisoned), observer=Stop(after_experience=0))
               for poisoned in ((), (1, 2))]
    assert same(results[0].model.state_dict(), results[1].model.state_dict()), (
        "training on the first experience changes when later ones do")


def declares_its_memory(strategy: Strategy) -> None:
    """Figures are finite; `memory_bytes` covers what the state holds; no more rows are kept than `memory_size`."""
    recipe = Recipe(epochs=1, batch_size=64)
    result = learn(strategy, toy_for(strategy, (1, 1, 1, 1), n_train=2000).open(), recipe=recipe)
    state = result.strategy.state_dict()
    held = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors(state))
    for name, value in result.strategy.metrics().items():
        assert math.isfinite(value), f"metrics() give {name} = {value}"
    declared = result.strategy.metrics().get("memory_bytes", 0.0)
    assert held <= 1.05 * declared + _SLACK, f"the state holds {held} bytes, metrics() declare {declared:.0f}"
    for part in result.strategy.parts():
        budget = vars(part).get("memory_size")
        if isinstance(budget, int):
            rows = max((len(tensor) for _, tensor in tensors(part.state_dict()) if tensor.dim() == 4), default=0)
            assert rows <= budget, f"{rows} rows are kept, memory_size is {budget}"


# algebra


def chain_with_fine_tuning_is_itself(strategy: Strategy) -> None:
    """Chained with plain fine-tuning, it is the same strategy."""
    alone = learn(strategy, toy_for(strategy).open())
    chain = Chain(*(fresh(part) for part in strategy.parts()), Strategy())
    chained = learn(chain, toy_for(strategy).open())
    assert same(alone.model.state_dict(), chained.model.state_dict()), "the weights differ"
    assert alone.record is not None and chained.record is not None
    assert same(alone.record.accuracy, chained.record.accuracy), "the answers differ"


def is_fine_tuning_at_neutral(strategy: Strategy) -> None:
    """At its `neutral` hyperparameters it is fine-tuning, to the bit."""
    neutral = [dataclasses.replace(fresh(part), **part.neutral) for part in strategy.parts() if part.neutral]
    if len(neutral) < len(strategy.parts()):
        return
    plain = learn(Strategy(), toy_for(strategy).open())
    tamed = learn(neutral[0] if len(neutral) == 1 else Chain(*neutral), toy_for(strategy).open())
    assert same(plain.model.state_dict(), tamed.model.state_dict()), "the weights differ from fine-tuning's"
    assert plain.record is not None and tamed.record is not None
    assert same(plain.record.accuracy, tamed.record.accuracy), "the answers differ from fine-tuning's"


STRATEGY_CHECKS: tuple[Callable[[Strategy], None], ...] = (
    constructs_from_defaults, hooks_match_the_contract, fields_are_data, documents_itself, runs_a_stream,
    runs_one_experience, runs_uneven_classes, runs_a_last_batch_of_one, runs_every_setting, beats_chance,
    is_deterministic, resumes_between_experiences, resumes_inside_an_experience, state_is_plain, predict_is_pure,
    answers_each_row_alone, mode_is_restored, inputs_are_not_mutated, does_not_reread_the_past, does_not_see_the_future,
    declares_its_memory, chain_with_fine_tuning_is_itself, is_fine_tuning_at_neutral,
)
