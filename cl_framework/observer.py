"""What a run tells those who watch it: progress bars, loggers, tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.record import StreamRecord
from cl_framework.types import StreamInfo

Moment = Literal["start", "trained", "deployed"]
"""Of an experience: after `before_experience`, after `fit`, after `after_experience`."""


@dataclass
class Cursor:
    """How far a stream has been learned.

    Attributes:
        experience: index of the one being learned.
        call: index of the `train` call inside it.
        epoch: passes finished in this call.
        step: batches finished in this pass.
        stream_step: optimizer steps since the stream began; never restarts.
    """

    experience: int = 0
    call: int = 0
    epoch: int = 0
    step: int = 0
    stream_step: int = 0


def passes(cursor: Cursor, n_steps: int, every: int) -> bool:
    """Whether the last `n_steps` steps went past a multiple of `every`; the same in a resumed run.

    >>> passes(Cursor(stream_step=52), 4, 50), passes(Cursor(stream_step=60), 8, 50)
    (True, False)
    """
    return cursor.stream_step // every > (cursor.stream_step - n_steps) // every


class Observer:
    """Is told what happens and changes nothing. Every method may be left out."""

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """A stream begins, or goes on at `cursor` with `record.n_done` experiences already learned."""

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """Training on `n_steps` batches begins."""

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Some batches were learned, with these losses."""

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        """Experience `index` has come so far, and these are the weights; to be read and not to be changed.

        A run that goes on inside an experience does not begin it anew. The time spent here is nobody's training time.
        """

    def saving(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """A checkpoint is about to be written; inside an experience `losses` are those of the last batches.

        `stepped` tells of these batches only afterwards: a run that is killed in between goes on behind them.
        """

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Experience `index` is learned and evaluated; `own` are the strategy's figures."""

    def documented(self, documents: Mapping[str, Any]) -> None:
        """What the strategy has become that is no number, by name: before `evaluated`, and when a run is taken up."""

    def finished(self, record: StreamRecord) -> None:
        """The stream is over."""

    def close(self) -> None:
        """The run ends, well or not; called once and last."""


class Observers(Observer):
    """Several observers, told in order."""

    def __init__(self, members: Sequence[Observer]) -> None:
        self._members = tuple(members)

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Tell each."""
        for member in self._members:
            member.started(info, record, cursor)

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        """Tell each."""
        for member in self._members:
            member.reached(moment, index, model)

    def saving(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Tell each."""
        for member in self._members:
            member.saving(cursor, losses)

    def experience_started(self, experience: Experience, n_steps: int) -> None:
        """Tell each."""
        for member in self._members:
            member.experience_started(experience, n_steps)

    def stepped(self, cursor: Cursor, losses: Sequence[float]) -> None:
        """Tell each."""
        for member in self._members:
            member.stepped(cursor, losses)

    def evaluated(self, index: int, record: StreamRecord, own: Mapping[str, float]) -> None:
        """Tell each."""
        for member in self._members:
            member.evaluated(index, record, own)

    def documented(self, documents: Mapping[str, Any]) -> None:
        """Tell each."""
        for member in self._members:
            member.documented(documents)

    def finished(self, record: StreamRecord) -> None:
        """Tell each."""
        for member in self._members:
            member.finished(record)

    def close(self) -> None:
        """Tell each."""
        for member in self._members:
            member.close()
