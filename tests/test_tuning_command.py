"""`clf tune` as a user gives it: what it opens, what a kill costs, how many runs it makes, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from cl_framework import apart, cli, launch
from cl_framework.registry import load
from cl_framework.types import Phase

FAST = ["scenario=split_digits", "strategy=er", "train.epochs=1", "track.wandb=disabled", "search.seeds=2"]


# What is never opened

@pytest.fixture
def poisoned(monkeypatch):
    """Opening an evaluation stream, or MNIST at all, raises."""
    digits = load("scenario", "split_digits")
    genuine = digits.open

    def guarded(self, phase, order_seed):
        assert phase != Phase.EVALUATION, "the evaluation stream was opened"
        return genuine(self, phase, order_seed)

    def never(self, phase, order_seed):
        raise AssertionError("a scenario of phase 2 was opened")

    monkeypatch.setattr(digits, "open", guarded)
    monkeypatch.setattr(load("scenario", "split_mnist"), "open", never)
    from cl_framework import launch
    monkeypatch.setattr(launch, "_STREAMS", {})


def test_tuning_finishes_beside_a_poisoned_evaluation_stream(poisoned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(apart, "_elsewhere", lambda tuning, reported: ([], None))  # their shapes differ
    monkeypatch.setattr(apart, "_KNOWN", {})
    assert cli.main(["tune", *FAST, "search.trials=2", f"out={tmp_path}"]) == 0
    assert cli.main(["tune", *FAST, "search.trials=1", f"out={tmp_path}", "search.evaluate=[split_mnist]"]) == 0
    made = {each["phase"]: each for each in map(yaml.safe_load, (path.read_text() for path in
                                                                 tmp_path.glob("tune/*/*/*/best.yaml")))}
    assert len(made["single"]["classes"]) == 10 and made["single"]["evaluate"] == ["split_mnist"]
    assert len(made["tuning"]["classes"]) == 5
    assert "next: clf evaluate tuned=" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        load("scenario", "split_digits")().open(Phase.EVALUATION, 0)


def test_the_first_experiences_alone(tmp_path):
    assert cli.main(["tune", *FAST, "search.trials=1", "search.experiences=2", f"out={tmp_path}"]) == 0
    runs = list(tmp_path.rglob("summary.json"))
    assert len(runs) == 2 and all(len(json.loads(run.read_text())["accuracy_matrix"]) == 2 for run in runs)
    made = yaml.safe_load(next(tmp_path.rglob("best.yaml")).read_text())
    assert made["chance"] == pytest.approx(0.75) and made["configuration"]["n_experiences"] == 5


# The command line

def test_a_killed_search_goes_on(tmp_path, capsys):
    words = ["tune", "scenario=split_digits", "strategy=er", "protocol=gtep_lite", "search.trials=5", "search.seeds=2",
             "train.epochs=3", "track.wandb=disabled"]
    assert cli.main([*words, f"out={tmp_path / 'whole'}"]) == 0
    killed = subprocess.Popen([sys.executable, "-m", "cl_framework.cli", *words, f"out={tmp_path / 'parts'}"],
                              env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list((tmp_path / "parts").rglob("summary.json"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not list((tmp_path / "parts").rglob("best.yaml"))
    capsys.readouterr()
    assert cli.main([*words, f"out={tmp_path / 'parts'}"]) == 0
    assert "of 10 runs are done" in capsys.readouterr().err
    whole, parts = (yaml.safe_load(next((tmp_path / name).rglob("best.yaml")).read_text()) for name in
                    ("whole", "parts"))
    for made in (whole, parts):
        for score in (score for each in made["trials"] for score in each["seeds"].values()):
            del score["seconds"]
    assert parts["trials"] == whole["trials"] and parts["winner"] == whole["winner"]
    assert parts["study_hash"] == whole["study_hash"]


def test_both_phases_cost_the_trials_times_the_seeds_and_the_seeds_of_the_winner(tmp_path, monkeypatch):
    """R x S + S runs, each learned once (GTEP, section 3); the same commands again cost none."""
    genuine, learned = launch.run_stream, []
    monkeypatch.setattr(launch, "run_stream", lambda *given, **named: learned.append(named["seed"]) or genuine(
        *given, **named))
    words = ["tune", *FAST, "search.sampler=grid", "search.space.train.lr=1e-3,3e-3,1e-2", "search.trials=3",
             "strategy.replay_batch_size=0", "scenario.sizes=[2,3]", f"out={tmp_path}"]
    for _ in range(2):
        assert cli.main(words) == 0
        (path,) = tmp_path.rglob("best.yaml")
        assert cli.main(["evaluate", f"tuned={path}", "defaults=false"]) == 0
        assert learned == [0, 1] * 3 + [0, 1] and len(list(tmp_path.rglob("summary.json"))) == 3 * 2 + 2
    assert yaml.safe_load(path.read_text())["costs"]["runs"] == 3 * 2


def test_processes_find_the_same_winner_and_a_report_leaves_the_search_out(tmp_path, capsys):
    words = ["tune", *FAST, "search.trials=2", "search.space.train.lr=1e-3,1e-2"]
    for out, more in (("one", []), ("two", ["launcher=local", "workers=2"])):
        assert cli.main([*words, *more, f"out={tmp_path / out}"]) == 0
    one, two = (yaml.safe_load(next((tmp_path / out).rglob("best.yaml")).read_text()) for out in ("one", "two"))
    assert one["winner"] == two["winner"] and [a["mean"] for a in one["trials"]] == [b["mean"] for b in two["trials"]]
    assert cli.main(["report", f"runs={tmp_path / 'one'}"]) == 2
    assert cli.main(["report", f"runs={tmp_path / 'one' / 'tune'}"]) == 0


def test_one_study_a_strategy_and_a_fixed_key_is_named(tmp_path, capsys):
    assert cli.main(["tune", "scenario=split_digits", "strategy=er,lwf", "train.epochs=1", "train.lr=0.01",
                     "track.wandb=disabled", "search.trials=1", "search.seeds=1", f"out={tmp_path}"]) == 0
    assert "lwf: train.lr is fixed at 0.01 and not searched" in capsys.readouterr().err
    made = [yaml.safe_load(path.read_text()) for path in sorted(tmp_path.rglob("best.yaml"))]
    assert [list(each["space"]) for each in made] == [["strategy.er.replay_batch_size"],
                                                      ["strategy.lwf.alpha", "strategy.lwf.temperature"]]
    assert all(each["base"]["train"]["lr"] == 0.01 for each in made)


@pytest.mark.parametrize(("words", "says"), [
    (["seed=1"], "seed=1 is not for clf tune"),
    (["order_seed=1"], "order_seed=1 is not for clf tune"),
    (["phase=evaluation"], "phase=evaluation is not for clf tune"),
    (["train.epochs=1,2"], "train.epochs takes one value here, got 2"),
    (["protocol=gtpe"], "unknown protocol 'gtpe'; did you mean 'gtep'?"),
    (["search.trails=3"], "unknown key 'search.trails'; did you mean 'search.trials'?"),
    (["search.trials=0"], "search.trials must be at least 1, got 0"),
    (["search.sampler=best"], "search.sampler=best"),
    (["search.sampler=grid", "search.trials=24"], "the grid has 25 combinations, but search.trials=24"),
    (["search.metric=forgetting/max"], "search.metric=forgetting/max is no accuracy"),
    (["search.metric=backward_transfer"], "take one of average_accuracy, average_incremental_accuracy, learning_acc"),
    (["search.metric=online_accuracy"], "search.metric=online_accuracy is not measured on this stream; take one of"),
    (["search.metric=accuracy"], "unknown search.metric 'accuracy'"),
    (["search.evaluate=[split_minst]"], "unknown scenario 'split_minst'; did you mean 'split_mnist'?"),
    (["search.space.train.lr=abc,0.1"], "search.space: train.lr=abc"),
    (["search.space.train.lr=-1,0.1"], "search.space: train.lr must be at least 0.0, got -1"),
    (["search.space.train.foo=1,2"], "unknown key 'train.foo'"),
    (["search.experiences=9"], "the stream has 5 experiences, not 9"),
    (["search.space.train.momentum=0.0,0.9"], "Recipe.momentum is of sgd alone"),
])
def test_bad_input(words, says, tmp_path, capsys):
    assert cli.main(["tune", "scenario=split_digits", "strategy=er", *words, f"out={tmp_path}"]) == 2
    assert says.replace("Recipe", "train") in capsys.readouterr().err and not list(tmp_path.rglob("summary.json"))
