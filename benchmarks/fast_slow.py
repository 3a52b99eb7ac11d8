"""Fast and slow weights on a stream of three tasks: both together, each alone, and one after the other.

    make fast-slow                               # both tiers; goes on where it was stopped
    python benchmarks/fast_slow.py smollm2 --seeds 1
    python benchmarks/fast_slow.py tiny report   # write the record of what has been run

After Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 4, with scripted edits in the place of
the reflection model. `smollm2` is SmolLM2-135M-Instruct with an adapter on words under a hidden rule, topics of news,
and words under another rule: kinds that some prompt brings it a reward on (`prompt_reach.py`, by which next to none
does on arithmetic in a hidden form, programs and star graphs). `tiny` is tiny_lm on sums of two digits in three hidden
forms. Methods are compared at equal samples (problems that slow steps learn from) and at equal replies: RL takes each
problem twice, GEPA has 13 passes for 5, which brings either to about what FST draws in all. Nothing is tuned.

A run is one method and one seed, and lies in runs/fast_slow/<tier>. Of its last checkpoint two questions are asked
more: what weights and prompt carry of the gain, and how well the weights learn a fourth task.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import torch
from joblib import Parallel, delayed
from rich.console import Console

from cl_framework.check_runs import same
from cl_framework.checkpoint import Vault
from cl_framework.config import resolve
from cl_framework.evaluate import evaluate
from cl_framework.fast_slow_metrics import channels
from cl_framework.files import write_json
from cl_framework.job import Job
from cl_framework.language import LanguageModel
from cl_framework.launch import execute_all, open_stream
from cl_framework.models import Model
from cl_framework.policy import ModelPolicy
from cl_framework.protocol import build_model, run_stream
from cl_framework.record import AccuracyMatrix
from cl_framework.registry import load
from cl_framework.runs import RunFolder
from cl_framework.scenario import Stream
from cl_framework.standing_weights import noted, standing_in
from cl_framework.strategy import Strategy

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "fast_slow"
RECORDS = ROOT / "runs" / "reference"
SEEDS = 3
TIERS: dict[str, dict[str, Any]] = {
    "tiny": {"experiment": "fst/tiny"},
    "smollm2": {"scenario": "verifiable", "scenario.kinds": ["transform:2", "topic", "transform:1"],
                "scenario.n_train": 24, "scenario.n_test": 12, "scenario.n_samples": 4,
                "model": "smollm2", "model.frame": "plain", "model.stop": "line", "model.adapter": "lora",
                "model.max_tokens": 208, "train.lr": 1e-4},
}
"""Of smollm2: contexts of 192 tokens and answers of one line and at most 16; 1e-4 as the low-rank updates alone are
trained."""
STEPS_PER_CYCLE = 3
OWN: dict[str, dict[str, Any]] = {"tiny": {"steps_per_cycle": STEPS_PER_CYCLE},
                                  "smollm2": {"steps_per_cycle": STEPS_PER_CYCLE, "n_probes": 4}}
"""Fields of every strategy that has them. The divergence of `smollm2` is measured on half of the problems that are
usual, as that takes as long as the steps."""
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "FST": ("fst", {}), "RL": ("rl", {}), "GEPA": ("gepa", {}), "RL, then GEPA": ("rl_then_gepa", {}),
    "RL, 2 epochs": ("rl", {"train.epochs": 2}), "GEPA, 13 passes": ("gepa", {"strategy.gepa.passes": 13.0}),
    "FST, K = 1": ("fst", {"strategy.fst.n_prompts": 1}),
    "FST, no frontier": ("fst", {"strategy.fst.selection": "best"}),
    "FST, random edits": ("fst", {"strategy.fst.reflector": "random"}),
}
"""What is compared, by its name in the tables: the strategy and what differs from its defaults."""
CONTROLS = ("FST, K = 1", "FST, no frontier", "FST, random edits")
"""Rows of `tiny` alone."""
PROBES: dict[str, dict[str, Any]] = {
    "tiny": {"strategy": "fst", "scenario.kinds": ["arithmetic:3"]},
    "smollm2": {"strategy": "fst", "scenario.kinds": ["arithmetic"], "scenario.difficulty": 0},
}
"""The fourth task and who learns it: not plain RL as in the paper, which finds no reward."""
STARTS = ("base", "RL", "FST")
"""Whose weights the fourth task begins with."""
COUNTERS = ("samples", "rollouts", "reflector_calls", "accepted", "rejected", "kl_seed", "kl_best", "kl_seed_held_out",
            "kl_best_held_out", "reused_rollouts", "reward", "zero_variance", "entropy", "prompt_diversity")


def rows_of(tier: str) -> list[str]:
    """The rows of a tier."""
    return [label for label in ROWS if tier == "tiny" or label not in CONTROLS]


def job_of(tier: str, label: str, seed: int) -> Job:
    """The run of a row."""
    strategy, fields = ROWS[label]
    return _job(tier, {"strategy": strategy, **fields}, seed)


def _job(tier: str, fields: dict[str, Any], seed: int) -> Job:
    name = fields["strategy"]
    known = {field.name for field in dataclass_fields(load("strategy", name))}
    own = {f"strategy.{name}.{key}": value for key, value in OWN[tier].items() if key in known}
    return resolve({**TIERS[tier], **own, "seed": seed, "track.wandb": "disabled", **fields})


@dataclass(kw_only=True, eq=False)
class Under(Strategy):
    """Answers held-out problems under one prompt, as the strategies that are compared do."""

    speaks: ClassVar[bool] = True

    prompt: str
    """It."""

    def respond(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """One reply to each."""
        assert isinstance(model, LanguageModel)
        policy, times = ModelPolicy(model, model.sampling), Counter(prompts)
        drawn = policy.sample([policy.context(self.prompt, prompt) for prompt in times], max(times.values()),
                              torch.default_generator, "")
        replies = {prompt: iter(own) for prompt, own in zip(times, drawn, strict=True)}
        return [next(replies[prompt]).text for prompt in prompts]


def rewards(model: Model, stream: Stream, prompt: str, seed: int) -> list[float]:
    """Mean reward on the held-out problems of each experience, drawn as at the end of a run."""
    n = len(stream)
    matrix = AccuracyMatrix(n, True)
    evaluate(Under(prompt=prompt), model, [(index, stream.test(index)) for index in range(n)], matrix, n, seed=seed)
    last: list[float] = matrix.compute().accuracy[-1].tolist()
    return last


def trained(job: Job, folder: RunFolder) -> dict[str, Any]:
    """The weights that a finished run ended with."""
    state = Vault(folder.checkpoints, job.hash).load()
    assert state is not None, f"{folder.path} has no checkpoint; remove it and run again"
    weights: dict[str, Any] = state["model"]
    return weights


def decompose(tier: str, label: str, seed: int) -> None:
    """The table {base, trained weights} x {seed, evolved prompt} of a finished run; nothing to do where it is there."""
    path = OUT / tier / "channels" / _file(label) / f"{seed}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    job = job_of(tier, label, seed)
    stream, folder = open_stream(job), RunFolder.of(job, OUT / tier)
    model = build_model(job.architecture, stream.info, seed)
    base = noted(model)
    model.load_state_dict(trained(job, folder))
    is_moved = not same(base, noted(model))
    first = last = job.tree["model"]["seed_prompt"]
    if (folder.path / "prompts.json").exists():
        kept = json.loads((folder.path / "prompts.json").read_text())
        last = next(prompt["text"] for prompt in kept["lineage"] if prompt["name"] == kept["best"])

    @cache
    def found(is_trained: bool, prompt: str) -> list[float]:
        with standing_in(model, {} if is_trained else base):
            return rewards(model, stream, prompt, seed)

    table = channels(lambda is_trained, is_evolved: mean(found(is_trained and is_moved, last if is_evolved else first)))
    write_json(path, {**asdict(table), "slow": table.slow, "fast": table.fast, "together": table.together,
                      "base_rewards": found(False, first)})


def probe(tier: str, start: str, seed: int) -> None:
    """Learn the fourth task from the weights of a finished run; nothing to do where that is done."""
    folder = OUT / tier / "probes" / start / str(seed)
    if (folder / "curve.json").exists():
        return
    torch.set_num_threads(1)
    job = _job(tier, PROBES[tier], seed)
    stream = open_stream(job)
    model = build_model(job.architecture, stream.info, seed)
    if start != "base":
        learned = job_of(tier, start, seed)
        model.load_state_dict(trained(learned, RunFolder.of(learned, OUT / tier)))
    record = run_stream(job.strategy, stream, model, recipe=job.recipe, seed=seed, vault=Vault(folder, job.hash))
    figures = record.strategy_metrics
    write_json(folder / "curve.json", {"curve": [[0, float(record.initial.mean())], *(
        [own["samples"], float(row.mean())] for own, row in zip(figures, record.accuracy, strict=True))]})


def kept(tier: str) -> dict[str, Any]:
    """The record of these settings that is there already, perhaps of another machine; empty where there is none."""
    path = RECORDS / f"fast_slow_{tier}.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record if record.get("settings") == settings(tier) else {}


def settings(tier: str) -> dict[str, Any]:
    """What all rows have in common."""
    return {name: job_of(tier, "FST", 0).tree[name] for name in ("scenario", "model", "train")}


def known(tier: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs of the record, by row and seed."""
    return {(row["row"], run["seed"]): run for row in kept(tier).get("rows", []) for run in row["runs"]}


