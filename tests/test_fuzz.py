"""A short, seeded slice of both fuzzers, and that a fuzzer finds what it is made to find."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "faults"


def fuzz(name, seeds, folder):
    """A fuzzer changes signal handlers and adds an audit hook for good, so it has a process of its own."""
    return subprocess.run([sys.executable, FAULTS / f"{name}.py", seeds, folder], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "CLF_OFFLINE": "1"})


@pytest.mark.parametrize(("name", "seeds"), [("fuzz_commands", "1000000..1000149"), ("fuzz_files", "1000000..1000086")])
def test_spoiled_inputs_are_taken_or_refused_in_a_sentence(name, seeds, tmp_path):
    done = fuzz(name, seeds, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / f"{name}.json").exists()


def test_a_watch_finds_what_no_input_may_cause(tmp_path):
    code = f"""
import json, os, socket, subprocess, sys
sys.path.insert(0, {str(FAULTS)!r})
from pathlib import Path
import fuzzing
fuzzing.SECONDS = 1.0
home = Path({str(tmp_path)!r})
watch = fuzzing.Watch(home)
held = []

def spin():
    while True:
        pass

def swallow():
    try:
        spin()
    except Exception:
        return "fine"

def refused():
    try:
        Path({str(tmp_path.parent)!r}, "outside").write_text("x")
    except PermissionError:
        return "refused"

for action in (lambda: "fine", lambda: 1 / 0, spin, swallow, lambda: subprocess.run(["true"]),
               lambda: os.system("true"), lambda: socket.create_connection(("127.0.0.1", 9)),
               lambda: held.append(b"x" * (5 << 28)), refused, lambda: str((home / "inside").write_text("x"))):
    watch.attempt(0, "", action)
print(json.dumps(watch.outcomes))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"fine": 1, "unexplained": 1, "hang": 2, "forbidden": 3, "memory": 1,
                                       "refused": 1, "1": 1}
    assert not (tmp_path.parent / "outside").exists()


def test_a_seed_makes_the_same_input(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FAULTS)
    from random import Random

    from mutations import spoiled_bytes, spoiled_tree

    tree = {"a": [1, {"b": "c"}], "d": None}
    assert len({spoiled_bytes(b"content", Random(seed)) for seed in range(50)}) > 30
    for seed in range(50):
        assert spoiled_bytes(b"content", Random(seed), [b"x"]) == spoiled_bytes(b"content", Random(seed), [b"x"])
        assert repr(spoiled_tree(tree, Random(seed))) == repr(spoiled_tree(tree, Random(seed)))
    assert tree == {"a": [1, {"b": "c"}], "d": None}
