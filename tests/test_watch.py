"""`clf watch`: what a folder says of its run while that is under way, and how it is shown. Nothing is locked."""

import fcntl
import json
import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cl_framework import cli, watch
from cl_framework.observer import Observer
from cl_framework.watch import duration, view
from cl_framework.watched import Look, Watched, held_locks, look, run_folders

FAST = ["scenario=split_digits", "strategy=naive", "train.epochs=1", "track.wandb=disabled"]
NOW = 2_000_000_000.0


def begin(folder, *, begun=100.0, done=(), gap=10.0, n=5, names=(), since=0.0):
    """A folder as a run leaves it: begun seconds before NOW, an experience of each number of seconds, one every gap."""
    folder.mkdir(parents=True)
    lines = [{"experience": k, "accuracy": [0.5] * (k + 1), "average_accuracy": 0.5 + k / 100, "seconds": seconds}
             for k, seconds in enumerate(done)]
    rows = "".join(f"{k},{name},2\n" for k, name in enumerate(names))
    texts = {"config.yaml": "", ".lock": "", "environment.json": "{}",
             "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
             "accuracy.csv": ",".join(["after", *map(str, range(n))]) + "\n",
             "experiences.csv": f"experience,name,n_classes\n{rows}",
             "steps.csv": "stream_step,experience,epoch,loss\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
        when = NOW - since if name in ("metrics.jsonl", "accuracy.csv", "experiences.csv", "steps.csv") else NOW - begun
        os.utime(folder / name, (when, when))
    return folder


def text_of(runs, path, width=140, **more):
    console = Console(file=StringIO(), width=width)
    console.print(view(runs, path, **{"n_rows": 10, "has_bars": False, **more}))
    return console.file.getvalue()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("given", "left"), [
    ({"begun": 40, "done": (8, 8)}, 60),                       # 40 s for two: 20 s each, three are left
    ({"begun": 45, "done": (8, 8), "since": 5}, 55),           # and 5 s of the third are over
    ({"begun": 10, "done": (30, 30, 30)}, 60),                 # resumed 10 s ago: 30 s each, as it learned before
    ({"begun": 500, "done": (8, 8), "since": 400}, 0),         # later than expected
    ({"begun": 500, "done": ()}, None),
])
def test_the_time_left(tmp_path, given, left):
    run = look(begin(tmp_path / "seed0", **given), {(tmp_path / "seed0" / ".lock").stat().st_ino}, NOW)
    assert run.state == "running" and run.n_experiences == 5 and run.n_done == len(given["done"])
    assert run.left == (None if left is None else pytest.approx(left, abs=1e-3))


def test_what_is_learned_now_and_how_well(tmp_path):
    folder = begin(tmp_path / "seed0", done=(1, 2), names=("digits fog 5", "digits frost 5", "digits snow 5"))
    run = look(folder, (), NOW)
    assert run.current == "snow 5" and run.accuracy == 0.51 and run.seconds == 3.0


def test_states(tmp_path):
    folder = begin(tmp_path / "seed0", done=(1,), since=20)
    assert look(folder, {(folder / ".lock").stat().st_ino}, NOW).state == "running"
    assert look(folder, (), NOW).state == "changed" and look(folder, (), NOW).age == pytest.approx(20)
    assert look(folder, (), NOW + 400).state == "stopped" and look(folder, (), NOW + 400).is_over
    (folder / "summary.json").write_text("{")
    assert look(folder, (), NOW).state == "damaged"
    (folder / "summary.json").write_text(json.dumps({"metrics": {"average_accuracy": 0.25}, "seconds": 3,
                                                     "accuracy_matrix": [[1.0, None], [0.0, 0.5]]}))
    run = look(folder, (), NOW)
    assert (run.state, run.n_done, run.accuracy, run.seconds) == ("finished", 2, 0.25, 3.0)


