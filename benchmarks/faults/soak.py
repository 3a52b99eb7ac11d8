"""A stream of 2,000 experiences online with experience replay: does memory, time or a handle grow with it?

    python benchmarks/faults/soak.py                 # minutes at the lowest priority; writes runs/reference/soak.json
    python benchmarks/faults/soak.py 200             # fewer experiences, printed alone

The run is a process of its own, started by the real command. Whenever it says that an experience is evaluated, the
kernel is asked what it holds (resident bytes, open files, threads) and how long it has computed. Lines are fitted by
least squares over blocks of 20 experiences, after a warm-up of a tenth; the error is that of the slope, 95 %. It is CPU
time that counts, as the machine may have other work; experiences after which all are evaluated are told apart.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy.stats import linregress, t

from cl_framework.files import write_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent.parent / "runs" / "reference" / "soak.json"
EVERY = 100
"""Experiences between two evaluations of the whole stream."""
_BLOCK = 20
_LINE = re.compile(r"experience (\d+)/\d+ ")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the kernel says of the run after an experience."""

    experience: int
    resident: int
    files: int
    threads: int
    cpu: float
    wall: float


def command(n: int, out: Path) -> list[str]:
    """A stream of permuted digits."""
    return [sys.executable, "-m", "cl_framework.cli", "train", "scenario=permuted", "scenario.images=digits",
            f"scenario.n_experiences={n}", "scenario.is_online=true", "strategy=er", "train.batch_size=128",
            f"train.evaluate_every={EVERY}", "track.wandb=disabled", f"out={out}"]


def sample(pid: int, experience: int) -> Sample:
    """Ask the kernel."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    times = (folder / "stat").read_text().rpartition(")")[2].split()
    return Sample(experience=experience, resident=int(status["VmRSS"].split()[0]) * 1024,
                  files=len(list((folder / "fd").iterdir())), threads=int(status["Threads"]),
                  cpu=(int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), wall=time.monotonic())


def watch(n: int, out: Path) -> list[Sample]:
    """Run the stream, with a sample after each experience."""
    process = subprocess.Popen(command(n, out), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    found, text = [], []
    for line in process.stderr:
        text.append(line)
        told = _LINE.search(line)
        if told:
            found.append(sample(process.pid, int(told[1])))
    if process.wait():
        sys.exit(f"the run failed: {''.join(text[-5:])}")
    return found


def slope(x: list[float], y: list[float]) -> dict[str, float]:
    """The least-squares slope over means of blocks, and half the width of its 95 % interval."""
    blocks = [(statistics.fmean(x[i:i + _BLOCK]), statistics.fmean(y[i:i + _BLOCK]))
              for i in range(0, len(x) - _BLOCK + 1, _BLOCK)]
    fit = linregress(*zip(*blocks, strict=True))
    return {"per_experience": float(fit.slope), "error_95": float(t.ppf(0.975, len(blocks) - 2) * fit.stderr)}


def figures(samples: list[Sample]) -> dict[str, Any]:
    """What the samples say, after a warm-up of a tenth."""
    warm = samples[len(samples) // 10:]
    pairs = list(pairwise(samples))[len(samples) // 10:]
    plain = [(before, after) for before, after in pairs
             if after.experience % EVERY and after.experience != len(samples)]
    whole = [after.cpu - before.cpu for before, after in pairs if not after.experience % EVERY]
    spent = [after.cpu - before.cpu for before, after in plain]
    numbers = [float(after.experience) for _, after in plain]
    return {
        "n_experiences": len(samples), "warm_up": len(samples) // 10, "evaluate_every": EVERY,
        "resident_bytes": {"after_warm_up": warm[0].resident, "at_the_end": warm[-1].resident,
                           **slope([float(each.experience) for each in warm], [float(each.resident) for each in warm])},
        "open_files": {"least": min(each.files for each in warm), "most": max(each.files for each in warm)},
        "threads": {"least": min(each.threads for each in warm), "most": max(each.threads for each in warm)},
        "cpu_seconds": {"mean": statistics.fmean(spent), "first_tenth": statistics.fmean(spent[: len(spent) // 10]),
                        "last_tenth": statistics.fmean(spent[-(len(spent) // 10):]), **slope(numbers, spent)},
        "cpu_seconds_with_evaluation_of_all": {"first": whole[0], "last": whole[-1]} if whole else None,
        "wall_seconds": samples[-1].wall - samples[0].wall,
    }


def main() -> None:
    """Run, measure, print, write."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    os.nice(max(12 - os.nice(0), 0))
    with tempfile.TemporaryDirectory() as folder:
        found = figures(watch(n, Path(folder)))
    print(found)
    if len(sys.argv) == 1:
        write_json(RESULT, {"command": "python benchmarks/faults/soak.py", "git_commit": git_commit(),
                            "torch": torch.__version__, "python": platform.python_version(),
                            "results": found})


if __name__ == "__main__":
    main()
