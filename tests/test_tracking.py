"""Loggers: what they are told, and that their failure never ends a run."""

import logging
import subprocess
import sys
import textwrap
from typing import ClassVar

import pytest

from cl_framework import cli
from cl_framework.tracking import wandb_mode

FAST = ["train", "scenario=split_digits", "train.epochs=1", "strategy=naive", "track.every=1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_auto_is_off_without_a_key_and_online_with_one(here, monkeypatch):
    assert wandb_mode("auto") == "disabled" and wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode("auto") == "online"


def test_auto_says_how_to_record(here, capsys):
    assert cli.main(FAST) == 0
    assert "track.wandb=offline records runs for a later `wandb sync`" in capsys.readouterr().err


def test_offline_records_a_run(here):
    done = subprocess.run([sys.executable, "-m", "cl_framework.cli", *FAST, "track.wandb=offline"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(here.glob("runs/split_digits/naive/*/seed0/wandb/offline-run-*/*.wandb"))) == 1


def test_a_failing_wandb_does_not_end_the_run(here, monkeypatch, caplog):
    import wandb

    def broken(**_):
        raise RuntimeError("no service")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.WARNING):
        assert cli.main([*FAST, "track.wandb=offline"]) == 0
    assert "W&B failed (RuntimeError: no service); it is off for the rest of this run" in caplog.text


def test_a_wandb_that_fails_later_does_not_end_the_run(here, monkeypatch, caplog):
    import wandb

    class Run:
        def define_metric(self, *_, **__):
            pass

        def log(self, values):
            raise OSError("the service went away")

        def finish(self):
            raise OSError("the service went away")

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    with caplog.at_level(logging.WARNING):
        assert cli.main([*FAST, "track.wandb=offline"]) == 0
    assert caplog.text.count("W&B failed") == 1


def test_tensorboard_on_request(here):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    code = textwrap.dedent(f"""
        import sys
        from cl_framework.cli import main
        sys.exit(main({[*FAST, "track.tensorboard=true", "track.wandb=disabled"]!r}))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(here.glob("runs/split_digits/naive/*/seed0/tensorboard/events*"))


def test_a_resumed_run_keeps_its_id(here, monkeypatch):
    import wandb

    from cl_framework.observer import Observer

    opened = []

    class Run:
        summary: ClassVar = {}

        def define_metric(self, *_, **__):
            pass

        def log(self, values):
            pass

        def finish(self):
            pass

    class Stop(Observer):
        def evaluated(self, index, record, own):
            if index == 2:
                raise KeyboardInterrupt

    def init(**options):
        opened.append((options["id"], options["resume"], options["group"]))
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_framework.launch.progress_for", lambda console, label: Stop())
        assert cli.main([*FAST, "track.wandb=offline"]) == 130
    assert cli.main([*FAST, "track.wandb=offline"]) == 0
    assert len(opened) == 2 and opened[0] == opened[1] and opened[0][1] == "allow"
