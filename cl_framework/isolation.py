"""Which streams may be opened: while a run or a search is under way, its own and no other.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066), rule
R5: tuning has no handle on the evaluation data. A limit holds for the process and not for a thread, so that a thread
that a plugin starts is held to it, too; a worker puts up its own. What a scenario opens inside its own `open` is its
own doing, in the same phase or whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from cl_framework.errors import DataLeak
from cl_framework.types import Phase

if TYPE_CHECKING:
    from cl_framework.scenario import Scenario


@dataclass(frozen=True, kw_only=True, eq=False)
class _Limit:
    """The one stream that may be opened, and which streams were asked for, with their names."""

    scenario: Scenario
    name: str
    phase: Phase
    opened: set[str] = field(default_factory=set)

    def allows(self, scenario: Scenario, phase: Phase) -> bool:
        """Whether a stream is one of its own; any order of it is."""
        return phase == self.phase and type(scenario) is type(self.scenario) and (
            scenario is self.scenario or asdict(scenario) == asdict(self.scenario))


_LIMITS: list[_Limit] = []
"""Of this process, the outermost first; every one of them holds."""
_OUTER: ContextVar[Phase | None] = ContextVar("the phase of the stream that is being opened", default=None)


@contextmanager
def only(scenario: Scenario, name: str, phase: Phase) -> Iterator[None]:
    """Inside, every other stream is refused.

    Args:
        scenario: the one that may be opened.
        name: what it is called on the command line.
        phase: the one of its streams.
    """
    limit = _Limit(scenario=scenario, name=name, phase=phase)
    _LIMITS.append(limit)
    try:
        yield
    finally:
        _LIMITS.remove(limit)


def ask(scenario: Scenario, name: str, phase: Phase) -> None:
    """Ask for a stream by the name of its scenario, whether it is open already or not.

    Raises:
        DataLeak: it is not the one that may be opened.
    """
    _refuse(scenario, name, phase)
    for limit in _LIMITS:
        limit.opened.add(described(name, phase))


@contextmanager
def opening(scenario: Scenario, phase: Phase) -> Iterator[None]:
    """Around every `open` of every scenario, whoever calls it.

    Raises:
        DataLeak: it is not the stream that may be opened.
    """
    outer = _OUTER.get()
    if outer is None or (_LIMITS and phase not in (outer, Phase.SINGLE)):
        _refuse(scenario, type(scenario).__name__, phase)
    token = _OUTER.set(phase)
    try:
        yield
    finally:
        _OUTER.reset(token)


def openings() -> list[str]:
    """What was asked for since the outermost limit was put up, sorted; nothing where there is none."""
    return sorted(_LIMITS[0].opened) if _LIMITS else []


def described(name: str, phase: str) -> str:
    """A stream in a word, as records name it.

    >>> described("split_digits", "tuning")
    'split_digits phase=tuning'
    """
    return f"{name} phase={phase}"


def _refuse(scenario: Scenario, name: str, phase: Phase) -> None:
    for limit in _LIMITS:
        if not limit.allows(scenario, phase):
            raise DataLeak(f"{described(name, phase)} was opened during a run of {described(limit.name, limit.phase)}, "
                           "which may open no other stream (rule R5 of the protocol); take what is needed from the "
                           "experience that a hook is given")
