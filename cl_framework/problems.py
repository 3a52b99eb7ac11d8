"""Problems with a checker: what is asked, and what a judge says of a reply.

A reply y to a problem x gets a reward r(x, y) of [0, 1] and a feedback in words. The reward is all that reinforcement
learns from; the feedback may name the rule, the answer that was expected, or what went wrong, and is read by whoever
improves a prompt (Agrawal et al., GEPA, 2025, arXiv 2507.19457, section 3). A reply is text from a model: it is
compared and searched, never executed.

Feedback is made of lines. One that begins with `Rule: ` says a rule that holds for all problems of its kind, one that
begins with `Expected: ` the answer to this problem.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from cl_framework.errors import DataError, DataLeak, printable

RULE = "Rule: "
"""Begins the line of a feedback that says a rule of the kind."""
EXPECTED = "Expected: "
"""Begins the line of a feedback that says the answer to the problem."""
LEARNED, HELD_OUT = (0, 1), (2, 3)
"""Quarters of all problems whose answers may be learned, and those that no training sees."""
_SHOWN = 200
"""Characters of a text or an error that a message repeats at most."""


class Problem(NamedTuple):
    """A question with its answer.

    Attributes:
        prompt: what is asked; problems of one judge are told apart by it.
        answer: a reply that is right.
        kind: which checker it has.
    """

    prompt: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a reply.

    Attributes:
        reward: how right it is, in [0, 1].
        feedback: why, in lines; see the module.
        is_failure: the checker raised an error, and `reward` is 0 for that reason.

    Raises:
        DataError: the reward is not in [0, 1].
    """

    reward: float
    feedback: str
    is_failure: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.reward) and 0 <= self.reward <= 1):
            raise DataError(f"a reward must lie in [0, 1], got {self.reward}; scale what the checker returns")


class Judge(Protocol):
    """Says how right replies are. The same reply to the same prompt always gets the same verdict."""

    def judge(self, prompt: str, reply: str) -> Verdict:
        """The verdict on a reply.

        Raises:
            DataLeak: the prompt is none of its problems.
        """


Checker = Callable[[Problem, str], Verdict]
"""Compares a reply with a problem's answer."""


class Checked:
    """The judge of some problems, found by their prompts; it knows no others.

    Args:
        problems: no two have one prompt.
        checkers: a checker for each kind.
        on_error: what becomes of a checker that raises: `zero` gives a verdict of reward 0 that names the error and is
            marked as a failure, `stop` lets the run stop.

    Raises:
        DataError: two problems have one prompt.

    >>> sums = Checked([Problem("1 + 1", "2", "sum")], {"sum": exactly})
    >>> sums.judge("1 + 1", " 2").reward, sums.judge("1 + 1", "3").feedback
    (1.0, 'Wrong.\\nExpected: 2')
    """

    def __init__(self, problems: Iterable[Problem], checkers: Mapping[str, Checker],
                 on_error: Literal["zero", "stop"] = "zero") -> None:
        self._problems: dict[str, Problem] = {}
        for problem in problems:
            if problem.prompt in self._problems:
                raise DataError(f"two problems have the prompt {_short(problem.prompt)!r}; draw each once")
            self._problems[problem.prompt] = problem
        self._checkers, self._on_error = dict(checkers), on_error

    def judge(self, prompt: str, reply: str) -> Verdict:
        """The verdict on a reply.

        Raises:
            DataLeak: the prompt is none of its problems.
            DataError: the checker raises, and `on_error` is `stop`.
        """
        problem = self._problems.get(prompt)
        if problem is None:
            raise DataLeak(f"this judge was asked about {_short(prompt)!r}, which is none of its "
                           f"{len(self._problems)} problems; ask about the rows of its own experience, word by word")
        try:
            return self._checkers[problem.kind](problem, reply)
        except Exception as error:
            what = f"{type(error).__name__}: {_short(str(error))}"
            if self._on_error == "stop":
                raise DataError(f"the checker of kind '{problem.kind}' failed on the problem {_short(prompt)!r} "
                                f"({what}); mend it, or set scenario.on_error=zero") from error
            return Verdict(0.0, f"The reply could not be checked ({what}).", is_failure=True)


def quarter(prompt: str) -> int:
    """Which quarter of all problems a prompt belongs to, by its digest.

    >>> quarter("What is 1 + 1?") in {*LEARNED, *HELD_OUT}
    True
    """
    return hashlib.sha256(prompt.encode()).digest()[0] % 4


def exactly(problem: Problem, reply: str) -> Verdict:
    """Right if the first line of the reply is the answer, but for blanks around it and a full stop behind it."""
    return right() if first_line(reply) == problem.answer else wrong(expected=problem.answer)


def first_line(reply: str) -> str:
    """The first line of a reply that is not blank, without blanks around it and a full stop behind it.

    >>> first_line(" tame. \\nAnd so on"), first_line("")
    ('tame', '')
    """
    lines = (line.strip() for line in reply.splitlines())
    return next((line for line in lines if line), "").removesuffix(".").rstrip()


def right() -> Verdict:
    """The verdict on a right reply."""
    return Verdict(1.0, "Right.")


def wrong(why: str = "Wrong.", *, expected: str, rule: str | None = None, reward: float = 0.0) -> Verdict:
    """The verdict on a reply that is not right.

    Args:
        why: what is wrong with it, in one line.
        expected: the answer.
        rule: the rule that it breaks, in one line; None where there is none to tell.
        reward: what it is worth.
    """
    return Verdict(reward, "\n".join([why, *([] if rule is None else [RULE + rule]), EXPECTED + expected]))


def quoted(reply: str, n: int = 60) -> str:
    """A reply inside a feedback: one line, no control characters, at most n characters.

    >>> quoted("two" + chr(10) + "lines")
    "'two\\\\nlines'"
    """
    if not reply.strip():
        return "nothing"
    return f"'{printable(reply if len(reply) <= n else reply[:n] + '...')}'"


def _short(text: str) -> str:
    return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
