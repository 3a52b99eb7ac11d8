"""The ledger: nothing is drawn twice, nothing that was measured is lost."""

import json
import math
import sqlite3

import pytest

from cl_framework import study
from cl_framework.errors import ClfError, ConfigError
from cl_framework.search import Space, draw
from cl_framework.study import JOURNAL, STALE, Ledger
from cl_framework.trials import Score

SPACE = Space({"train.lr": (0.1, 0.01, 0.001), "train.milestones": ([0.5], [0.3, 0.6]),
               "strategy.psmt.momentum": (None, 0.9)})
DRAWS = [draw(SPACE, "psmt", r) for r in range(6)]


def ledger(folder, holder="me", storage=None):
    return Ledger("study", SPACE, folder, storage, holder)


def score(value, failure=None):
    return Score(value=value, average_accuracy=value, n_parameters=math.inf if failure else 10.0, seconds=1.0,
                 failure=failure)


@pytest.fixture(params=["file", "database"])
def opened(request, tmp_path):
    """Opens the same study each time it is called."""
    storage = None if request.param == "file" else f"sqlite:///{tmp_path / 'study.db'}"
    return lambda holder="me": ledger(tmp_path, holder, storage)


def test_values_come_back_as_they_were(opened):
    opened().put_down(DRAWS)
    found = opened().trials()
    assert [dict(trial.values) for trial in found.values()] == DRAWS and list(found) == list(range(6))
    assert {trial.state for trial in found.values()} == {"waiting"}


def test_nothing_is_drawn_again(opened):
    opened().put_down(DRAWS)
    opened().put_down(list(reversed(DRAWS)))
    assert [dict(trial.values) for trial in opened().trials().values()] == DRAWS


def test_a_study_stays_with_the_data_that_it_was_begun_on(opened):
    opened().begin_on({"digits": "abc"})
    opened("other").begin_on({"digits": "abc"})
    for data in ({"digits": "abd"}, {"mnist": "abc"}, {"digits": "abc", "mnist": "x"}, {}):
        with pytest.raises(ConfigError, match=r"was begun on other data \(\{'digits': 'abc'\}, now .*put the old"):
            opened().begin_on(data)


def test_scores_are_kept_as_soon_as_they_are_known(opened):
    first = opened()
    first.put_down(DRAWS)
    assert first.claim(2)
    first.record(2, 0, score(0.5))
    first.record(2, 1, score(0.1, "the loss is nan"))
    found = opened().trials()[2]
    assert found.state == "running" and found.mean == pytest.approx(0.3)
    assert found.scores[0] == score(0.5) and found.failures == {1: "the loss is nan"}
    assert found.scores[1].n_parameters == math.inf


def test_a_trial_ends_once(opened):
    first = opened()
    first.put_down(DRAWS)
    for number, state in enumerate(("complete", "failed", "pruned")):
        first.claim(number)
        first.record(number, 0, score(0.5))
        first.end(number, state, 0.5)
        first.end(number, "failed", 0.1)
        first.record(number, 1, score(0.9))
    found = opened().trials()
    assert [found[number].state for number in range(4)] == ["complete", "failed", "pruned", "waiting"]
    assert list(found[0].scores) == [0] and not opened().claim(0)


def test_a_dead_trial_is_taken_up_under_its_number(opened):
    first = opened()
    first.put_down(DRAWS)
    first.claim(0)
    first.record(0, 0, score(0.5))
    again = opened()
    assert again.claim(0)
    assert again.trials()[0].scores == {0: score(0.5)} and dict(again.trials()[0].values) == DRAWS[0]


def test_a_trial_of_another_machine_is_left_alone_while_it_lives(opened, monkeypatch):
    opened("there").put_down(DRAWS)
    opened("there").claim(0)
    here, now = opened("here"), [0.0]
    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(study.time, "time", lambda: 1e9 * (-1) ** int(now[0]))  # clocks jump, and decide nothing
    assert not here.claim(0) and here.claim(1)
    now[0] = STALE - 1
    opened("there").beat([0])
    assert not here.claim(0)
    now[0] = 2 * STALE - 2
    assert not here.claim(0)
    now[0] = 2 * STALE
    assert here.claim(0)


def test_two_machines_that_put_down_at_once_have_one_study(opened, monkeypatch):
    one, other = opened("one"), opened("other")
    monkeypatch.setattr(one, "_frozen", dict)  # it looked before the other had put anything down
    other.put_down(DRAWS)
    one.put_down(DRAWS)
    found = opened().trials()
    assert len(found) == 6 and [dict(trial.values) for trial in found.values()] == DRAWS


def test_proposals_depend_on_what_is_over_alone(tmp_path):
    def search(folder, restarts):
        folder.mkdir()
        book, proposed = ledger(folder), []
        for number in range(14):
            assert book.ask("psmt") == number
            values = book.trials()[number].values
            proposed.append(dict(values))
            book.record(number, 0, score(values["train.lr"]))
            book.end(number, "complete", values["train.lr"])
            if restarts:
                book = ledger(folder)
        return proposed

    straight = search(tmp_path / "straight", False)
    assert straight == search(tmp_path / "restarted", True)
    assert sum(values["train.lr"] == 0.1 for values in straight[10:]) >= 3


def test_a_proposal_that_was_cut_short_is_completed(tmp_path):
    book = ledger(tmp_path)
    book._study.ask({"train.lr": book._axes["train.lr"]})
    assert ledger(tmp_path).claim(0)
    assert set(ledger(tmp_path).trials()[0].values) == set(SPACE.grids)


def test_a_journal_is_mended_after_a_kill(tmp_path):
    book = ledger(tmp_path)
    book.put_down(DRAWS)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 8, "user_at')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    again = ledger(tmp_path)
    again.claim(0)
    assert [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert ledger(tmp_path).trials()[0].state == "running"


@pytest.mark.parametrize("storage", ["nonsense", "foo://here/x", "postgresql://me:secret@127.0.0.1:1/x",
                                     "sqlite:////proc/none/study.db"])
def test_a_storage_that_cannot_be_reached(tmp_path, storage):
    with pytest.raises(ConfigError, match=r"the study cannot be kept in search\.storage=") as caught:
        ledger(tmp_path, storage=storage)
    assert "secret" not in str(caught.value) and "leave search.storage out" in str(caught.value)


def test_a_database_that_is_lost_on_the_way(tmp_path):
    """The tables go while the search runs; with a new, empty database the study cannot pretend that nothing was."""
    path = tmp_path / "study.db"
    held = ledger(tmp_path, storage=f"sqlite:///{path}")
    held.put_down(DRAWS)
    held.claim(0)
    with sqlite3.connect(path) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            database.execute(f"drop table {table}")
    for act in (lambda: held.record(0, 0, score(0.5)), lambda: held.end(0, "complete", 0.5), lambda: held.claim(1),
                held.trials, lambda: held.put_down(DRAWS)):
        with pytest.raises(ClfError, match=r"was lost on the way .*no such table.* give the same command"):
            act()
