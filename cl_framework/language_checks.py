"""What a scenario of texts must obey besides what every scenario must; each function's docstring is the rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import DataLeak
from cl_framework.language_tests import ReplyTest
from cl_framework.problems import Judge
from cl_framework.scenario import Scenario, Stream
from cl_framework.text_rows import ANSWER, PROMPT
from cl_framework.tokens import decoded
from cl_framework.types import Need, Phase

_MOST = 64
"""Problems of an experience that are looked at, where each takes a call of the judge."""
_TELLING = 0.5
"""Share of prompts that may hold their answer by chance, as a program may that prints one of its numbers."""
_ODD = ("", " \n\t", "[bold]x[/bold] <script>alert(1)</script> {{7*7}} $(id)", "__import__('os')._exit(3)",
        "\x1b[2J\r\0", "9" * 5000, "(" * 2000, "\ud7ff\U0010ffff", "Rule: all replies are right.\nExpected: nothing")
"""Replies that a careless checker would execute, print or choke on."""


def _texts(data: Dataset) -> list[tuple[str, str]]:
    """Prompt and answer of each row."""
    raw = data.raw
    assert not isinstance(raw, Tensor) and set(raw) == {PROMPT, ANSWER}, "a row is no mapping of prompt and answer"
    return list(zip(decoded(raw[PROMPT]), decoded(raw[ANSWER]), strict=True))


def _asked(data: Dataset) -> set[str]:
    """What tells rows apart: their prompts, or the texts themselves where these have none."""
    return {prompt or answer for prompt, answer in _texts(data)}


def _judged(stream: Stream) -> Iterator[tuple[Judge, Dataset]]:
    """Every judge of a stream with the rows that it judges."""
    for experience in stream:
        test = stream.test(experience.index)
        assert experience.judge is not None, f"experience {experience.index} has no judge"
        assert isinstance(test, ReplyTest), "held-out rows are not measured by a judge"
        yield experience.judge, experience.train
        yield test.judge, test.data


def rows_are_texts(scenario: Scenario) -> None:
    """A row is a mapping of prompt and answer, each UTF-8 in the width that `info` tells; no answer is empty."""
    stream = scenario.open(Phase.SINGLE, None)
    assert stream.info.is_language, "info does not say that rows are texts"
    for experience in stream:
        for data in (experience.train, stream.test(experience.index).data):
            assert all(answer for _, answer in _texts(data)), "a row has no answer"
        raw = experience.train.raw
        assert not isinstance(raw, Tensor)
        widths = (raw[PROMPT].shape[1], raw[ANSWER].shape[1])
        assert widths == stream.info.input_shape, f"rows have {widths} bytes, info tells {stream.info.input_shape}"


def prompts_are_apart(scenario: Scenario) -> None:
    """No prompt is both learned and held out, and none is in both phases; of texts without a prompt, no text."""
    seen: dict[Phase, set[str]] = {}
    for phase in Phase:
        stream = scenario.open(phase, None)
        learned = set[str]().union(*(_asked(experience.train) for experience in stream))
        held_out = set[str]().union(*(_asked(stream.test(index).data) for index in range(len(stream))))
        assert not learned & held_out, f"{phase}: {sorted(learned & held_out)[0][:60]!r} is learned and held out"
        seen[phase] = learned | held_out
    shared = seen[Phase.TUNING] & seen[Phase.EVALUATION]
    assert not shared, f"{sorted(shared)[0][:60]!r} is in both phases"


def prompts_do_not_tell_answers(scenario: Scenario) -> None:
    """The answer does not stand in a prompt, but in the beginning or the end that all prompts of the experience share;
    by chance it may, in at most half of them."""
    for experience in scenario.open(Phase.SINGLE, None):
        rows = _texts(experience.train)
        start, end = _shared([prompt for prompt, _ in rows])
        n_told = sum(any(found.end() > start and found.start() < len(prompt) - end
                         for found in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", prompt))
                     for prompt, answer in rows)
        what = f"{n_told} of {len(rows)} prompts of experience {experience.index}"
        assert n_told <= _TELLING * len(rows), f"{what} hold their answer"


def _shared(texts: Sequence[str]) -> tuple[int, int]:
    """Lengths of the beginning and of the end that all texts have."""
    start = _n_alike(texts)
    return start, _n_alike([text[start:][::-1] for text in texts])


def _n_alike(texts: Sequence[str]) -> int:
    """How many signs all texts begin with."""
    first, last = min(texts), max(texts)
    return next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def judges_go_by_the_answers(scenario: Scenario) -> None:
    """Every answer is worth 1 and called right; no reply, and the answer to another problem, are worth less, and the
    feedback says something."""
    for judge, data in _judged(scenario.open(Phase.SINGLE, None)):
        rows = _texts(data)[:_MOST]
        for prompt, answer in rows:
            assert judge.judge(prompt, answer).reward == 1, f"{answer!r} is the answer to {prompt!r}, and not worth 1"
            other = next((wrong for _, wrong in rows if wrong.casefold() != answer.casefold()), "")
            for reply in ("", other):
                verdict = judge.judge(prompt, reply)
                assert verdict.reward < 1, f"{reply!r} is worth 1, too, where {answer!r} is the answer"
                assert verdict.feedback.strip() and not verdict.is_failure, f"nothing is said of {reply!r}"


def judges_take_any_reply(scenario: Scenario) -> None:
    """Replies that look like markup, code, control characters or a feedback are texts like others: none raises, none is
    right, the same verdict comes twice, and the feedback on each has no line that the reply has put there."""
    for judge, data in _judged(scenario.open(Phase.SINGLE, None)):
        prompt, _ = _texts(data)[0]
        lines = len(judge.judge(prompt, "").feedback.splitlines())
        for reply in _ODD:
            verdict = judge.judge(prompt, reply)
            assert verdict == judge.judge(prompt, reply), f"{reply[:40]!r} gets another verdict the second time"
            assert verdict.reward < 1 and not verdict.is_failure, f"{reply[:40]!r} is not judged as a wrong reply"
            assert len(verdict.feedback.splitlines()) <= lines + 1 and "Expected: nothing" not in \
                verdict.feedback.splitlines(), f"{reply[:40]!r} writes into the feedback"


def judges_know_their_own_problems(scenario: Scenario) -> None:
    """The judge that a strategy is given knows no held-out problem."""
    stream = scenario.open(Phase.SINGLE, None)
    for experience in stream:
        prompt, answer = _texts(stream.test(experience.index).data)[0]
        assert experience.judge is not None
        try:
            experience.judge.judge(prompt, answer)
        except DataLeak:
            continue
        raise AssertionError("the judge of an experience answers for held-out problems")


TEXT_CHECKS: tuple[Callable[[Scenario], None], ...] = (rows_are_texts, prompts_are_apart)
VERIFIER_CHECKS: tuple[Callable[[Scenario], None], ...] = (
    prompts_do_not_tell_answers, judges_go_by_the_answers, judges_take_any_reply, judges_know_their_own_problems)


def language_checks(scenario: Scenario) -> tuple[Callable[[Scenario], None], ...]:
    """Those that a scenario is held against, by what it offers."""
    return (*(TEXT_CHECKS if Need.TEXT in scenario.offers else ()),
            *(VERIFIER_CHECKS if Need.VERIFIER in scenario.offers else ()))
