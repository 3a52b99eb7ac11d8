"""A run and its disk: what is written is whole, what is damaged is named, and a finished run stays finished."""

import errno
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

from cl_framework import cli, files
from cl_framework.checkpoint import Vault
from cl_framework.errors import Busy, ClfError
from cl_framework.files import write_atomic
from cl_framework.runs import RunFolder
from cl_framework.summaries import read_runs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks" / "faults"))

from damages import damaged, places
from killing import left

WORDS = ["train", "scenario=split_digits", "strategy=naive", "train.epochs=1", "scenario.n_experiences=2",
         "track.wandb=disabled"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that met no fault."""
    out = tmp_path_factory.mktemp("whole")
    assert cli.main([*WORDS, f"out={out}"]) == 0
    return next(out.rglob("seed0"))


@pytest.mark.parametrize("nth", [1, 3, 6, 9, 12])
def test_a_disk_that_is_full_at_any_write_costs_nothing_but_the_rest(nth, whole, tmp_path, monkeypatch, capsys):
    flush, seen = os.fsync, []

    def full(handle):
        seen.append(handle)
        if len(seen) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(files, "_settle", lambda folder: None)
    monkeypatch.setattr(os, "fsync", full)
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "Traceback" not in said
    monkeypatch.setattr(os, "fsync", flush)
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 0
    assert left(next(tmp_path.rglob("seed0"))) == left(whole)


def test_every_kind_of_damage_to_a_checkpoint_falls_back_to_the_one_before(tmp_path):
    vault = Vault(tmp_path, "me")
    vault.save({"value": torch.arange(5.0)}, 0, 1)
    newest = vault.save({"value": torch.arange(7.0), "other": torch.ones(3, 3)}, 0, 2)
    content = newest.read_bytes()
    kinds = set()
    for kind, offset in places(content):
        for how in ("flip", "cut", "add"):
            newest.write_bytes(damaged(content, offset, how))
            assert len(vault.load()["value"]) == 5, (kind, how)
            kinds.add(kind)
    assert {"local header", "checksum", "central directory", "payload, first byte", "payload, last byte",
            "index of tensors, first byte", "first byte", "last byte"} <= kinds
    newest.write_bytes(content)
    assert len(vault.load()["value"]) == 7


def test_a_writer_that_is_stopped_leaves_nothing_and_a_killed_one_is_swept_up(tmp_path, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "table.csv", "1")
    assert list(tmp_path.iterdir()) == []
    for name in (".table.csv.a1b2c3d4", ".lock", ".mine"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path).locked():
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine"]


def test_one_of_two_has_the_folder(tmp_path):
    folder = tmp_path / "seed0"
    words = "is being run by another process; wait for it"
    with RunFolder(folder).locked(), pytest.raises(Busy, match=words), RunFolder(folder).locked():
        pass


@pytest.mark.parametrize("how", ["removed", "moved", "begun anew"])
def test_a_folder_that_goes_is_noticed(tmp_path, how):
    folder = RunFolder(tmp_path / "seed0")
    with folder.locked():
        folder.check_held()
        folder.path.rename(tmp_path / "away")
        if how == "begun anew":
            folder.path.mkdir()
            (folder.path / ".lock").touch()
        if how == "removed":
            (tmp_path / "away" / ".lock").unlink()
        with pytest.raises(ClfError, match="was removed or moved while its run was at work; nothing more is written"):
            folder.check_held()


def test_no_clock_of_the_wall_decides_anything(whole, tmp_path, monkeypatch):
    jumps = iter(range(10**9))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e9)
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 0
    assert left(next(tmp_path.rglob("seed0"))) == left(whole)


@pytest.mark.parametrize(("name", "change"), [
    ("summary.json", lambda text: text.replace('"seed": 0', '"seed": 1')),
    ("accuracy.csv", lambda text: text.replace("0.", "1.", 1)), ("config.yaml", lambda text: text + "\n")])
def test_a_finished_run_whose_files_changed_is_refused(name, change, tmp_path, capsys):
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 0
    file = next(tmp_path.rglob(name))
    before = left(file.parent)
    file.write_text(change(file.read_text()))
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 2
    assert f"{name} in {file.parent} changed after the run was finished" in capsys.readouterr().err
    (file.parent / "summary.json").unlink()
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 0
    assert left(file.parent) == before


def test_a_report_leaves_out_a_summary_with_another_digest(whole, tmp_path):
    content = json.loads((whole / "summary.json").read_text())
    content["metrics"]["average_accuracy"] += 0.001
    (tmp_path / "summary.json").write_text(json.dumps(content))
    runs = read_runs(tmp_path)
    assert not runs.finished and "its content has another digest than it states" in runs.damaged[0]
