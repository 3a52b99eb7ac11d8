"""Launchers: the same numbers wherever runs are done, and what happens to a run whose process dies."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from cl_framework import cli, launch, launchers, local_pool
from cl_framework.config import resolve
from cl_framework.errors import ClfError
from cl_framework.launchers import Launcher, Load, chosen, using
from cl_framework.pool import AGAIN, Died, Lost, through
from cl_framework.tuning_pool import Task
from cl_framework.tuning_pool import processes as pool_of

FAST = ["scenario=split_digits", "strategy=er", "train.epochs=1", "track.wandb=disabled"]
NOTHING = Load(need=lambda: 0, gpu=lambda: None)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
elsewhere = pytest.mark.parametrize("name", ["local", pytest.param("ray", marks=needs_ray)])


@pytest.fixture(scope="module", autouse=True)
def _no_processes_left():
    """One Ray and one pool of processes for all tests here."""
    yield
    local_pool.processes().stop()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def launcher(name):
    return Launcher(name=name, workers=2)


def _work():
    """What is done with tasks. Inner functions travel to workers by value: they cannot import this file."""
    def double(task):
        return 2 * task

    def fail(task):
        raise ClfError(f"no {task}")

    def die(task, folder, deaths):
        """Kill this process as often as `deaths` says for the task; then say how many have tried."""
        file = folder / f"{task}"
        tried = file.read_text().split() if file.exists() else []
        file.write_text(" ".join([*tried, str(os.getpid())]))
        if len(tried) < deaths.get(task, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return len(tried) + 1

    def own_pid(task):
        time.sleep(0.2)
        return os.getpid()

    def imported(task):
        return task in sys.modules

    return SimpleNamespace(double=double, fail=fail, die=die, own_pid=own_pid, imported=imported)


WORK = _work()


def timeless(content):
    """A summary without what a clock or another commit changes."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items()
                if key not in ("seconds", "train_seconds", "seconds_per_batch", "git_commit", "digest", "files")}
    return [timeless(value) for value in content] if isinstance(content, list) else content


class Scripted:
    """A pool without processes: a task ends at once, and dies as often as it is told to."""

    def __init__(self, deaths):
        self.deaths, self.started, self.most, self.stopped = dict(deaths), [], 0, False

    def start(self, work, task):
        self.started.append(task)
        return (len(self.started), task)

    def over(self, handles):
        self.most = max(self.most, len(handles))
        return list(handles)[:1]

    def outcome(self, handle):
        task = handle[1]
        if self.deaths.get(task, 0):
            self.deaths[task] -= 1
            raise Died
        return 2 * task

    def stop(self):
        self.stopped = True


# What is done with tasks

def test_every_task_is_done_with_no_more_than_n_at_a_time():
    pool = Scripted({})
    assert sorted(through(pool, 3, WORK.double, range(10))) == [(k, 2 * k) for k in range(10)]
    assert pool.most == 3 and not pool.stopped


def test_a_task_is_asked_for_when_the_outcomes_so_far_are_known():
    known = []

    def tasks():
        for k in range(5):
            assert len(known) >= k - 1, "two at a time: the one before the last is over"
            yield k

    for task, _ in through(Scripted({}), 2, WORK.double, tasks()):
        known.append(task)
    assert len(known) == 5


def test_a_dead_process_costs_its_own_task_a_new_start_before_new_tasks():
    pool = Scripted({1: 2})
    assert dict(through(pool, 1, WORK.double, range(4))) == {0: 0, 1: 2, 2: 4, 3: 6}
    assert pool.started == [0, 1, 1, 1, 2, 3]


def test_a_task_that_kills_every_process_is_given_up_and_the_others_are_done():
    pool = Scripted({1: 99})
    assert dict(through(pool, 2, WORK.double, range(4))) == {0: 0, 1: Lost(AGAIN + 1), 2: 4, 3: 6}
    assert pool.started.count(1) == AGAIN + 1 == 4


def test_a_caller_that_stops_listening_ends_the_processes():
    pool = Scripted({})
    outcomes = through(pool, 2, WORK.double, range(9))
    next(outcomes)
    outcomes.close()
    assert pool.stopped


# Real processes

@elsewhere
def test_outcomes_and_errors_come_back(name):
    assert sorted(launcher(name).run(WORK.double, range(5), NOTHING)) == [(k, 2 * k) for k in range(5)]
    with pytest.raises(ClfError, match=r"^no 3$"):
        list(launcher(name).run(WORK.fail, [3], NOTHING))


@elsewhere
def test_processes_are_used_again(name):
    first, second = (dict(launcher(name).run(WORK.own_pid, range(4), NOTHING)) for _ in range(2))
    assert len(set(first.values())) == 2 and set(first.values()) == set(second.values())
    assert os.getpid() not in first.values()


@elsewhere
def test_killed_workers(name, tmp_path):
    made = dict(launcher(name).run(partial(WORK.die, folder=tmp_path, deaths={1: 1, 2: 99}), range(4), NOTHING))
    assert made == {0: 1, 1: 2, 2: Lost(4), 3: 1}
    assert len(set((tmp_path / "2").read_text().split())) == 4


@elsewhere
def test_the_numbers_do_not_depend_on_the_launcher(name, tmp_path, capsys):
    words = ["train", *FAST, "seed=0..2"]
    assert cli.main([*words, f"out={tmp_path / 'here'}"]) == 0
    assert cli.main([*words, f"out={tmp_path / 'there'}", f"launcher={name}", "workers=2"]) == 0
    assert "3 of 3 runs are over" in capsys.readouterr().err
    here, there = ({path.parent.name: json.loads(path.read_text()) for path in (tmp_path / out).rglob("summary.json")}
                   for out in ("here", "there"))
    assert sorted(here) == ["seed0", "seed1", "seed2"]
    assert timeless(here) == timeless(there)


