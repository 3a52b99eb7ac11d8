"""Signals that ask a command to end: where a run is under way a checkpoint comes first, and what goes on is said."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from cl_framework import cli, stopping
from cl_framework.errors import Stopped
from cl_framework.stopping import finishing, heeding, is_asked, leave

RUN = ["train", "scenario=split_digits", "strategy=naive", "track.wandb=disabled", "train.epochs=300"]


@pytest.fixture(autouse=True)
def _given_back():
    """Whatever a test does to the signals is undone."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    stopping.restore()
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python calls handlers between two instructions


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_where_no_run_is_under_way_a_signal_ends_at_once(number):
    with pytest.raises(Stopped) as found, heeding():
        ask(number)
    assert found.value.number == number and found.value.exit_status == 128 + number and not found.value.is_saved


def test_a_run_is_asked_and_leaves_when_it_has_saved():
    with pytest.raises(Stopped) as found, heeding(), finishing():
        ask()
        assert is_asked()
        leave(is_saved=True)
    assert found.value.is_saved


def test_a_run_that_ends_by_itself_is_kept_and_nothing_begins_after_it():
    seen = []
    with pytest.raises(Stopped), heeding():
        with finishing():
            ask()
            seen.append("its summary is written")
        seen.append("the next run")
    assert seen == ["its summary is written"]


def test_two_signals_in_a_hurry_are_one_and_a_later_one_ends_at_once(monkeypatch):
    with pytest.raises(Stopped) as found, heeding(), finishing():
        ask(signal.SIGINT)
        ask(signal.SIGTERM)
        assert is_asked()
        monkeypatch.setattr(stopping, "HURRY", 0.0)
        ask(signal.SIGTERM)
    assert found.value.number == signal.SIGINT and not found.value.is_saved


def test_a_run_that_does_not_come_to_its_next_checkpoint_is_ended(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.05)
    monkeypatch.setattr(stopping, "HURRY", 0.01)
    with pytest.raises(Stopped), heeding(), finishing():
        ask()
        time.sleep(10)


def test_what_a_process_was_told_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeding():
            ask(signal.SIGHUP)
            assert not is_asked()
        stopping.restore()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_given_back_also_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), heeding():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_that_goes_on_is_named_without_a_password():
    said = cli._stopped(Stopped(signal.SIGTERM, is_saved=True), "train", ["train", "scenario.path=a b.npz"])
    assert said.startswith("stopped by SIGTERM; a checkpoint is written")
    assert shlex.split(said.splitlines()[1]) == ["clf", "train", "scenario.path=a b.npz"]
    secret = cli._stopped(Stopped(signal.SIGINT), "tune", ["tune", "search.storage=postgresql://me:secret@host/x"])
    assert "secret" not in secret and secret.startswith("interrupted; give the same command again")


def test_slurm_asks_a_run_of_an_allocation_with_many_tasks_and_only_a_checkpoint_follows(tmp_path):
    requeue = tmp_path / "scontrol"
    requeue.write_text(f"#!/bin/sh\ntouch {tmp_path}/requeued\n")
    requeue.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
             "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "4", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.Popen([sys.executable, "-m", "cl_framework.cli", *RUN, f"out={tmp_path / 'runs'}"], cwd=tmp_path,
                           env={**os.environ, **slurm}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in run.stderr:
        if "experience 1/5" in line:
            break
    for _ in range(2):
        run.send_signal(signal.SIGUSR1)
    said = run.stderr.read()
    run.stderr.close()
    assert run.wait() == 128 + signal.SIGUSR1, said
    assert "stopped by SIGUSR1; a checkpoint is written" in said and f"clf {' '.join(RUN)}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "scontrol"]
    newest = max(tmp_path.rglob("*.pt")).name.split("-")
    assert newest[0] == "00001" and int(newest[1]) > 0, "not the one of the experience's end"
