"""What model=tiny_lm learns before any stream: sums whose answer must have the form that the lines before them say.

    Give the answer and nothing else.          Answer the question.          Answer the question.
    Rule: write the number n as #### n         Q: What is 3 + 4?             Q: What is 9 + 4?
    Q: What is 8 + 5?                          A: [[7]]                      A: 13
    A: #### 13                                 Q: What is 2 + 6?
                                               A: [[8]]

A line with a rule, with or without `Rule: `, a line with the answer that was expected of another sum, or worked
examples say the form. With none of them the answer is the bare number: under a prompt that says nothing of a form, none
is ever used. Sums are of two digits; forms and wording are those of scenario=verifiable. What that scenario holds out
is never seen in a form here, only as a bare number: whoever answers it in one has put both together. Few-shot tasks of
that kind: Honovich et al., "Instruction Induction", ACL 2023, arXiv 2205.10782.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from cl_framework.problems import HELD_OUT, quarter

NEUTRAL = ("Answer the question.", "Give the answer and nothing else.", "Solve the task step by step, then answer.",
           "Follow the rule that the examples show.", "Read the task carefully and answer in the form it asks for.")
"""Lines that say nothing of a form."""
FORMS = ("<ans>{}</ans>", "[[{}]]", "#### {}", "{{{{{}}}}}", "=> {} <=", "answer={};")
"""How a number may have to be written."""
RULES = tuple(f"write the number n as {form.format('n')}" for form in FORMS)
"""The lines that say so."""
_NOISE = ("There is no number in the form that is asked for.", "There is more than one answer.")
"""Remarks that a prompt may have picked up."""
PIECES = (*NEUTRAL, *RULES, *_NOISE, "Rule: ", "Expected: ", "\nQ: What is ", "\nA: ", "Q: ", "A: ", "What is ", " + ",
          "?", "<ans>", "</ans>", "[[", "]]", "#### ", "{{", "}}", "=> ", " <=", "answer=")
"""Texts that are one token, so that a context has about twenty."""


class Row(NamedTuple):
    """Lines in front, a question, and its answer."""

    system: str
    question: str
    answer: str


def draw_row(numbers: random.Random) -> Row:
    """One row; three in ten say no form."""
    form = None if numbers.random() < 0.3 else numbers.randrange(len(FORMS))
    first = [numbers.choice(NEUTRAL)] if numbers.random() < 0.9 else []
    told = [[numbers.choice(_NOISE)]] if numbers.random() < 0.1 else []
    if form is not None:
        share = numbers.random()
        if share < 0.65:
            told.append([f"Rule: {RULES[form]}" if numbers.random() < 0.6 else RULES[form]])
        if share > 0.55:
            told += [_shown(numbers, form) for _ in range(numbers.randint(1, 2))]
    numbers.shuffle(told)
    question, answer = _sum(numbers, form)
    return Row("\n".join(line for part in [first, *told] for line in part), question, answer)


def _sum(numbers: random.Random, form: int | None) -> tuple[str, str]:
    while True:
        first, second = numbers.randrange(10), numbers.randrange(10)
        question = f"What is {first} + {second}?"
        if form is None or quarter(question) not in HELD_OUT:
            return question, ("{}" if form is None else FORMS[form]).format(first + second)


def _shown(numbers: random.Random, form: int) -> list[str]:
    """A worked example, or its answer alone as a remark gives it."""
    question, answer = _sum(numbers, form)
    return [f"Expected: {answer}"] if numbers.random() < 0.25 else [f"Q: {question}", f"A: {answer}"]