def test_any_file_may_be_missing_cut_or_rubbish(tmp_path):
    names = ["environment.json", "metrics.jsonl", "accuracy.csv", "experiences.csv", "steps.csv", ".lock"]
    for k, name in enumerate(names):
        for j, change in enumerate((lambda file: file.unlink(), lambda file: file.write_bytes(b"\xff\0[1\n\n,,\n{}"),
                                    lambda file: os.truncate(file, file.stat().st_size // 2))):
            folder = begin(tmp_path / f"{k}{j}" / "seed0", done=(1, 2), names=("a", "b", "c"))
            change(folder / name)
            assert look(folder, (), NOW).n_done in (0, 1, 2)
    assert text_of(Look(tmp_path)(), tmp_path, n_rows=99).count("/seed0") == 18


def test_a_lock_is_seen_without_being_touched(tmp_path):
    folder = begin(tmp_path / "seed0")
    inode = (folder / ".lock").stat().st_ino
    if not Path("/proc/locks").exists():
        pytest.skip("there is no /proc/locks here")
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert inode in held_locks() and look(folder, held_locks(), NOW).state == "running"
    assert inode not in held_locks()


def test_a_real_run_is_seen_from_inside_and_goes_on_undisturbed(here, monkeypatch):
    seen = []

    class Peeks(Observer):
        def evaluated(self, index, record, own):
            before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
            seen.extend(Look(here / "runs")())
            assert before == {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    monkeypatch.setattr("cl_framework.launch.progress_for", lambda console, label: Peeks())
    assert cli.main(["train", *FAST]) == 0
    assert [run.n_done for run in seen] == [1, 2, 3, 4, 5] and {run.n_experiences for run in seen} == {5}
    summary = json.loads(next(here.glob("runs/*/*/*/seed0/summary.json")).read_text())
    row = summary["accuracy_matrix"][2][:3]
    assert seen[2].accuracy == pytest.approx(sum(row) / 3) and seen[2].left > 0
    if Path("/proc/locks").exists():
        assert {run.state for run in seen} == {"running"}
    (over,) = Look(here / "runs")()
    assert over.state == "finished" and over.accuracy == pytest.approx(summary["metrics"]["average_accuracy"])


def test_a_stream_without_labels_shows_its_error(tmp_path):
    folder = begin(tmp_path / "seed0", done=(1, 1))
    (folder / "metrics.jsonl").write_text('{"average_accuracy": null, "seconds": 1}\n' * 2)
    (folder / "experiences.csv").write_text("experience,name,online_error\n0,a,0.25\n1,b,0.5\n2,c,\n")
    run = look(folder, (), NOW)
    assert run.error == 0.375 and run.accuracy is None and "error 37.5 %" in text_of([run], tmp_path)


def test_folders_of_a_search_only_inside_it(tmp_path):
    for place in ("a/seed0", "tune/er/a/seed1", "a/seed0/checkpoints/seed2"):
        begin(tmp_path / place)
    assert [path.name for path in run_folders(tmp_path)] == ["seed0"]
    assert [path.name for path in run_folders(tmp_path / "tune")] == ["seed1"]
    assert list(run_folders(tmp_path / "a" / "seed0")) == [tmp_path / "a" / "seed0"]


def test_the_table(tmp_path):
    runs = [Watched(folder=tmp_path / "a[red]" / "seed0", state="finished", n_experiences=5, n_done=5, accuracy=0.5),
            Watched(folder=tmp_path / "b" / "seed0", state="running", n_experiences=5, n_done=2, left=90.0),
            Watched(folder=tmp_path / "c" / "seed0", state="running", n_experiences=5, n_done=4, left=30.0)]
    shown = text_of(runs, tmp_path)
    assert shown.index("b/seed0") < shown.index("c/seed0") < shown.index("a[red]/seed0")
    assert "3/5" in shown and "about 1 min 30 s" in shown and "50.0 %" in shown
    assert "2 running, 1 finished; the longest needs about 1 min 30 s more" in shown
    assert "2 running, 1 finished; 2 are not shown" in text_of(runs, tmp_path, n_rows=1)
    assert max(map(len, text_of(runs, tmp_path, width=60).splitlines())) <= 60


def test_elsewhere_than_in_a_terminal_it_looks_once(here, capsys):
    begin(here / "runs" / "seed0", done=(1,))
    os.utime(here / "runs" / "seed0" / ".lock")
    assert cli.main(["watch", "run=runs"]) == 0
    assert "1 changed" in capsys.readouterr().out
    assert cli.main(["watch", "run=runs/seed0"]) == 0 and "runs/seed0" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    ([], "say what to watch"), (["run=nowhere"], "there is no folder nowhere"), (["run=."], "there are no runs below"),
    (["runs=."], "unknown key 'runs'; did you mean 'run'?")])
def test_refusals(here, capsys, words, message):
    assert cli.main(["watch", *words]) == 2 and message in capsys.readouterr().err


def terminal():
    return Console(file=StringIO(), force_terminal=True, width=100, height=12)


def test_the_view_ends_when_nothing_is_under_way(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "_EVERY", 0.01)
    monkeypatch.setattr(watch, "_QUIET", 0.1)
    ends = [Watched(folder=tmp_path / "seed0", state=state) for state in ("running", "running", "finished")]
    looks = iter([[each] for each in ends])
    seen = watch._live(terminal(), tmp_path, lambda: next(looks, [ends[-1]]))
    assert [run.state for run in seen] == ["finished"]


def test_ctrl_c_ends_the_view_alone(monkeypatch, tmp_path):
    def looks(calls=[0]):  # noqa: B006
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return [Watched(folder=tmp_path / "seed0", state="running")]
    assert watch._live(terminal(), tmp_path, looks)[0].state == "running"


def test_times():
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 86400)] == ["0 s", "1 min 0 s", "59 min 59 s", "1 d 0 h"]


def test_a_killed_run_is_not_running(here):
    words = [sys.executable, "-m", "cl_framework.cli", "train", *FAST[:2], "train.epochs=500", "track.wandb=disabled"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if "learns" in line:
            break
    until = time.monotonic() + 10
    while not (runs := [run for run in Look(here)() if run.n_experiences]) and time.monotonic() < until:
        time.sleep(0.05)
    alive = runs[0].state
    process.kill()
    process.wait()
    process.stderr.close()
    assert Look(here)()[0].state == "changed" and (alive == "running" or not Path("/proc/locks").exists())
