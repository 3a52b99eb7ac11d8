"""Phase 1: who wins, what a failure counts, what an interruption costs, and that no evaluation stream is opened."""

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
import yaml
from rich.console import Console

from cl_framework import cli
from cl_framework.errors import ClfError, ConfigError, DataError
from cl_framework.plan import plans
from cl_framework.registry import load
from cl_framework.search import Space, draw
from cl_framework.trials import Score, Trial, is_hopeless, ranked, winner
from cl_framework.tuning import tune
from cl_framework.tuning_pool import Outcome
from cl_framework.types import Phase

METRIC = "average_incremental_accuracy"
QUIET = Console(quiet=True)


def trial(number, values, *, average=0.5, n_parameters=10, state="complete"):
    scores = {seed: Score.of({METRIC: value, "average_accuracy": average, "n_parameters": n_parameters}, METRIC, 0.2)
              for seed, value in enumerate(values)}
    return Trial(number=number, values={}, scores=scores, state=state)


def planned(out, *words, strategy="er"):
    values = {"scenario": ["split_digits"], "strategy": [strategy], "track.wandb": ["disabled"]}
    for word in words:
        key, _, text = word.partition("=")
        values[key] = cli.parse([f"{key}={text}"]).values[key]
    return plans(values, out)[0]


def synthetic(score, log=None, stop_after=math.inf, death=None):
    """A pool that trains nothing: `score(tree, seed)` is what a run measures; None is a run that diverged."""
    def pool(tasks):
        for n, task in enumerate(tasks):
            if n == stop_after:
                raise (death or KeyboardInterrupt)
            if log is not None:
                log.append((task.tree["train"]["lr"], task.tree["strategy"]["er"]["replay_batch_size"],
                            task.tree["seed"]))
            value = score(task.tree, task.tree["seed"])
            if value is None:
                yield Outcome(task.key, failure="the loss is not finite")
            else:
                yield Outcome(task.key, {"metrics": {METRIC: value, "average_accuracy": value, "n_parameters": 1.0},
                                         "seconds": 2.0, "accuracy_matrix": [], "path": ""})
    return pool


def by_lr(tree, seed):
    return 0.5 + tree["train"]["lr"] + 0.001 * seed


def table(tuned):
    return [(each.number, dict(each.values), each.mean, each.state) for each in tuned.trials]


# Selection

def test_the_winner_has_the_largest_mean_and_not_the_best_seed():
    assert winner([trial(0, [0.9, 0.1, 0.1]), trial(1, [0.4, 0.5, 0.6])]).number == 1


def test_ties_go_to_average_accuracy_then_to_fewer_parameters_then_to_the_first():
    same = [0.5, 0.5]
    assert [each.number for each in ranked([
        trial(0, same, average=0.3), trial(1, same, average=0.4, n_parameters=20),
        trial(2, same, average=0.4, n_parameters=10), trial(3, same, average=0.4, n_parameters=10)])] == [2, 3, 1, 0]


def test_a_number_that_is_not_finite_counts_as_chance_and_is_listed():
    bad = trial(0, [0.9, math.nan])
    assert bad.mean == pytest.approx((0.9 + 0.2) / 2) and list(bad.failures) == [1]
    assert winner([bad, trial(1, [0.6, 0.6])]).number == 1
    assert winner([bad, trial(1, [0.5, 0.5])]).number == 0


def test_a_pruned_trial_does_not_win_and_without_a_finished_run_nobody_does():
    assert winner([trial(0, [0.9], state="pruned"), trial(1, [0.5, 0.5])]).number == 1
    with pytest.raises(ClfError, match=r"no run of the search finished.*not finite"):
        winner([trial(0, [math.nan, math.nan], state="failed")])


def test_hopeless_is_below_the_median_at_as_many_seeds():
    others = [trial(0, [0.5, 0.9]), trial(1, [0.6, 0.1]), trial(2, [0.7, 0.5]), trial(9, [0.99], state="running")]
    assert is_hopeless(trial(3, [0.59]), others, 2) and not is_hopeless(trial(3, [0.6]), others, 2)
    assert not is_hopeless(trial(3, [0.1, 0.1]), others, 2), "a whole trial is not stopped"
    assert not is_hopeless(trial(3, [0.1]), [], 2), "there is nothing to compare with"


