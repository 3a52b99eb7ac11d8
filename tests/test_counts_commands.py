"""What a command imports and writes, counted: both cost the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cl_framework import cli

HEAVY = {"torch", "lightning", "torchmetrics", "torchvision", "transformers", "avalanche", "wandb", "numpy", "scipy",
         "matplotlib", "optuna", "omegaconf", "sklearn", "ray", "PIL"}
"""Packages that take tenths of a second or seconds each."""
MODULES = 330
"""`clf list` has 275 with Python 3.11."""
_written: Counter[str] = Counter()
_is_counting = False


VERBS = (["list"], ["--help"], ["list", "kind=experiment"], ["show", "strategy=er"], ["show", "train=recipe"],
         ["train", "--help"], ["watch", "run=none"])
"""What looks and does not train."""


def imported(home: Path, *lines: list[str]) -> list[set[str]]:
    """The modules that are there after each verb, one after the other in a process of its own."""
    code = (f"import sys\nfrom cl_framework.cli import main\nfor words in {lines!r}:\n"
            "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
            "    print('\\nMODULES', *sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home,
                          env={**os.environ, "CLF_DATA": str(home / "data")})
    return [set(line.split()[1:]) for line in done.stdout.splitlines() if line.startswith("MODULES")]


def packages(modules: set[str]) -> set[str]:
    """What the modules belong to."""
    return {name.partition(".")[0] for name in modules}


def test_verbs_that_do_not_train_import_nothing_heavy(tmp_path: Path) -> None:
    found = imported(tmp_path, *VERBS)
    heavy = {" ".join(words): packages(modules) & HEAVY for words, modules in zip(VERBS, found, strict=True)}
    assert not any(heavy.values()), heavy


def test_how_many_modules_a_list_imports(tmp_path: Path) -> None:
    modules, = imported(tmp_path, ["list"])
    assert len(modules) <= MODULES, f"{len(modules)} modules; look with python -X importtime"


def test_a_run_imports_neither_trackers_nor_searches(tmp_path: Path) -> None:
    """A split asks Avalanche for the order of classes once, and keeps it; a permuted stream has none."""
    modules, = imported(tmp_path, ["train", "scenario=permuted", "scenario.images=digits", "scenario.n_experiences=2",
                                   "strategy=naive", "track.wandb=disabled"])
    assert "torch" in modules and (tmp_path / "runs" / "permuted" / "naive").is_dir()
    assert not packages(modules) & {"wandb", "avalanche", "optuna", "ray", "gepa", "peft"}


def _listen(event: str, args: tuple[Any, ...]) -> None:
    """Count files that are opened by name for writing, and those that get another name."""
    if not _is_counting:
        return
    if event == "open" and not isinstance(args[0], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        _written["opened"] += 1
    elif event == "os.rename":
        _written["renamed"] += 1


def writes(n_experiences: int, out: Path) -> Counter[str]:
    """What a run of `clf train` writes."""
    global _is_counting
    words = ["train", "scenario=permuted", "scenario.images=digits", f"scenario.n_experiences={n_experiences}",
             "strategy=er", "track.wandb=disabled", f"out={out}"]
    _written.clear()
    _is_counting = True
    try:
        assert cli.main(words) == 0
    finally:
        _is_counting = False
    return Counter(_written)


def test_an_experience_writes_five_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A checkpoint is written whole and renamed, and so is the table of experiences when one begins and ends; two more
    tables are appended to, and that of steps stays as it is where none is told of."""
    sys.addaudithook(_listen)
    few, many = (writes(n, tmp_path / str(n)) for n in (2, 4))
    assert {name: (many[name] - few[name]) / 2 for name in many} == {"opened": 5.0, "renamed": 3.0}
