"""The tiny tier: a task that the seed prompt never solves. RL stays at zero, fast and slow weights do not."""

import random

import pytest

from cl_framework import Need, Part, Recipe, ResidentStream, Setting, StreamInfo, run_stream
from cl_framework.check_runs import same
from cl_framework.language_tests import ReplyTest
from cl_framework.problems import Checked, Problem
from cl_framework.protocol import build_model
from cl_framework.registry import load
from cl_framework.text_rows import problem_rows

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from cl_framework.scenarios._problems_arithmetic import Arithmetic

N_TRAIN, N_TEST = 24, 24
LEARNING = {"steps_per_cycle": 3, "warmup_steps": 2}


def _stream():
    """Sums of two digits whose form nobody tells; training and held-out sums are disjoint."""
    kind = Arithmetic()
    sums = [(a, b) for a in range(10) for b in range(10)]
    random.Random(0).shuffle(sums)
    problems = [Problem(f"What is {a} + {b}?", f"<ans>{a + b}</ans>", "arithmetic") for a, b in sums]
    learned, held_out = problems[:N_TRAIN], problems[N_TRAIN:N_TRAIN + N_TEST]
    train, test = (problem_rows(each, 32, 16) for each in (learned, held_out))
    judges = [Checked(each, {"arithmetic": kind.check}) for each in (learned, held_out)]
    info = StreamInfo(n_experiences=1, n_classes=1, input_shape=(32, 16), setting=Setting.DOMAIN, is_language=True,
                      offers=frozenset({Need.TEXT, Need.VERIFIER}))
    return ResidentStream(info, [Part(train=train, test=test, classes=(0,), class_names=("sums",), judge=judges[0],
                                      held_out=ReplyTest(test, (0,), Setting.DOMAIN, judge=judges[1], n_samples=1))])


def _learn(name, **fields):
    stream = _stream()
    model = build_model(load("model", "tiny_lm")(), stream.info, 0)
    begun = {key: value.detach().clone() for key, value in model.named_parameters()}
    strategy = load("strategy", name)(**LEARNING, **fields)
    record = run_stream(strategy, stream, model, recipe=Recipe(optimizer="adamw", lr=3e-4, batch_size=4,
                                                               reset_optimizer=False))
    return strategy, record, same(begun, dict(model.named_parameters()))


def test_reinforcement_never_leaves_zero_and_fast_slow_training_does():
    rl, alone, is_as_begun = _learn("rl")
    assert alone.initial[0] == 0.0 == alone.accuracy[0, 0]
    assert rl.metrics()["reward"] == 0.0 and rl.metrics()["zero_variance"] == 1.0 and is_as_begun
    fst, record, is_as_begun = _learn("fst", passes=3.0)
    assert record.initial[0] == 0.0 and record.accuracy[0, 0] > 0.3
    assert fst.metrics()["reward"] > 0.1 and fst.metrics()["zero_variance"] < 1.0 and not is_as_begun
    assert fst.documents()["prompts"]["best"] != "p0"
