"""What may be opened while a run or a search is under way, and what two phases share before a search is paid for."""

import threading
from dataclasses import dataclass

import pytest
import yaml
from rich.console import Console

from cl_framework import apart, cli
from cl_framework.config import resolve
from cl_framework.errors import ConfigError, DataLeak
from cl_framework.isolation import only, openings
from cl_framework.launch import open_stream
from cl_framework.plan import plans
from cl_framework.registry import load
from cl_framework.scenario import Scenario
from cl_framework.tuning import tune
from cl_framework.tuning_pool import Task, attempt
from cl_framework.types import Phase

FAST = ["scenario=split_digits", "train.epochs=1", "track.wandb=disabled", "search.trials=1", "search.seeds=1"]
Digits = load("scenario", "split_digits")


@pytest.fixture
def tuning():
    """A limit to the tuning stream of the digits."""
    with only(Digits(), "split_digits", Phase.TUNING):
        yield


def test_its_own_stream_is_opened_in_any_order(tuning):
    for order_seed in (None, 0, 1):
        assert {name for each in Digits().open(Phase.TUNING, order_seed) for name in each.class_names} == set("01234")


@pytest.mark.parametrize(("scenario", "phase", "named"), [
    (lambda: Digits(), Phase.EVALUATION, "phase=evaluation was opened during a run of split_digits phase=tuning"),
    (lambda: Digits(), Phase.SINGLE, "phase=single"),
    (lambda: Digits(sizes=[2, 3]), Phase.TUNING, "SplitDigits phase=tuning"),
    (lambda: load("scenario", "split_mnist")(), Phase.TUNING, "SplitMnist|SplitMNIST")])
def test_every_other_stream_is_refused(tuning, scenario, phase, named):
    with pytest.raises(DataLeak, match=named):
        scenario().open(phase, 0)


def test_a_thread_is_held_to_it_too(tuning):
    seen = []

    def peek():
        try:
            seen.append(Digits().open(Phase.EVALUATION, 0))
        except DataLeak as error:
            seen.append(error)

    thread = threading.Thread(target=peek)
    thread.start()
    thread.join()
    assert isinstance(seen[0], DataLeak)


def test_a_stream_that_is_open_already_is_refused_and_what_was_asked_for_is_listed():
    jobs = {phase: resolve({"scenario": "split_digits", "strategy": "naive", "phase": phase})
            for phase in ("tuning", "evaluation")}
    whole = open_stream(jobs["evaluation"])
    with only(jobs["tuning"].scenario, "split_digits", Phase.TUNING):
        with pytest.raises(DataLeak):
            open_stream(jobs["evaluation"])
        open_stream(jobs["tuning"])
        assert openings() == ["split_digits phase=tuning"]
    assert openings() == [] and open_stream(jobs["evaluation"]) is whole


@dataclass(kw_only=True)
class Sly(Scenario):
    """Shows what it was asked for, and looks at the other half on the way."""

    peeks: bool = True

    def open(self, phase, order_seed):
        if self.peeks:
            Digits().open(Phase.EVALUATION, order_seed)
        return Digits().open(phase, order_seed)


def test_a_scenario_may_open_another_inside_but_not_of_another_phase():
    with only(Sly(peeks=False), "sly", Phase.TUNING):
        assert Sly(peeks=False).open(Phase.TUNING, None)[0].class_names == ("0",)
    with only(Sly(), "sly", Phase.TUNING), pytest.raises(DataLeak):
        Sly().open(Phase.TUNING, 0)
    assert len(Sly().open(Phase.TUNING, 0)), "nobody is at work: nothing is refused"


PEEK = '''
from dataclasses import dataclass
from cl_framework.registry import load
from cl_framework.strategies.naive import Naive
from cl_framework.types import Phase

@dataclass(kw_only=True)
class Peek(Naive):
    """Looks at the evaluation stream."""
    def {hook}:
        rows = sum(len(each.train) for each in load("scenario", "split_digits")().open(Phase.EVALUATION, 0))
        open("peeked", "w").write(str(rows))
'''


@pytest.mark.parametrize("hook", ["setup(self, model, info)", "after_experience(self, model, experience)"])
def test_a_strategy_that_looks_at_the_evaluation_stream_ends_the_search(hook, tmp_path, monkeypatch, capsys):
    name = f"peek_in_{hook.partition('(')[0]}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(PEEK.replace("{hook}", hook))
    assert cli.main(["tune", *FAST, f"strategy={name}:Peek", f"out={tmp_path}"]) == 1
    assert "opened during a run of split_digits phase=tuning" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "peeked").exists() and not list(tmp_path.rglob("best.yaml"))


def test_a_worker_puts_up_a_limit_of_its_own(tmp_path, monkeypatch):
    """`attempt` is what a process of a pool is given; nothing else is known there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "peek_elsewhere.py").write_text(PEEK.replace("{hook}", "after_experience(self, model, experience)"))
    job = resolve({"scenario": "split_digits", "strategy": "peek_elsewhere:Peek", "phase": "tuning",
                   "train.epochs": 1, "track.wandb": "disabled"})
    with pytest.raises(DataLeak):
        attempt(Task((job.hash, 0), job.tree, 0), tmp_path, "clf tune")
    assert not (tmp_path / "peeked").exists() and openings() == []


def test_the_file_of_phase_1_says_what_was_opened(tmp_path):
    assert cli.main(["tune", *FAST, "strategy=naive", f"out={tmp_path}"]) == 0
    (path,) = tmp_path.rglob("best.yaml")
    assert yaml.safe_load(path.read_text())["opened"] == ["split_digits phase=tuning"]


OTHERS = '''
from dataclasses import dataclass
from cl_framework.scenarios.split import SplitDigits

@dataclass(kw_only=True)
class Again(SplitDigits):
    """The digits under another name."""

@dataclass(kw_only=True)
class Absent(SplitDigits):
    """Data that cannot be had."""
    def read(self):
        """Nothing."""
        raise RuntimeError("no such data here")
'''


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans of a search that is reported on a scenario of the user's own; what is done elsewhere is done here."""
    monkeypatch.setattr(apart, "_elsewhere", apart.apart_faults)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "isolation_others.py").write_text(OTHERS)
    return lambda *evaluate, **more: plans({"scenario": ["split_digits"], "strategy": ["naive"],
                                            "search.evaluate": [[f"isolation_others:{name}" for name in evaluate]],
                                            "search.trials": [1], "search.seeds": [1], **more}, tmp_path)[0]


def test_phases_that_overlap_are_refused_before_the_search(planned):
    began = []
    with pytest.raises(ConfigError, match=r"Again shares 10 classes with the tuning stream.*rule R1") as caught:
        tune(planned("Again"), 1, "", Console(quiet=True), began.extend)
    assert "shares 17" in str(caught.value) and "images" in str(caught.value) and began == []


def test_a_stream_that_cannot_be_had_yet_is_a_note(planned, capsys):
    """Phase 1 has no need of it."""
    with pytest.raises(KeyboardInterrupt):
        tune(planned("Absent"), 1, "", Console(stderr=True), begun)
    assert "whether the phases are apart is not known yet: RuntimeError: no such data here" in " ".join(
        capsys.readouterr().err.split())


def begun(tasks):
    """A pool that shows that the search has begun."""
    raise KeyboardInterrupt
