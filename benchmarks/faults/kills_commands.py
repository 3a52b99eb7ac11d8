"""Signals to runs, and kills of `clf tune` and `clf merge`.

    python benchmarks/faults/kills_commands.py                  # 100 signals, 20 searches, 20 merges
    python benchmarks/faults/kills_commands.py n=5 out=/tmp/signals.json

*Signals.* A run gets SIGTERM, SIGINT, SIGHUP or SIGUSR1 at a random moment, half of them twice within 0.3 s. It must
end with the status of that signal and name the command that goes on, and, taken up again, leave what a run leaves that
was never stopped. *Searches* are killed one to four times and must end with the same trials and winner. *Merges* are
killed over an older file, which must be whole each time, or be the new one; nothing must stay beside it in the end.
"""

from __future__ import annotations

import hashlib
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from killing import PHASES, Run, left
from kills import KINDS, folder_of, learn, unstopped
from safetensors.torch import save_file

from cl_framework.files import write_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent.parent / "runs" / "reference" / "signals.json"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_SEARCH = ("tune", "scenario=split_digits", "strategy=er", "search.trials=4", "search.seeds=2", "train.epochs=2",
           "train.checkpoint_every=0", "track.wandb=disabled")
_METHODS = {"ties": (), "opcm": (), "gcwm": ("n_steps=5",)}


def signalled(number: int, place: Path) -> dict[str, Any]:
    """Send signals to a run, take it up, compare."""
    draws = random.Random(f"signal {number}")
    kind = list(KINDS)[number % len(KINDS)]
    length, expected = unstopped(kind, is_whole=False)
    for attempt in range(20):
        out, log = place / f"run{attempt}", place / "log"
        which, is_twice = draws.choice(SIGNALS), draws.random() < 0.5
        run = learn(kind, out)
        until = run.begun + draws.uniform(0.1, 1.0) * length
        while time.monotonic() < until and not run.is_over():
            time.sleep(0.001)
        phase = PHASES[run.phase]
        log.write_bytes(b"")
        run.signal(which)
        if is_twice:
            time.sleep(draws.uniform(0.0, 0.3))
            run.signal(draws.choice(SIGNALS))
        status, said = run.wait(), log.read_text()
        if status == 0:
            continue
        again = learn(kind, out).wait()
        has_saved = "a checkpoint is written" in said
        faults = [name for name, is_right in {
            f"status {status}": status == 128 + which or (status == -which and phase == "starting"),
            f"said {said[-300:]!r}": status < 0 or ("clf train" in said and "give the same command again" in said),
            f"exit {again} afterwards": again == 0,
            "another result": again == 0 and left(folder_of(out)) == expected}.items() if not is_right]
        return {"signal": which.name, "is_twice": is_twice, "while": phase, "has_saved": has_saved, "faults": faults}
    return {"faults": ["it always ended before"]}


def found_by(out: Path) -> str:
    """The trials and the winner of a search, times aside."""
    content = yaml.safe_load(next(out.rglob("best.yaml")).read_text())
    trials = [{key: value for key, value in trial.items() if "seconds" not in key} for trial in content["trials"]]
    for trial in trials:
        trial["seeds"] = {seed: {key: value for key, value in score.items() if "seconds" not in key}
                          if isinstance(score, dict) else score for seed, score in trial.get("seeds", {}).items()}
    return repr((content.get("winner"), content.get("best"), trials))


@cache
def whole_search() -> tuple[float, str]:
    """The seconds of a search that is never stopped, and what it finds."""
    with tempfile.TemporaryDirectory() as name:
        run = Run([*_SEARCH, f"out={name}/out"], Path(name) / "log")
        if run.wait():
            raise RuntimeError((Path(name) / "log").read_text()[-500:])
        return run.length, found_by(Path(name) / "out")


def searched(number: int, place: Path) -> dict[str, Any]:
    """Kill a search one to four times, take it up, compare."""
    draws, (length, expected), kills = random.Random(f"search {number}"), whole_search(), 0
    words, log = [*_SEARCH, f"out={place / 'out'}"], place / "log"
    for _ in range(draws.randint(1, 4)):
        kills += Run(words, log).kill_after(draws.uniform(0.05, 0.8) * length) is not None
    status = Run(words, log).wait()
    same = status == 0 and found_by(place / "out") == expected
    return {"kills": kills, "faults": [] if same else [f"status {status}, or another winner: {log.read_text()[-300:]}"]}


def merged(number: int, place: Path) -> dict[str, Any]:
    """Kill a merge over an older file one to four times; then let it finish."""
    draws = random.Random(f"merge {number}")
    method = list(_METHODS)[number % len(_METHODS)]
    torch.manual_seed(number)
    base = {f"layer{i}.weight": torch.randn(256, 256) for i in range(12)}
    for name in ("base", "a", "b", "c"):
        save_file({key: value + (0.01 * torch.randn_like(value) if name != "base" else 0)
                   for key, value in base.items()}, place / f"{name}.safetensors")
    out, fresh = place / "out.safetensors", place / "fresh" / "out.safetensors"
    words = ["merge", f"base={place}/base.safetensors", f"experts={place}/a.safetensors,{place}/b.safetensors,"
             f"{place}/c.safetensors", f"method={method}", *_METHODS[method]]
    first = Run([*words, f"out={fresh}"], place / "log")
    if first.wait():
        return {"faults": [(place / "log").read_text()[-300:]]}
    out.write_bytes(b"older")
    kills, faults = 0, list[str]()
    for _ in range(draws.randint(1, 4)):
        was = Run([*words, f"out={out}"], place / "log").kill_after(draws.uniform(0.05, 1.0) * first.length)
        kills += was is not None
        if _digest(out) not in (hashlib.sha256(b"older").hexdigest(), _digest(fresh)):
            faults.append("the older file is damaged")
    if Run([*words, f"out={out}"], place / "log").wait() or _digest(out) != _digest(fresh):
        faults.append("another result")
    rest = sorted(path.name for path in place.iterdir() if path.name.startswith("."))
    return {"method": method, "kills": kills, "faults": faults + rest}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Signals, searches, merges; print and write."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    n = int(given.get("n", 100))
    plan: dict[str, tuple[int, Callable[[int, Path], dict[str, Any]]]] = {
        "signals": (n, signalled), "searches": (max(n // 5, 1), searched), "merges": (max(n // 5, 1), merged)}
    made: dict[str, Any] = {}
    for name, (times, tried) in plan.items():
        rows = []
        for number in range(times):
            with tempfile.TemporaryDirectory(prefix="kills-") as place:
                rows.append(tried(number, Path(place)))
            if rows[-1]["faults"]:
                print(name, number, rows[-1], flush=True)
        made[name] = {"tried": times, "right": sum(not row["faults"] for row in rows),
                      "kills": sum(row.get("kills", 0) for row in rows),
                      "with_a_checkpoint_at_once": sum(row.get("has_saved", False) for row in rows),
                      "twice": sum(row.get("is_twice", False) for row in rows),
                      "while": dict(sorted(Counter(row["while"] for row in rows if "while" in row).items())),
                      "faults": [fault for row in rows for fault in row["faults"]]}
        print(name, made[name], flush=True)
    write_json(Path(given.get("out", RESULT)), {
        "command": "python benchmarks/faults/kills_commands.py", "git_commit": git_commit(),
        "torch": torch.__version__, "python": platform.python_version(), "results": made})
    sys.exit(any(each["faults"] for each in made.values()))


if __name__ == "__main__":
    main()