def probed(tier: str) -> dict[str, dict[str, Any]]:
    """The curves of the fourth task that the record holds, by start and seed."""
    curves: dict[str, dict[str, Any]] = kept(tier).get("probe", {}).get("curves", {})
    return curves


def run(tier: str, seeds: Sequence[int], labels: Sequence[str]) -> None:
    """Seed after seed, two runs at a time; the record is written after each. What it holds already is not run again."""
    for seed in seeds:
        done = {label for label, own in known(tier) if own == seed}
        starts = [start for start in STARTS if str(seed) not in probed(tier).get(start, {})]
        waiting = [label for label in labels if label not in done or label in starts]
        if not waiting and not starts:
            continue
        jobs = [job_of(tier, label, seed) for label in waiting]
        _, failures = execute_all(jobs, OUT / tier, f"python benchmarks/fast_slow.py {tier}", Console(stderr=True), 2)
        if failures:
            raise SystemExit("\n".join(f"{failure.label}: {failure.error}" for failure in failures))
        Parallel(n_jobs=2)(delayed(decompose)(tier, label, seed) for label in waiting)
        Parallel(n_jobs=2)(delayed(probe)(tier, start, seed) for start in starts)
        report(tier)


def measured(tier: str, label: str, seed: int) -> dict[str, Any] | None:
    """What is known of one run; None where it is not finished."""
    folder = RunFolder.of(job_of(tier, label, seed), OUT / tier)
    summary = folder.summary()
    table = OUT / tier / "channels" / _file(label) / f"{seed}.json"
    if summary is None or not table.exists():
        return None
    lines = [json.loads(line)["strategy"] for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    rows = summary["accuracy_matrix"]
    return {"seed": seed, "accuracy_matrix": rows, "seconds": summary["seconds"], "git_commit": summary["git_commit"],
            "channels": json.loads(table.read_text()),
            "costs": [{name: own[name] for name in COUNTERS if name in own} for own in lines]}


def report(tier: str) -> None:
    """Write the record of what there is."""
    rows, before = [], known(tier)
    for label in rows_of(tier):
        runs = [found for seed in range(SEEDS)
                if (found := measured(tier, label, seed) or before.get((label, seed))) is not None]
        if runs:
            rows.append({"row": label, "strategy": ROWS[label][0], "fields": ROWS[label][1], "runs": runs})
    if not rows:
        return
    earlier = probed(tier)
    probes = {start: earlier.get(start, {}) | {
        path.parent.name: json.loads(path.read_text())["curve"]
        for path in sorted((OUT / tier / "probes" / start).glob("*/curve.json"))} for start in STARTS}
    job = job_of(tier, "FST", 0)
    write_json(RECORDS / f"fast_slow_{tier}.json", {
        "command": f"python benchmarks/fast_slow.py {tier}", "python": platform.python_version(),
        "torch": torch.__version__, "steps_per_cycle": STEPS_PER_CYCLE,
        "git_commits": sorted({run["git_commit"] or "none" for row in rows for run in row["runs"]}),
        "settings": settings(tier),
        "kinds": [experience.class_names[0] for experience in open_stream(job)], "rows": rows,
        "probe": {**PROBES[tier], "curves": probes}})


def _file(label: str) -> str:
    return "_".join(label.replace(",", "").replace("=", "").split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fast and slow weights on a stream of three tasks.")
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("verb", choices=["run", "report"], nargs="?", default="run")
    parser.add_argument("--seeds", type=int, choices=range(1, SEEDS + 1), default=SEEDS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="some rows, FST and RL among them; all when left out")
    given = parser.parse_args()
    if given.verb == "run":
        run(given.tier, range(given.seeds), given.rows or rows_of(given.tier))
    else:
        report(given.tier)
