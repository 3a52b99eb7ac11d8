"""Arithmetic whose answer must have a form that nobody tells: only the feedback on a reply does.

    What is 17 + 5?   ->   <ans>22</ans>

A model that has not been told the form is hardly ever right, so that reinforcement learning alone has nothing to begin
with (the case of zero reward in Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import add, mul, sub
from typing import ClassVar

from cl_framework.problems import Problem, Verdict, right, wrong

from ._problems import Kind

_FORMS = {"tags": "<ans>{}</ans>", "brackets": "[[{}]]", "hashes": "#### {}", "braces": "{{{{{}}}}}",
          "arrows": "=> {} <=", "equation": "answer={};"}
_LARGEST = {0: 9, 1: 49, 2: 99, 3: 99}
_NUMBER = r"(-?[0-9]{1,9})(?!\.?[0-9])"
_OPERATIONS: tuple[tuple[str, Callable[[int, int], int]], ...] = (("+", add), ("-", sub))


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Kind):
    """Sums and differences; of difficulty 2 of three numbers, of difficulty 3 with a product. Of difficulty 0 there are
    the hundred sums of two digits alone, which model=tiny_lm can add."""

    name: ClassVar[str] = "arithmetic"
    variants: ClassVar[tuple[str, ...]] = tuple(_FORMS)
    easiest: ClassVar[int] = 0

    @property
    def _form(self) -> str:
        return _FORMS[self.variants[self.variant]]

    def draw(self, numbers: random.Random) -> Problem:
        """A term of small numbers."""
        largest = _LARGEST[self.difficulty]
        value = numbers.randint(0, largest)
        text = str(value)
        if self.difficulty == 3:
            factor = numbers.randint(2, 9)
            value, text = mul(value, factor), f"{text} * {factor}"
        operations = _OPERATIONS[:1] if self.difficulty == 0 else _OPERATIONS
        for _ in range(1 if self.difficulty < 2 else 2):
            (sign, operation), other = numbers.choice(operations), numbers.randint(0, largest)
            value, text = operation(value, other), f"{text} {sign} {other}"
        return Problem(f"What is {text}?", self._form.format(value), self.name)

    def check(self, problem: Problem, reply: str) -> Verdict:
        """The form must occur once, with the right number in it; what else is said does not matter."""
        pattern = re.escape(self._form.format("\0")).replace("\0", rf"\s*{_NUMBER}\s*")
        found = re.findall(pattern, reply)
        expected = re.findall(pattern, problem.answer)
        rule = f"write the number n as {self._form.format('n')}"
        if len(found) != 1:
            why = "There is no number in the form that is asked for." if not found else "There is more than one answer."
            return wrong(why, expected=problem.answer, rule=rule)
        if int(found[0]) != int(expected[0]):
            return wrong(f"The form is right, but {found[0]} is not the number.", expected=problem.answer, rule=rule)
        return right()
