"""Runs that are killed and taken up again end with the same bits, and what compares them sees a single one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cl_framework import cli

FAULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "faults"
sys.path.insert(0, str(FAULTS))

from killing import left  # noqa: E402  (it is a script beside the benchmarks)


def test_a_run_of_each_form_is_killed_and_ends_with_the_same_bits(tmp_path):
    out = tmp_path / "kills.json"
    done = subprocess.run([sys.executable, FAULTS / "kills.py", "runs=2", "kinds=er,psmt release", "workers=1",
                           f"out={out}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(out.read_text())
    assert len(made["outcomes"]) == 2
    assert all(each["kills"] and not each["differing"] and not each["fault"] for each in made["outcomes"])
    assert sum(row["identical"] for row in made["results"]) == 2


@pytest.mark.parametrize(("name", "mark"), [
    ("steps.csv", b"0."), ("accuracy.csv", b"0."), ("metrics.jsonl", b'"average_accuracy": 0.'),
    ("summary.json", b'"average_accuracy": 0.')])
def test_a_single_digit_is_a_difference(name, mark, tmp_path):
    assert cli.main(["train", "scenario=split_digits", "scenario.n_experiences=5", "strategy=naive", "train.epochs=1",
                     "track.wandb=disabled", "track.every=1", f"out={tmp_path}"]) == 0
    folder = next(tmp_path.rglob("seed0"))
    before, file = left(folder), folder / name
    content = file.read_bytes()
    at = content.rindex(mark) + len(mark)
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])
    assert [key for key, digest in left(folder).items() if digest != before[key]] == [name]
