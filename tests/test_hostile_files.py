"""Pipes, devices and slips of the hand in places where a file, a name or a number is expected: docs/security.md."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import make_dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl_framework import cli, offers
from cl_framework.api_reflector import Endpoint
from cl_framework.errors import ConfigError, DataError, PluginError, Stopped
from cl_framework.experience_figures import COLUMNS
from cl_framework.holding import holding
from cl_framework.plain_files import read_bytes
from cl_framework.registry import verify
from cl_framework.run_writer import Writer
from cl_framework.runs import RunFolder
from cl_framework.scenarios._folders import read_image_folder, read_npz
from cl_framework.scenarios._readers import gunzip, read_idx
from cl_framework.strategy import Strategy
from cl_framework.strategy_figures import own_figures
from cl_framework.watched import Look

WORDS = ["train", "scenario=split_digits", "strategy=naive", "train.epochs=1", "scenario.n_experiences=2",
         "track.wandb=disabled"]


@pytest.fixture(autouse=True)
def impatient():
    """What waits for a pipe fails its test."""
    def late(_number, _frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def nothing(path, kind):
    """A pipe nobody writes to, or zeros without an end."""
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "zeros"])
def test_no_reader_waits_for_what_never_begins_or_ends(kind, tmp_path):
    for name in ("x.npz", "x-idx1-ubyte", "y.gz", "plain"):
        nothing(tmp_path / name, kind)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "pictures" / name / "1.png")
    nothing(tmp_path / "pictures" / "dog" / "2.png", kind)
    with pytest.raises(ValueError, match="pipe or a device"):
        read_bytes(tmp_path / "plain")
    for read, name in ((read_npz, "x.npz"), (read_idx, "x-idx1-ubyte"), (gunzip, "y.gz"),
                       (read_image_folder, "pictures")):
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_a_larger_array_than_memory_is_refused_before_it_is_made(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"0" * 100)
    with pytest.raises(DataError, match=r"no readable \.npz file"):
        read_npz(tmp_path / "x.npz")


def test_a_run_folder_of_pipes_is_refused_or_mended(tmp_path, capsys):
    assert cli.main([*WORDS, f"out={tmp_path}"]) == 0
    folder = next(tmp_path.rglob("seed0"))
    (folder / "summary.json").unlink()
    for name in ("metrics.jsonl", "accuracy.csv", "steps.csv", "experiences.csv", "command.txt"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    assert len(Look(tmp_path)()) == 1
    assert cli.main(["resume", f"run={folder}"]) == 0
    assert (folder / "accuracy.csv").is_file() and json.loads((folder / "summary.json").read_text())
    (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    capsys.readouterr()
    assert cli.main(["resume", f"run={folder}"]) == 2
    assert "cannot use" in capsys.readouterr().err


def test_what_an_earlier_process_noted_may_be_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "steps.csv")
    (tmp_path / "experiences.csv").write_text(",".join(COLUMNS))
    assert Writer(RunFolder(tmp_path), 1)._lines("steps.csv") == []


def test_a_lock_is_made_once_and_kept(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "target")
    with holding(tmp_path / "run"):
        pass
    assert (tmp_path / "target").read_text() == "mine"


@pytest.mark.parametrize(("text", "words"), [
    ("class Panic(BaseException): pass\nraise Panic('in an extension')", "Panic: in an extension"),
    ("import sys; sys.exit(3)", "SystemExit: 3"), ("raise GeneratorExit", "GeneratorExit")])
def test_whatever_a_plugin_raises_at_import_is_a_sentence(text, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_at_import.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_at_import", raising=False)
    assert cli.main(["train", "scenario=split_digits", "strategy=broken_at_import:Mine", "out=runs"]) == 2
    assert f"fails when it is imported: {words}" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), Stopped(signal.SIGTERM, is_saved=False)])
def test_a_signal_during_an_import_is_no_fault_of_the_plugin(raised, monkeypatch):
    def stopped(_):
        raise raised

    monkeypatch.setattr(offers, "import_module", stopped)
    point = offers.EntryPoint("mine", "mine:Class", "cl_framework.strategies")
    with pytest.raises(type(raised)):
        offers.imported("strategy", point)


def test_a_command_stopped_while_its_plugin_is_imported_says_so(tmp_path):
    (tmp_path / "slow_plugin.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(50)\n")
    run = subprocess.Popen([sys.executable, "-m", "cl_framework.cli", "train", "scenario=split_digits",
                            "strategy=slow_plugin:Mine"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists() and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=30)[1]
    assert run.returncode == 143 and "fails when it is imported" not in said
    assert "give the same command again" in said and "Traceback" not in said


def test_memory_that_is_not_there_is_said(tmp_path, capsys):
    assert cli.main([*WORDS, "model.hidden=[1000000000000]", f"out={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert "the memory of this machine is full" in said and "unexpected" not in said


KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize("fields", [
    {"key": KEY}, {"key": KEY.replace("-", "")}, {"url": f"http://me:{KEY}@example.com/v1"},
    {"url": f"https://example.com/v1?key={KEY}"}, {"url": f"https://example.com/v1#{KEY}"}])
def test_a_key_in_the_wrong_field_is_refused_and_not_shown(fields, monkeypatch):
    monkeypatch.setenv("REFLECTOR_KEY", KEY)
    with pytest.raises(ConfigError, match="environment variable") as found:
        Endpoint(**{"url": "https://example.com/v1", "model": "m", "key": "REFLECTOR_KEY", **fields}).check()
    assert KEY not in str(found.value) and KEY.replace("-", "") not in str(found.value)


def test_a_broken_record_of_diagnostics_takes_nothing_down(tmp_path):
    whole = [*WORDS, "track.diagnostics=true", f"out={tmp_path / 'a'}"]
    assert cli.main(whole) == 0
    folder = next(tmp_path.rglob("seed0"))
    (folder / "summary.json").unlink()
    for content in ('{"experiences": 5}', '{"experiences": {}}', "[1]", '{"experiences": "text"}'):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        next((tmp_path / "b").rglob("diagnostics.json")).write_text(content)
        assert cli.main([*whole[:-1], f"out={tmp_path / 'b'}"]) == 0


@pytest.mark.parametrize("field", ["api_key", "openai_api_key", "PASSWORD", "db_password", "auth_token", "secret_key"])
def test_a_plugin_with_a_field_for_a_secret_is_refused(field):
    plugin = make_dataclass("Mine", [(field, str, "")], bases=(Strategy,), kw_only=True)
    with pytest.raises(PluginError, match=f"has the field {field}, and every field is written"):
        verify("strategy", "mine", plugin)
    for harmless in ("key_size", "max_new_tokens", "reflector_key", "n_tokens", "monkey"):
        verify("strategy", "mine", make_dataclass("Mine", [(harmless, str, "")], bases=(Strategy,), kw_only=True))


def test_an_infinite_figure_of_a_strategy_is_named(caplog):
    class Mine(Strategy):
        def metrics(self):
            return {"absent": float("nan"), "worse": float("inf"), "good": 1.0}

    assert own_figures(Mine()) == {"good": 1.0}
    assert "'worse' as inf; it is left out of the tables" in caplog.text and "absent" not in caplog.text