@elsewhere
def test_a_search_elsewhere_has_the_same_winner(name, tmp_path):
    words = ["tune", *FAST, "search.trials=2", "search.seeds=2"]
    assert cli.main([*words, f"out={tmp_path / 'here'}"]) == 0
    assert cli.main([*words, f"out={tmp_path / 'there'}", f"launcher={name}", "workers=2"]) == 0
    here, there = (next((tmp_path / out).rglob("best.yaml")).read_text() for out in ("here", "there"))
    assert re.findall("mean: .*|hash: .*", here) == re.findall("mean: .*|hash: .*", there)


def test_a_run_that_no_worker_finishes_is_named_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    def lost(self, work, tasks, load):
        return ((task, Lost(4) if task.number == 1 else work(task)) for task in tasks)

    monkeypatch.setitem(launchers.LAUNCHERS, "local", launchers.Way(run=lost))
    assert cli.main(["train", *FAST, "seed=0..2", "launcher=local", f"out={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "clf: split_digits er seed 1: 4 worker processes died of this run" in error
    assert len(list(tmp_path.rglob("summary.json"))) == 2


def test_a_search_ends_at_a_run_that_no_worker_finishes(tmp_path, monkeypatch):
    monkeypatch.setitem(launchers.LAUNCHERS, "sequential", launchers.Way(
        run=lambda self, work, tasks, load: ((task, Lost(4)) for task in tasks)))
    job = resolve({"scenario": "split_digits", "strategy": "er"})
    with pytest.raises(ClfError, match="4 worker processes died of this run"):
        list(pool_of(tmp_path, "", 1)([Task((job.hash, 0), job.tree, 0)]))


# Processes that start early

def test_prepared_processes_have_imported_the_module_and_are_the_ones_that_work():
    pool = local_pool.Processes()
    pool.prepare(2, "colorsys")
    try:
        started = [pool.start(WORK.imported, "colorsys"), pool.start(WORK.imported, "no_such_module")]
        assert [pool.outcome(each) for each in started] == [True, False]
    finally:
        pool.stop()


def test_an_idle_process_that_died_is_replaced():
    pool = local_pool.Processes()
    try:
        first = pool.outcome(pool.start(WORK.own_pid, 0))
        os.kill(first, signal.SIGKILL)
        time.sleep(0.5)
        assert pool.outcome(pool.start(WORK.own_pid, 0)) != first
    finally:
        pool.stop()


def test_a_faulty_command_leaves_no_process_behind(tmp_path, capsys):
    assert cli.main(["train", *FAST[:2], f"out={tmp_path}", "launcher=local", "train.epochs=-1"]) == 2
    assert not local_pool.processes()._idle


# Ctrl-C and SIGTERM

@pytest.mark.parametrize(("name", "number", "status"), [
    ("local", signal.SIGINT, 130), pytest.param("ray", signal.SIGTERM, 143, marks=needs_ray)])
def test_an_interrupted_command_lets_go_of_its_runs(name, number, status, tmp_path):
    words = ["train", *FAST[:2], "train.epochs=400", "train.checkpoint_every=0", "track.wandb=disabled",
             f"out={tmp_path}", "seed=0..1", f"launcher={name}", "workers=2"]
    running = subprocess.Popen([sys.executable, "-m", "cl_framework.cli", *words], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while len(list(tmp_path.rglob("seed*/checkpoints/*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(30) == status
    assert "give the same command again" in running.communicate()[1]
    for lock in tmp_path.rglob(".lock"):
        with launch.RunFolder(lock.parent).locked():
            assert not (lock.parent / "summary.json").exists()


def test_ray_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["train", *FAST, f"out={tmp_path}", "launcher=ray", "workers=2"]) == 2
    error = capsys.readouterr().err
    assert "pip install cl-framework[ray]" in error and len(error.strip().splitlines()) == 1


# The command line

@pytest.mark.parametrize(("words", "says"), [
    (["launcher=lokal"], "unknown launcher 'lokal'; did you mean 'local'?"),
    (["launcher=slurm"], "unknown launcher 'slurm'; there are local, ray, sequential, vector"),
    (["launcher=local", "workers=0"], "workers must be a whole number of 1 or more, got 0"),
    (["launcher=local", "workers=two"], "workers must be a whole number of 1 or more, got two"),
    (["launcher=local,ray"], "launcher takes one value, got 2"),
    (["launcher=local", "ray_address=auto"], "ray_address=auto goes with launcher=ray, not with launcher=local"),
])
@pytest.mark.parametrize("verb", ["train", "tune", "evaluate", "protocol"])
def test_bad_input(verb, words, says, tmp_path, capsys):
    own = ["tuned=nowhere"] if verb == "evaluate" else FAST
    assert cli.main([verb, *own, *words, f"out={tmp_path}"]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_launcher_of_a_command():
    assert chosen(1).is_here and chosen(3) == Launcher(name="local", workers=3)
    with using(Launcher(name="ray", workers=5)):
        assert chosen(1).name == "ray" and chosen(3).n_workers == 5
    assert Launcher(workers=4).n_workers == 1 and chosen(1).is_here
    assert Launcher(name="local").n_workers == launchers.n_cpus() <= len(os.sched_getaffinity(0))
