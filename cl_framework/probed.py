"""A judge that also names problems to measure a policy on: neither learned from nor tested, and without their answers.

How far a policy has moved is asked of problems that it was not trained on (Tiwari et al., "Learning, Fast and Slow",
2026, arXiv 2605.12484, section 4, on validation problems), and the held-out ones are the evaluator's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from cl_framework.problems import Judge, Verdict


class Probed:
    """A judge of some problems, and the questions of a few more.

    Args:
        judge: of the problems; no reply to one of the questions is judged.
        probes: the questions.

    Attributes:
        probes: see above.
    """

    def __init__(self, judge: Judge, probes: Sequence[str]) -> None:
        self._judge, self.probes = judge, tuple(probes)

    def judge(self, prompt: str, reply: str) -> Verdict:
        """What the judge says."""
        return self._judge.judge(prompt, reply)


def probes_of(judge: Judge | None) -> tuple[str, ...]:
    """The questions that a judge names; none where it names none.

    >>> from cl_framework.problems import Checked
    >>> probes_of(Probed(Checked([], {}), ["1 + 2"])), probes_of(None)
    (('1 + 2',), ())
    """
    return judge.probes if isinstance(judge, Probed) else ()
