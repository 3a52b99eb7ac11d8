"""What a run costs beside its steps: `clf train` from the command to the table, and `clf list`.

    python benchmarks/startup_speed.py            # writes runs/reference/startup_speed.json

A whole run of split_fashion with `er` is a process of its own. Its chunks of training steps and its evaluations are
clocked inside; start-up and shutdown are what is left of the process. Both are processor time, which other work on the
machine lengthens little, and the clock's, which is what a user waits for. How long Python takes to import torch and
Lightning, and everything that a run imports, stands beside it, each in a process of its own.

`clf list` is measured from the command to its end, with the modules that it leaves imported.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import NamedTuple

from timing import write

RUNS, LISTS = 5, 9
TARGET_SECONDS, TARGET_LIST = 4.0, 0.4
WORDS = ("train", "scenario=split_fashion", "strategy=er", "track.wandb=disabled")
RUN = """
import sys, time
from cl_framework import cli
from cl_framework.garbage import uncollected
with uncollected():  # as the command imports them
    from cl_framework import evaluate, learner, protocol

spent = {"train": [0.0, 0.0], "evaluate": [0.0, 0.0]}

def clocked(name, work):
    def timed(*args, **kwargs):
        processor, clock = time.process_time(), time.perf_counter()
        found = work(*args, **kwargs)
        spent[name][0] += time.process_time() - processor
        spent[name][1] += time.perf_counter() - clock
        return found
    return timed

learner.Learner.training_step = clocked("train", learner.Learner.training_step)
protocol.evaluate = clocked("evaluate", protocol.evaluate)
status = cli.main(sys.argv[1:])
print("SPENT", *spent["train"], *spent["evaluate"])
raise SystemExit(status)
"""
IMPORTS = {"torch": "import torch", "lightning": "import cl_framework._torchvision, lightning",
           "a run": "import cl_framework.protocol, cl_framework.launch, torch._dynamo"}
LIST = "from cl_framework.cli import main; main(['list'])"


class Taken(NamedTuple):
    """Seconds of a process: of the processor, and of the clock."""

    processor: float
    clock: float


def process(code: str, *words: str) -> tuple[Taken, str]:
    """Run Python code in a process of its own; what it took, and what it printed. Python may keep its bytecode, as it
    does by default."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True, env=own)
    clock, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock), done.stdout


def run() -> dict[str, Taken]:
    """One whole run and its parts."""
    with tempfile.TemporaryDirectory() as out:
        whole, printed = process(RUN, *WORDS, f"out={out}")
    spent = [float(text) for text in printed.splitlines()[-1].split()[1:]]
    steps, evaluations = Taken(*spent[:2]), Taken(*spent[2:])
    around = Taken(*(all_of - one - other for all_of, one, other in zip(whole, steps, evaluations, strict=True)))
    return {"whole": whole, "steps": steps, "evaluations": evaluations, "around": around}


def medians(found: list[Taken]) -> dict[str, float]:
    """Of several processes, with the lowest of the processor, which other work lengthened least."""
    return {"processor": round(median(one.processor for one in found), 3),
            "lowest_processor": round(min(one.processor for one in found), 3),
            "clock": round(median(one.clock for one in found), 3)}


def main() -> None:
    """Measure, print, write."""
    load = os.getloadavg()[0]
    process("import cl_framework.protocol")
    with tempfile.TemporaryDirectory() as out:
        process(RUN, *WORDS, f"out={out}")  # the cache is warm from here on
    runs, imports = list[dict[str, Taken]](), {name: list[Taken]() for name in IMPORTS}
    for _ in range(RUNS):
        runs.append(run())
        for name, code in IMPORTS.items():
            imports[name].append(process(code)[0])
    lists = [process(LIST)[0] for _ in range(LISTS)]
    modules = process(f"import sys; {LIST}; print(*sys.modules)")[1].splitlines()[-1].split()
    write("startup_speed", {
        "run": f"clf {' '.join(WORDS)}", "load_before": load,
        "targets": {"around": TARGET_SECONDS, "list": TARGET_LIST},
        "seconds": {name: medians([one[name] for one in runs]) for name in runs[0]},
        "imports": {name: medians(found) for name, found in imports.items()},
        "list": {**medians(lists), "modules": len(modules),
                 "packages": len({name.partition(".")[0] for name in modules} - sys.stdlib_module_names)}})


if __name__ == "__main__":
    main()