def test_the_winners_curse_grows_with_the_number_of_trials():
    """What the winner showed while tuning exceeds what it is worth, the more the more were tried."""
    space = Space({f"h{axis}": tuple(range(5)) for axis in range(4)})
    gaps = []
    for n_trials in (1, 4, 16, 64):
        found = []
        for repeat in range(200):
            noise, tried, worth = random.Random(f"{n_trials} {repeat}"), [], {}
            for r in range(n_trials):
                worth[r] = 0.5 + 0.005 * sum(draw(space, f"toy {repeat}", r).values())
                tried.append(trial(r, [worth[r] + noise.gauss(0, 0.05) for _ in range(3)]))
            best = winner(tried)
            found.append(best.mean - worth[best.number])
        gaps.append(statistics.fmean(found))
    assert abs(gaps[0]) < 0.01 and gaps == sorted(gaps) and gaps[-1] > gaps[1] + 0.01 > 0.01


# The search

def test_best_yaml_holds_what_was_declared_and_what_was_measured(tmp_path):
    plan = planned(tmp_path, "search.trials=6", "search.seeds=3", "protocol=gtep_lite", "train.epochs=1")
    tuned = tune(plan, 1, "clf tune", QUIET, synthetic(by_lr))
    made = yaml.safe_load(tuned.path.read_text())
    assert tuned.path == plan.folder / "best.yaml" and plan.folder.parent == tmp_path / "tune/split_digits/er"
    assert (made["format"], made["protocol"], made["phase"], made["seeds"]) == (1, "gtep_lite", "tuning", [0, 1, 2])
    assert made["search"]["trials"] == 6 and made["space_hash"] == plan.space.hash
    assert made["space"] == {key: list(grid) for key, grid in plan.space.grids.items()}
    assert "lr" not in made["base"]["train"] and made["base"]["train"]["epochs"] == 1
    assert made["base"]["strategy"]["er"] == {"memory_size": 500, "policy": "reservoir", "mix": "batch", "fill": "auto"}
    assert [each["values"] for each in made["trials"]] == [draw(plan.space, "er", r) for r in range(6)]
    largest = max(made["trials"], key=lambda each: each["mean"])
    assert made["winner"]["mean"] == largest["mean"] and made["winner"]["hash"] == largest["hash"]
    assert made["classes"] == [f"digits:{label}" for label in range(5)] and set(made["orders"]) == {0, 1, 2}
    assert made["orders"][0] != made["orders"][1] and len(made["data"]["digits"]) == 64
    assert made["chance"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    distinct = {each["hash"] for each in made["trials"]}
    assert len(distinct) == 5, "two draws are equal; they share their runs"
    assert made["costs"]["runs"] == 15 and made["costs"]["train_seconds"] == 30.0


def test_every_seed_is_the_training_seed_and_the_order(tmp_path):
    plan = planned(tmp_path, "search.trials=1", "search.seeds=3")
    jobs = [plan.job(plan.first, seed) for seed in range(3)]
    assert [(job.seed, job.order_seed, job.phase) for job in jobs] == [(k, k, Phase.TUNING) for k in range(3)]


def test_a_run_that_diverges_counts_as_chance(tmp_path):
    plan = planned(tmp_path, "search.sampler=grid", "search.space.train.lr=1e-4,1e-3", "search.seeds=2",
                   "strategy.replay_batch_size=0")
    tuned = tune(plan, 1, "", QUIET, synthetic(lambda tree, seed: None if tree["train"]["lr"] > 5e-4 else 0.5))
    made = yaml.safe_load(tuned.path.read_text())
    assert [each["state"] for each in made["trials"]] == ["complete", "failed"] and made["winner"]["trial"] == 0
    assert made["trials"][1]["mean"] == pytest.approx(made["chance"])
    assert made["trials"][1]["seeds"][0]["failure"] == "the loss is not finite" and made["costs"]["failed_runs"] == 2


def test_trials_with_equal_values_share_their_runs(tmp_path):
    plan, log = planned(tmp_path, "search.trials=30", "search.seeds=2", "search.space.train.lr=0.1,0.2",
                        "strategy.replay_batch_size=0"), []
    tuned = tune(plan, 1, "", QUIET, synthetic(by_lr, log))
    assert len(log) == 4 and len(tuned.trials) == 30 and all(len(each.scores) == 2 for each in tuned.trials)


@pytest.mark.parametrize(("sampler", "death"), [("random", KeyboardInterrupt), ("tpe", DataError)])
def test_an_interrupted_search_ends_like_one_that_was_not(tmp_path, sampler, death):
    words = ["search.trials=9", "search.seeds=3", f"search.sampler={sampler}"]
    whole = tune(planned(tmp_path / "whole", *words), 1, "", QUIET, synthetic(by_lr))
    plan = planned(tmp_path / "parts", *words)
    for _ in range(3):
        with pytest.raises(death):
            tune(plan, 1, "", QUIET, synthetic(by_lr, stop_after=2, death=death))
    log = []
    parts = tune(planned(tmp_path / "parts", *words), 1, "", QUIET, synthetic(by_lr, log))
    assert table(parts) == table(whole) and winner(parts.trials) == winner(whole.trials)
    assert len(log) == len(set(log)) <= 27 - 3


def test_a_finished_search_is_left_as_it_is(tmp_path):
    words = ["search.trials=2", "search.seeds=1"]
    first = tune(planned(tmp_path, *words), 1, "", QUIET, synthetic(by_lr)).path.read_text()
    again = tune(planned(tmp_path, *words), 1, "", QUIET, synthetic(lambda tree, seed: 1 / 0))
    assert again.path.read_text() == first


def test_what_a_dead_worker_had_is_done_again(tmp_path):
    calls = []

    def pool(tasks):
        calls.append([])
        for task in tasks:
            calls[-1].append(task.key)
            if len(calls) == 1 and len(calls[-1]) == 3:
                raise BrokenProcessPool("a worker was killed")
            yield Outcome(task.key, {"metrics": {METRIC: 0.5}, "accuracy_matrix": [], "path": ""})

    tuned = tune(planned(tmp_path, "search.trials=4", "search.seeds=2"), 1, "", QUIET, pool)
    assert calls[1][0] == calls[0][2] and all(each.state == "complete" for each in tuned.trials)


def test_workers_that_die_one_after_the_other_end_the_search(tmp_path):
    def pool(tasks):
        next(iter(tasks))
        raise BrokenProcessPool("killed")

    with pytest.raises(ClfError, match="worker processes die"):
        tune(planned(tmp_path, "search.trials=2"), 1, "", QUIET, pool)


def test_median_stop(tmp_path):
    log = []
    plan = planned(tmp_path, "search.sampler=grid", "search.stop=median", "search.seeds=4",
                   "strategy.replay_batch_size=0", "search.space.train.lr=0.3,0.2,0.1,0.4")
    tuned = tune(plan, 1, "", QUIET, synthetic(by_lr, log))
    assert [each.state for each in tuned.trials] == ["complete", "pruned", "pruned", "complete"]
    assert len(log) == 4 + 1 + 1 + 4 and winner(tuned.trials).number == 3
    assert yaml.safe_load(tuned.path.read_text())["search"]["stop"] == "median"


def test_a_database_holds_the_study(tmp_path):
    words = ["search.trials=3", "search.seeds=2"]
    file = tune(planned(tmp_path / "file", *words), 1, "", QUIET, synthetic(by_lr))
    other = tune(planned(tmp_path / "other", *words, f"search.storage=sqlite:///{tmp_path}/study.db"), 1, "", QUIET,
                 synthetic(by_lr))
    assert table(file) == table(other) and not (other.path.parent / "study.journal").exists()


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


FAST = ["scenario=split_digits", "strategy=er", "train.epochs=1", "track.wandb=disabled", "search.seeds=2"]


def test_tuning_finishes_beside_a_poisoned_evaluation_stream(poisoned, tmp_path, capsys):
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
    (["search.metric=forgetting/max"], "search.metric=forgetting/max is better when it is lower"),
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


def test_a_study_that_another_process_runs(tmp_path):
    plan = planned(tmp_path, "search.trials=1")

    def pool(tasks):
        with pytest.raises(ConfigError, match="is being run by another process"):
            tune(plan, 1, "", QUIET, synthetic(by_lr))
        return synthetic(by_lr)(tasks)

    tune(plan, 1, "", QUIET, pool)
