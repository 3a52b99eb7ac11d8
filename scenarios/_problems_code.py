"""What a short Python program prints.

    a = 7
    print(a * 3 + 2)   ->   23

Programs are made together with what they print, so that none is ever run to ask the question or to check a reply. After
CodeI/O (Li et al., 2025, arXiv 2502.07316), whose tasks predict outputs of longer functions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from cl_framework.problems import Problem, Verdict, first_line, quoted, right, wrong

from ._problems import Kind

QUESTION = "What does this Python program print?"
"""The first line of each prompt; the program follows."""
_LARGEST = {1: 9, 2: 20, 3: 99}
_LETTERS = "abcdeghilmnoprstu"
_NAMES = "abnxyz"


class _Program(NamedTuple):
    lines: Sequence[str]
    printed: object


def _chain(numbers: random.Random, largest: int) -> _Program:
    """Two assignments and a sum."""
    name, other = numbers.sample(_NAMES, 2)
    a, b, c = (numbers.randint(1, largest) for _ in range(3))
    return _Program([f"{name} = {a}", f"{other} = {name} + {b}", f"print({other} * 2 - {c})"], (a + b) * 2 - c)


def _loop(numbers: random.Random, largest: int) -> _Program:
    """A sum over a range."""
    a, b, n = numbers.randint(1, largest), numbers.randint(0, largest), numbers.randint(2, 5)
    printed = b + sum(a * i for i in range(n))
    return _Program([f"t = {b}", f"for i in range({n}):", f"    t += i * {a}", "print(t)"], printed)


def _condition(numbers: random.Random, largest: int) -> _Program:
    """One of two terms."""
    n, limit, a = (numbers.randint(1, largest) for _ in range(3))
    return _Program([f"n = {n}", f"print(n * {a} if n > {limit} else n - {a})"], n * a if n > limit else n - a)


def _remainder(numbers: random.Random, largest: int) -> _Program:
    """Whole division and what is left."""
    n, d = numbers.randint(10, 10 + 3 * largest), numbers.randint(2, 7)
    return _Program([f"n = {n}", f"print(n // {d} + n % {d})"], n // d + n % d)


def _slice(numbers: random.Random, largest: int) -> _Program:
    """A part of a word, and its first letter behind it."""
    word, start = _word(numbers, largest), numbers.randint(1, 2)
    return _Program([f"s = '{word}'", f"print(s[{start}:{start + 2}] + s[0])"], word[start:start + 2] + word[0])


def _replaced(numbers: random.Random, largest: int) -> _Program:
    """A word with one letter for another, in capitals."""
    word = _word(numbers, largest)
    old, new = numbers.choice(word), numbers.choice("kwz")
    printed = word.replace(old, new).upper()
    return _Program([f"s = '{word}'", f"print(s.replace('{old}', '{new}').upper())"], printed)


def _total(numbers: random.Random, largest: int) -> _Program:
    """The sum of the end of a list, and its length."""
    values = [numbers.randint(0, largest) for _ in range(numbers.randint(3, 4))]
    return _Program([f"a = {values}", "print(sum(a[1:]) + len(a))"], sum(values[1:]) + len(values))


def _ordered(numbers: random.Random, largest: int) -> _Program:
    """A list in order, without its smallest value."""
    values = numbers.sample(range(largest + 5), numbers.randint(3, 4))
    return _Program([f"a = {values}", "print(sorted(a)[1:])"], sorted(values)[1:])


def _word(numbers: random.Random, largest: int) -> str:
    return "".join(numbers.sample(_LETTERS, 4 if largest < 10 else 6))


_FAMILIES: Mapping[str, Sequence[Callable[[random.Random, int], _Program]]] = {
    "numbers": (_chain, _loop, _condition, _remainder), "sequences": (_slice, _replaced, _total, _ordered)}


@dataclass(frozen=True, kw_only=True)
class Code(Kind):
    """Programs of two to four lines, about numbers or about texts and lists; the difficulty makes numbers larger."""

    name: ClassVar[str] = "code"
    variants: ClassVar[tuple[str, ...]] = tuple(_FAMILIES)

    def draw(self, numbers: random.Random) -> Problem:
        """A program of the family."""
        made = numbers.choice(_FAMILIES[self.variants[self.variant]])(numbers, _LARGEST[self.difficulty])
        return Problem("\n".join([QUESTION, *made.lines]), str(made.printed), self.name)

    def check(self, problem: Problem, reply: str) -> Verdict:
        """The first line must be what is printed."""
        if first_line(reply) == problem.answer:
            return right()
        return wrong(f"Wrong: {quoted(first_line(reply))} is not what is printed.", expected=problem.answer)
