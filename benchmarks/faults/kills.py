"""Kill runs at random moments, take them up again, and compare all that they leave with runs that were never stopped.

    make kills                                        # 200 runs; goes on where it stopped
    python benchmarks/faults/kills.py runs=20 kinds=er,gcwm workers=1 out=/tmp/kills.json

A run is killed one to four times. Half of the kills fall at a time drawn over the length of the run, half into a
phase that is drawn: evaluation, the end of an experience (where merging is done), or the writing of a file. One run in
seven is started as a user starts it, in a new interpreter; the others fork from a server that has imported everything
(`killing.py`). A run that ends before its first kill does not count, and is done again with other moments.
"""

from __future__ import annotations

import multiprocessing
import platform
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from killing import PHASES, Run, left

from cl_framework import tuning_pool  # noqa: F401  (what a run imports is imported before the fork)
from cl_framework.files import write_json
from cl_framework.plain_files import read_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent.parent / "runs" / "reference" / "kills.json"
_LABELLED = ("scenario=split_digits", "train.epochs=8")
_CORRUPTED = ("scenario=corrupted", "scenario.dataset=digits", "scenario.severity=3", "scenario.batch_size=100",
              "scenario.corruptions=[gaussian_noise,contrast,brightness]", "strategy=psmt", "model=mlp")
KINDS = {
    "er": (*_LABELLED, "strategy=er", "strategy.memory_size=100"),
    "derpp": (*_LABELLED, "strategy=derpp", "strategy.memory_size=100"),
    "ewc": (*_LABELLED, "strategy=ewc"),
    "gcwm": (*_LABELLED, "strategy=gcwm", "strategy.n_steps=20"),
    "psmt": (*_LABELLED, "strategy=psmt"),
    "psmt paper": (*_CORRUPTED, "strategy.variant=paper", "strategy.n_views=4"),
    "psmt release": (*_CORRUPTED, "strategy.variant=release"),
    "fst": ("scenario=verifiable", "scenario.kinds=[arithmetic,arithmetic:1]", "scenario.difficulty=0",
            "scenario.n_train=8", "scenario.n_test=4", "scenario.n_samples=2", "scenario.n_pieces=2", "model=tiny_lm",
            "strategy=fst", "train.lr=3e-4"),
}
"""What is killed; a kind is added here."""
_ALWAYS = ("train.checkpoint_every=0", "track.wandb=disabled", "track.every=5")
_AIMS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        kind: what was run.
        number: which of its kind.
        kills: what it was doing when it was killed, each time.
        is_whole: it was started in a new interpreter.
        differing: files that differ from those of the run that was never stopped.
        fault: what else went wrong.
    """

    kind: str
    number: int
    kills: tuple[str, ...]
    is_whole: bool
    differing: tuple[str, ...] = ()
    fault: str = ""


def learn(kind: str, out: Path, **how: Any) -> Run:
    """Start or take up a run."""
    return Run(["train", *KINDS[kind], *_ALWAYS, f"out={out}"], out.parent / "log", **how)


def folder_of(out: Path) -> Path:
    """The one run folder below `out`."""
    return next(out.glob("*/*/*/seed0"))


@cache
def unstopped(kind: str, *, is_whole: bool) -> tuple[float, dict[str, str]]:
    """The seconds of a run that is never stopped, and what it leaves.

    Raises:
        RuntimeError: it fails by itself.
    """
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        whole = learn(kind, Path(name) / "whole", is_whole=is_whole)
        if whole.wait():
            raise RuntimeError((Path(name) / "log").read_text()[-500:])
        return whole.length, left(folder_of(Path(name) / "whole"))


def one(kind: str, number: int) -> Outcome:
    """Run, kill and take up until the run is over, and compare."""
    draws = random.Random(f"{kind} {number}")
    is_whole = number % 7 == 6
    length, expected = unstopped(kind, is_whole=is_whole)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        place = Path(name)
        for attempt in range(20):
            out = place / f"cut{attempt}"
            kills = _killed(kind, out, draws, length, is_whole)
            last = learn(kind, out, is_whole=is_whole)
            if last.wait():
                return Outcome(kind, number, tuple(kills), is_whole, fault=(place / "log").read_text()[-500:])
            if kills:
                found = left(folder_of(out))
                differing = sorted(file for file in found.keys() | expected.keys()
                                   if found.get(file) != expected.get(file))
                return Outcome(kind, number, tuple(kills), is_whole, tuple(differing))
    return Outcome(kind, number, (), is_whole, fault="it always ended before it was killed")


def _killed(kind: str, out: Path, draws: random.Random, length: float, is_whole: bool) -> list[str]:
    """Kill a run one to four times, or until it ends; what it was doing each time."""
    kills = list[str]()
    for _ in range(draws.randint(1, 4)):
        run = learn(kind, out, is_whole=is_whole)
        if is_whole or draws.random() < 0.5:
            phase = run.kill_after(draws.uniform(0.0, length))
        else:
            phase = run.kill_in(draws.choice(_AIMS), draws.randint(1, 6), draws.uniform(0.0, 0.002))
        if phase is None:
            break
        kills.append("unknown" if is_whole else PHASES[phase])
    return kills


def counts(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is reported of each kind."""
    rows = []
    for kind in KINDS:
        of_kind = [each for each in outcomes if each["kind"] == kind]
        kills = [phase for each in of_kind for phase in each["kills"]]
        rows.append({"kind": kind, "command": " ".join(["clf train", *KINDS[kind], *_ALWAYS]), "runs": len(of_kind),
                     "as_a_user_starts_it": sum(each["is_whole"] for each in of_kind), "kills": len(kills),
                     "kills_while": dict(sorted(Counter(kills).items())),
                     "identical": sum(not each["differing"] and not each["fault"] for each in of_kind)})
    return rows


def main() -> None:
    """Kill, compare, write after each run."""
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    out, kinds = Path(given.get("out", RESULT)), given.get("kinds", ",".join(KINDS)).split(",")
    tasks = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(int(given.get("runs", 200)))]
    outcomes: list[dict[str, Any]] = read_json(out).get("outcomes", []) if out.exists() else []
    done = {(each["kind"], each["number"]) for each in outcomes}
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(int(given.get("workers", 2)), mp_context=context) as pool:
        for future in as_completed([pool.submit(one, *task) for task in tasks if task not in done]):
            outcome = future.result()
            outcomes.append(asdict(outcome))
            print(outcome, flush=True)
            write_json(out, {"command": "make kills", "git_commit": git_commit(), "torch": torch.__version__,
                             "python": platform.python_version(), "results": counts(outcomes),
                             "outcomes": sorted(outcomes, key=lambda each: (each["kind"], each["number"]))})
    sys.exit(any(each["differing"] or each["fault"] for each in outcomes))


if __name__ == "__main__":
    main()
