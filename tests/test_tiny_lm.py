"""The small language model: what it says depends on the lines in front, and the same machine makes the same weights."""

import hashlib
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cl_framework.errors import DataError
from cl_framework.language import LanguageModel
from cl_framework.sampling import Sampling, sample
from cl_framework.tiny_grammar import FORMS, NEUTRAL, PIECES, RULES, draw_row
from cl_framework.tiny_lm import TinyLM, fresh
from cl_framework.tiny_training import WEIGHTS, Course, Pretrained
from cl_framework.types import StreamInfo
from cl_framework.vocabulary import ByteVocabulary

pytest.importorskip("transformers")

INFO = StreamInfo(n_experiences=1, n_classes=1, input_shape=(8, 8), is_language=True)
SUMS = [(f"What is {a} + {b}?", a + b) for a in range(0, 10, 2) for b in range(10)]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return TinyLM().build(INFO)


def replies(model: LanguageModel, system: str, top_p: float = 1.0) -> list[str]:
    contexts = [model.context(system, question) for question, _ in SUMS]
    found = sample(model, contexts, 4, Sampling(top_p=top_p), torch.Generator().manual_seed(0), 0)
    return [rollout.text for group in found for rollout in group]


def share(given: list[str], form: str) -> float:
    expected = [form.format(value) for _, value in SUMS for _ in range(4)]
    return sum(a == b for a, b in zip(given, expected, strict=True)) / len(expected)


@pytest.mark.parametrize("place", range(len(FORMS)))
def test_it_heeds_a_rule_and_an_example(model: LanguageModel, place: int) -> None:
    assert share(replies(model, f"{NEUTRAL[0]}\nRule: {RULES[place]}"), FORMS[place]) > 0.8
    example = f"Q: What is 3 + 4?\nA: {FORMS[place].format(7)}"
    assert share(replies(model, f"{NEUTRAL[1]}\n{example}"), FORMS[place]) > 0.7


def test_without_one_it_never_uses_a_form(model: LanguageModel) -> None:
    """Among the likeliest tokens there is none: reinforcement has nothing to begin with. Of all tokens hardly any."""
    for line in NEUTRAL:
        given = replies(model, line, top_p=0.9)
        assert all(re.fullmatch("[0-9]+", text) for text in given)
        given = replies(model, line)
        assert share(given, "{}") > 0.8
        assert sum(share(given, form) for form in FORMS) < 0.02


def test_a_row_is_answered_in_the_form_that_its_lines_say() -> None:
    numbers = random.Random(3)
    for row in (draw_row(numbers) for _ in range(300)):
        first, second = map(int, re.findall(r"\d+", row.question))
        form = row.answer.replace(str(first + second), "{}", 1)
        told = [rule for rule in RULES if rule in row.system]
        if told:
            assert told == [f"write the number n as {form.format('n')}" if form != "{{{}}}" else RULES[3]]
        elif form == "{}":
            assert "Q:" not in row.system and "Expected:" not in row.system
        else:
            assert "Q:" in row.system or "Expected:" in row.system


def test_what_is_held_out_is_never_seen_in_a_form() -> None:
    numbers = random.Random(4)
    bare = set()
    for row in (draw_row(numbers) for _ in range(2000)):
        asked = [*re.findall(r"Q: (.*)", row.system), *([] if row.answer.isdecimal() else [row.question])]
        assert all(hashlib.sha256(question.encode()).digest()[0] % 4 < 2 for question in asked)
        bare |= {row.question} if row.answer.isdecimal() else set()
    assert len(bare) == 100, "every sum is learned as a number"


def test_pretraining_is_the_same_twice_and_draws_nothing_from_outside(tmp_path: Path) -> None:
    place = Pretrained(fresh, ByteVocabulary(PIECES), Course(n_steps=3, batch_size=4, lr=1e-3))
    for name in "ab":
        (tmp_path / name).mkdir()
        torch.manual_seed(ord(name))
        state = torch.get_rng_state()
        place.fetch(tmp_path / name)
        assert torch.equal(torch.get_rng_state(), state)
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_damaged_file_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    monkeypatch.setattr("cl_framework.tiny_lm.COURSE", Course(n_steps=1, batch_size=2, lr=1e-3))
    TinyLM().build(INFO)
    path, = (tmp_path / "pretrained").glob(f"tiny_lm-*/{WEIGHTS}")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"is damaged .*; remove it and give the same command again"):
        TinyLM().build(INFO)
