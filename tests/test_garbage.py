"""What only cycles hold is given back while a run goes on, and the collector is afterwards as it was."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator

import pytest

from cl_framework.garbage import set_aside, uncollected
from cl_framework.observer import Observer
from cl_framework.protocol import run_stream
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe


class Trainer:
    """As Lightning's: it holds itself."""

    def __init__(self) -> None:
        self.loop = self


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def _most_waiting(n: int) -> int:
    """How many of n trainers were alive at once that nobody held; each is held for long enough to be called old."""
    alive, held = set[weakref.ref[Trainer]](), deque[Trainer](maxlen=10_000)
    most = 0
    for _ in range(n):
        held.append(Trainer())
        alive.add(weakref.ref(held[-1], alive.discard))
        most = max(most, len(alive) - len(held))
    return most


def test_cycles_do_not_wait_for_a_quarter_of_all_that_was_imported() -> None:
    imported = [[index] for index in range(1_000_000)]
    gc.collect()
    assert _most_waiting(100_000) > 80_000
    with set_aside():
        assert _most_waiting(100_000) < 50_000
    assert len(imported) == 1_000_000, "they were there"


def test_a_later_collection_sees_again_what_was_set_aside() -> None:
    trainer = Trainer()
    seen = weakref.ref(trainer)
    with set_aside():
        del trainer
        gc.collect()
        assert seen() is not None
    gc.collect()
    assert seen() is None


def test_what_somebody_else_has_set_aside_stays_so() -> None:
    gc.freeze()
    count, later = gc.get_freeze_count(), [[index] for index in range(10_000)]
    for _ in range(2):
        with set_aside():
            assert 0 < gc.get_freeze_count() < count + len(later) / 2  # some may have ended, none was added
        assert 0 < gc.get_freeze_count() < count + len(later) / 2


def test_it_is_undone_after_an_error_and_a_second_one_within_changes_nothing() -> None:
    with pytest.raises(ValueError, match="within"), set_aside(), set_aside():
        assert gc.get_freeze_count()
        raise ValueError("within")
    assert not gc.get_freeze_count()


def test_a_run_sets_aside_what_is_there_and_undoes_it() -> None:
    counts = list[int]()

    class Look(Observer):
        def evaluated(self, index, record, own):
            counts.append(gc.get_freeze_count())

    stream = Toy(n_train=20).open()
    run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(), observer=Look())
    assert counts and all(counts)
    assert not gc.get_freeze_count()


def _started() -> list[int]:
    return [generation["collections"] for generation in gc.get_stats()]


def test_no_collection_starts_while_libraries_are_imported() -> None:
    gc.collect()
    before = _started()
    with uncollected():
        made = [[index] for index in range(100_000)]
        assert _started() == before
    waiting = len(gc.get_objects(generation=0)) + len(gc.get_objects(generation=1))
    assert gc.isenabled() and not gc.get_freeze_count() and len(made) == 100_000
    assert waiting < 50_000, "they count as looked through"


def test_what_is_imported_without_collections_can_be_collected_later() -> None:
    with uncollected():
        trainer = Trainer()
        seen = weakref.ref(trainer)
        del trainer
        assert seen() is not None
    gc.collect()
    assert seen() is None


def test_who_has_switched_collections_off_or_set_objects_aside_keeps_that() -> None:
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    gc.freeze()
    with uncollected():
        assert gc.isenabled()
    assert gc.get_freeze_count()


def test_collections_are_on_again_after_an_error() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError("no such library")
    assert gc.isenabled()
