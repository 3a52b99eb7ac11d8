"""Services that refuse, fail, are locked or killed: the run goes on, or stops with its state, and W&B is told later."""

import importlib.util
import json
import logging
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from cl_framework import cli, ray_pool, tracking
from cl_framework.errors import ClfError
from cl_framework.search import Space
from cl_framework.study import Ledger

FAULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "faults"
FAST = ["train", "scenario=split_digits", "scenario.n_experiences=2", "train.epochs=1", "strategy=naive",
        "track.every=1"]


@pytest.fixture
def serving(monkeypatch):
    """What opens a stand-in for the server of W&B."""
    monkeypatch.syspath_prepend(str(FAULTS))
    return importlib.import_module("fake_wandb").serving


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield tmp_path
    sys.modules["wandb"].teardown()


def matrix(folder):
    return json.loads(next(folder.rglob("summary.json")).read_text())["accuracy_matrix"]


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_is_told_later(status, here, serving, monkeypatch, caplog):
    """The accuracies are those of a run that nobody watches; losses and evaluations lie there for `wandb sync`."""
    monkeypatch.setattr(tracking, "_WELCOME", 2.0)
    assert cli.main([*FAST, "track.wandb=disabled", "out=alone"]) == 0
    with serving(status=status) as server, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        assert cli.main([*FAST, "track.wandb=online", "out=watched"]) == 0
    assert matrix(here / "watched") == matrix(here / "alone")
    assert "W&B does not take the run" in caplog.text and "`wandb sync` sends it later" in caplog.text
    kept = next(here.rglob("offline-run-*/*.wandb")).read_bytes()
    assert kept.count(b"train/loss") >= 2 and kept.count(b"experience/average_accuracy") >= 2


def test_what_wandb_cannot_draw_does_not_end_its_numbers(here, monkeypatch, caplog):
    import wandb

    logged = []

    class Run:
        summary: ClassVar = {}

        def define_metric(self, *_, **__):
            pass

        def log(self, values, **_):
            if any(isinstance(value, wandb.Table) for value in values.values()):
                raise OSError("the server went away")
            logged.append(values)

        def log_artifact(self, *_, **__):
            raise OSError("the server went away")

        def finish(self):
            logged.append("finished")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    with caplog.at_level(logging.WARNING):
        assert cli.main([*FAST, "track.wandb=offline"]) == 0
    assert sum("experience/average_accuracy" in values for values in logged) == 2 and logged[-1] == "finished"
    assert caplog.text.count("its tables are left out") == 1 and "it is off for the rest" not in caplog.text


def test_a_database_that_is_locked_is_told_and_works_again(tmp_path, monkeypatch):
    path = tmp_path / "study.db"
    space = Space({"strategy.er.memory_size": (1, 2)})
    ledger = Ledger("study", space, tmp_path, f"sqlite:///{path}?timeout=0.2", "me")
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ClfError, match=r"was lost on the way .*locked.* finished runs are kept.* same command"):
        ledger.put_down([{"strategy.er.memory_size": 1}])
    other.rollback()
    ledger.put_down([{"strategy.er.memory_size": 1}])
    assert len(ledger.trials()) == 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_head_of_a_cluster_is_killed(monkeypatch):
    """The store of the cluster gets SIGKILL while a task is under way."""
    monkeypatch.setattr(ray_pool, "PATIENCE", 1.0)
    cluster = ray_pool.Cluster(None, 1, has_gpu=False)
    handle = cluster.start(time.sleep, 60)
    stores = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal() and _is_ours(folder)]
    assert len(stores) == 1
    os.kill(stores[0], signal.SIGKILL)
    with pytest.raises(ClfError, match=r"the Ray cluster is lost.*go on from their checkpoints"):
        cluster.over([handle])
    cluster.stop()


def _is_ours(folder):
    try:
        return (f"PPid:\t{os.getpid()}" in (folder / "status").read_text()
                and "gcs_server" in (folder / "cmdline").read_text().partition("\0")[0])
    except OSError:
        return False
