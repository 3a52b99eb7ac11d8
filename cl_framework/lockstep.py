"""Runs of one process in lockstep: each goes on by itself, and at every chunk of batches they wait for one another.

A run is a coroutine: a thread that holds the baton or waits for it, so that exactly one runs at a time. A run that has
a chunk to learn asks and waits. Where all of them wait, those that have come least far are answered: runs that were
taken up behind the others catch up first, and from then on all chunks are learned together. What the global generators
hold changes hands with the baton, so that every run draws the numbers that it draws alone.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_framework import seeding
from cl_framework.errors import Stopped
from cl_framework.observer import Cursor
from cl_framework.types import Batch


class Learning(Protocol):
    """What learns chunks of batches."""

    cursor: Cursor

    def steps(self, chunk: Sequence[Batch]) -> Tensor:
        """Learn the batches one after the other; their losses, [n]."""


@dataclass(eq=False)
class Ask:
    """A chunk that a run wants learned.

    Attributes:
        learner: what learns it.
        chunk: its batches.
        rng: the state of the global generators, as the run has left them; kept up to date by who answers.
        losses: the answer, [n].
        fault: what was raised instead.
    """

    learner: Learning
    chunk: Sequence[Batch]
    rng: dict[str, Any] = field(default_factory=dict)
    losses: Tensor | None = None
    fault: BaseException | None = None

    @property
    def position(self) -> tuple[int, int, int, int]:
        """How far the run has come."""
        cursor = self.learner.cursor
        return cursor.experience, cursor.call, cursor.epoch, cursor.step

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, torch's generators are those of the run."""
        torch.set_rng_state(self.rng["torch"])
        if self.rng["cuda"]:
            torch.cuda.set_rng_state_all(self.rng["cuda"])
        yield
        self.rng["torch"] = torch.get_rng_state()
        if self.rng["cuda"]:
            self.rng["cuda"] = torch.cuda.get_rng_state_all()

    def alone(self) -> None:
        """Learn the chunk as a run by itself does."""
        seeding.restore(self.rng)
        self.losses = self.learner.steps(self.chunk)
        self.rng = seeding.capture()


Answer = Callable[[Sequence[Ask]], None]
"""Learns chunks of runs that have come equally far."""


@dataclass(eq=False)
class _Run:
    """A thread, and where it stands."""

    body: Callable[[], Any]
    rng: dict[str, Any]
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ask: Ask | None = None
    outcome: Any = None
    fault: BaseException | None = None
    is_over: bool = False


class Lockstep:
    """Several runs, one at a time, together at each chunk.

    Args:
        answer: learns the chunks of those that wait.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._back = threading.Semaphore(0)
        self._is_ended = False

    def run(self, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each body returns.

        Raises:
            BaseException: what the first body raised that raised anything, once all are over.
        """
        runs = [_Run(body, seeding.capture()) for body in bodies]
        threads = [threading.Thread(target=contextvars.copy_context().run, args=(self._live, run), daemon=True)
                   for run in runs]
        with seeding.untouched():
            try:
                for run, thread in zip(runs, threads, strict=True):
                    thread.start()
                    self._pass_baton(run)
                while waiting := [run for run in runs if not run.is_over]:
                    self._meet(waiting)
            except BaseException:
                self._is_ended = True
                for run, thread in zip(runs, threads, strict=True):
                    run.baton.release()
                    thread.join(timeout=1.0)
                raise
        for run in runs:
            if run.fault is not None:
                raise run.fault
        return [run.outcome for run in runs]

    def _meet(self, waiting: Sequence[_Run]) -> None:
        asks = {id(run): run.ask for run in waiting if run.ask is not None}
        first = min(ask.position for ask in asks.values())
        chosen = [run for run in waiting if asks[id(run)].position == first]
        answered = [asks[id(run)] for run in chosen]
        try:
            self._answer(answered)
        except Exception as fault:
            for ask in answered:
                ask.fault = fault
        for run, ask in zip(chosen, answered, strict=True):
            run.rng = ask.rng
            self._pass_baton(run)

    def _pass_baton(self, run: _Run) -> None:
        """Let a run go on until it asks or ends."""
        seeding.restore(run.rng)
        run.ask = None
        run.baton.release()
        self._back.acquire()
        run.rng = seeding.capture()
        if run.ask is not None:
            run.ask.rng = run.rng

    def _live(self, run: _Run) -> None:
        token = _HERE.set((self, run))
        run.baton.acquire()
        try:
            if not self._is_ended:
                run.outcome = run.body()
        except BaseException as fault:
            run.fault = fault
        finally:
            _HERE.reset(token)
            run.is_over = True
            self._back.release()

    def wait(self, run: _Run, ask: Ask) -> Tensor:
        """Called by a run: hand on the baton until the chunk is learned; its losses, [n].

        Raises:
            Stopped: the runs are to end.
        """
        run.ask = ask
        self._back.release()
        run.baton.acquire()
        if self._is_ended:
            raise Stopped
        if ask.fault is not None:
            raise ask.fault
        assert ask.losses is not None
        return ask.losses


_HERE: contextvars.ContextVar[tuple[Lockstep, _Run] | None] = contextvars.ContextVar("lockstep", default=None)


def learned(learner: Learning, chunk: Sequence[Batch]) -> Tensor:
    """Learn a chunk, together with those of the other runs where this one is in lockstep; its losses, [n]."""
    here = _HERE.get()
    if here is None:
        return learner.steps(chunk)
    return here[0].wait(here[1], Ask(learner, chunk))


@contextmanager
def by_itself() -> Iterator[None]:
    """Inside, a run waits for nobody."""
    token = _HERE.set(None)
    try:
        yield
    finally:
        _HERE.reset(token)
