"""A run that is killed in the middle of an epoch and taken up again ends with the same bits."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "kills.py"


def test_three_kills_of_experience_replay():
    done = subprocess.run([sys.executable, SCRIPT, "er", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'kills': 3" in done.stdout and "'differing': []" in done.stdout
    assert "'finished_runs_compared': 0" not in done.stdout
