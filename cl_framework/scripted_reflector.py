"""A reflector that needs no language model: edits of a prompt, drawn from a seed.

It stands in for the reflection model of FST (Tiwari et al. 2026, arXiv 2605.12484) where none is at hand, and is not
that: it edits lines and understands none. Results that it led to are to be called so.

    rule        append the rule that the remarks on failed replies tell (a line that begins with `Rule: `), or, where
                they tell none, the line that most of them share
    example     append a failed problem with its right answer
    delete      remove a line
    reorder     put the lines in another order
    paraphrase  put another wording of a common instruction in the place of the first line, or before it

`operators=RANDOM` leaves out the two that read what happened: random edits, as a control.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch

from cl_framework.problems import RULE
from cl_framework.reflectors import Reflection, Trial

WORDINGS = ("Answer the question.", "Give the answer and nothing else.", "Solve the task step by step, then answer.",
            "Follow the rule that the examples show.", "Read the task carefully and answer in the form it asks for.")
"""Wordings of an instruction that says nothing of a task."""
OPERATORS = ("rule", "example", "delete", "reorder", "paraphrase")
RANDOM = ("delete", "reorder", "paraphrase")
_PASSING = 1.0


class ScriptedReflector:
    """Applies one edit, drawn among those that change the prompt.

    Args:
        operators: the edits that it may draw.
        form: how a worked example is written, with the fields `problem` and `answer`.
    """

    def __init__(self, operators: Sequence[str] = OPERATORS, form: str = "Q: {problem}\nA: {answer}") -> None:
        edits: Mapping[str, Callable[[list[str], Sequence[Trial], torch.Generator], list[str]]] = {
            "rule": self._rule, "example": self._example, "delete": _delete, "reorder": _reorder,
            "paraphrase": _paraphrase}
        self._edits = [(name, edits[name]) for name in operators]
        self._form = form

    def reflect(self, prompt: str, trials: Sequence[Trial], generator: torch.Generator) -> Reflection | None:
        """The prompt after one edit; None where no edit changes it."""
        lines = prompt.splitlines()
        failed = [trial for trial in trials if trial.reward < _PASSING]
        for place in torch.randperm(len(self._edits), generator=generator).tolist():
            name, edit = self._edits[place]
            edited = "\n".join(edit(lines, failed, generator)).strip()
            if edited and edited != prompt:
                return Reflection(edited, name)
        return None

    def _rule(self, lines: list[str], failed: Sequence[Trial], generator: torch.Generator) -> list[str]:
        """With a line that most remarks have and the prompt has not, a rule where there is one; of equals any."""
        heard = Counter(line for trial in failed for line in {*trial.feedback.splitlines()} if line.strip())
        rules = Counter({line.removeprefix(RULE): n for line, n in heard.items() if line.startswith(RULE)})
        found = {line: n for line, n in (rules or heard).items() if line not in lines}
        if not found:
            return lines
        return [*lines, _pick(sorted(line for line, n in found.items() if n == max(found.values())), generator)]

    def _example(self, lines: list[str], failed: Sequence[Trial], generator: torch.Generator) -> list[str]:
        """With a failed problem and its right answer."""
        known = "\n".join(lines)
        shown = [self._form.format(problem=trial.problem, answer=trial.answer) for trial in failed if trial.answer]
        fresh = sorted({text for text in shown if text not in known})
        return [*lines, *_pick(fresh, generator).splitlines()] if fresh else lines


def _pick(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (), generator=generator))]


def _delete(lines: list[str], failed: Sequence[Trial], generator: torch.Generator) -> list[str]:
    """Without one line; the last one stays."""
    if len(lines) < 2:
        return lines
    place = int(torch.randint(len(lines), (), generator=generator))
    return lines[:place] + lines[place + 1:]


def _reorder(lines: list[str], failed: Sequence[Trial], generator: torch.Generator) -> list[str]:
    """In another order."""
    return [lines[place] for place in torch.randperm(len(lines), generator=generator).tolist()]


def _paraphrase(lines: list[str], failed: Sequence[Trial], generator: torch.Generator) -> list[str]:
    """With another wording in the place of the first line, if that is one, else before it."""
    rest = lines[1:] if lines and lines[0] in WORDINGS else lines
    return [_pick([text for text in WORDINGS if text not in lines] or list(WORDINGS), generator), *rest]
