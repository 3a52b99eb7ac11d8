"""What a strategy that adapts to unlabelled rows must obey; each function's docstring is the rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from cl_framework.check_runs import learn, same
from cl_framework.data import Dataset
from cl_framework.evaluate import answer
from cl_framework.scenario import Part, ResidentStream
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
from cl_framework.strategy_checks import (
    constructs_from_defaults,
    declares_its_memory,
    documents_itself,
    does_not_see_the_future,
    fields_are_data,
    hooks_match_the_contract,
)
from cl_framework.toys import Toy


def runs_an_unlabelled_stream(strategy: Strategy) -> None:
    """It answers three experiences, and clean rows after each."""
    stream = Toy(is_labelled=False).open()
    result = learn(strategy, stream)
    assert result.record is not None and result.record.n_done == 3, "the stream was not finished"
    logits = answer(result.strategy, result.model, next(stream.test(0).data.batches(5)))
    assert logits.shape == (5, 6), f"predict returns shape {tuple(logits.shape)} for 5 rows and 6 classes"
    assert bool(logits.isfinite().all()), "predict returns values that are not finite"


def runs_a_short_last_batch(strategy: Strategy) -> None:
    """The last batch of an experience may be short, also a single row."""
    for n_test in (7, 8):
        stream = Toy(is_labelled=False, n_test=n_test).open()
        stream.info = dataclasses.replace(stream.info, batch_size=47)
        learn(strategy, stream)


def needs_no_labels(strategy: Strategy) -> None:
    """Other labels in the stream change nothing that is learned."""
    plain, garbled = Toy(is_labelled=False).open(), Toy(is_labelled=False).open()
    for experience in garbled:
        experience.train.y.zero_()
    weights = [learn(strategy, stream).model.state_dict() for stream in (plain, garbled)]
    assert same(*weights), "what is learned depends on the labels of the stream"


def sees_no_boundary(strategy: Strategy) -> None:
    """Where one corruption ends and the next begins makes no difference."""
    apart = Toy(is_labelled=False).open()
    part = Part(train=Dataset.concat([experience.train for experience in apart]), test=apart.test(0).data,
                classes=apart[0].classes, class_names=apart[0].class_names)
    at_once = ResidentStream(dataclasses.replace(apart.info, n_experiences=1), [part])
    at_once.pretraining = apart.pretraining
    parts, whole = learn(strategy, apart), learn(strategy, at_once)
    assert parts.record is not None and whole.record is not None
    sizes = torch.tensor([len(experience.train) for experience in apart], dtype=torch.float64)
    is_answered_alike = torch.isclose((parts.record.online * sizes).sum(), whole.record.online[0] * sizes.sum())
    is_same = same(parts.model.state_dict(), whole.model.state_dict()) and bool(is_answered_alike)
    assert is_same, ("what is learned depends on where an experience ends: metrics and predict must change "
                            "nothing, and draws come from generators of one's own")


ADAPTATION_CHECKS: tuple[Callable[[Strategy], None], ...] = (
    constructs_from_defaults, hooks_match_the_contract, fields_are_data, documents_itself, runs_an_unlabelled_stream,
    runs_a_short_last_batch, is_deterministic, resumes_between_experiences, resumes_inside_an_experience,
    state_is_plain, predict_is_pure, answers_each_row_alone, mode_is_restored, inputs_are_not_mutated,
    does_not_see_the_future, declares_its_memory, needs_no_labels, sees_no_boundary,
)
