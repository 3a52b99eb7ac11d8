"""What a strategy is given at a boundary of the stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from cl_framework.data import Dataset
from cl_framework.errors import DataLeak
from cl_framework.problems import Judge


@dataclass(frozen=True, kw_only=True, eq=False)
class Experience:
    """What arrives between two boundaries and is learned together. It refers to nothing beyond itself.

    Attributes:
        index: position in the stream, from 0.
        classes: labels that occur in it, relabelled in order of appearance.
        class_names: the original label of each, for reports.
        train: its training rows.
        task: its task label, or None where the scenario gives none.
        name: what it is called in tables, e.g. a corruption; empty where its classes say it.
        judge: says how right a reply to one of its training prompts is, `Need.VERIFIER`; None where rows have labels or
            texts alone.
        past: earlier training rows; None when the strategy did not declare `Need.HISTORY`.
    """

    index: int
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    train: Dataset
    task: int | None = None
    name: str = ""
    judge: Judge | None = None
    past: tuple[Dataset, ...] | None = field(default=None, repr=False)

    @property
    def history(self) -> tuple[Dataset, ...]:
        """Training rows of every earlier experience.

        Raises:
            DataLeak: the strategy does not declare `Need.HISTORY`.
        """
        if self.past is None:
            raise DataLeak(
                f"experience {self.index} was asked for the data of earlier ones, but the strategy does not "
                "declare it; add `needs = frozenset({Need.HISTORY})` to the class if it may re-read the past"
            )
        return self.past
