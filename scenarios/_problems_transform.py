"""Words that are changed by a rule that nobody tells: only the feedback on a reply does.

    Change the word: lamup   ->   pumal

The rule can be learned from a few worked examples, in the weights or in a prompt (Honovich et al., "Instruction
Induction", ACL 2023, arXiv 2205.10782, asks language models for such rules). Words are made of random syllables, so
that none has a meaning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from cl_framework.problems import Problem, Verdict, first_line, quoted, right, wrong

from ._problems import Kind

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_RULES: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "backwards": ("write the word backwards", lambda word: word[::-1]),
    "capitals": ("write the word in capital letters", str.upper),
    "twice": ("write the word twice, with a hyphen between", lambda word: f"{word}-{word}"),
    "consonants": ("leave out the vowels", lambda word: "".join(sign for sign in word if sign not in _VOWELS)),
    "turned": ("move the first letter to the end", lambda word: word[1:] + word[0]),
    "sorted": ("write its letters in the order of the alphabet", lambda word: "".join(sorted(word))),
    "spelled": ("write its letters with blanks between", " ".join),
    "ends": ("write its first and its last letter", lambda word: word[0] + word[-1]),
}


@dataclass(frozen=True, kw_only=True)
class Transform(Kind):
    """Words of as many syllables as the difficulty and one more."""

    name: ClassVar[str] = "transform"
    variants: ClassVar[tuple[str, ...]] = tuple(_RULES)

    def draw(self, numbers: random.Random) -> Problem:
        """A word that the rule does change."""
        _, change = _RULES[self.variants[self.variant]]
        while True:
            word = "".join(numbers.choice(_CONSONANTS) + numbers.choice(_VOWELS) for _ in range(self.difficulty + 1))
            word += numbers.choice(_CONSONANTS)
            if change(word) != word:
                return Problem(f"Change the word: {word}", change(word), self.name)

    def check(self, problem: Problem, reply: str) -> Verdict:
        """The first line must be the changed word."""
        if first_line(reply) == problem.answer:
            return right()
        rule, _ = _RULES[self.variants[self.variant]]
        return wrong(f"Wrong: {quoted(first_line(reply))} was given.", expected=problem.answer, rule=rule)
