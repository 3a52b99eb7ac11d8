"""Merging on a language model: experts of SmolLM2-135M on topics of BBC News, by perplexity and by multiple choice.

    python benchmarks/merging_language.py                  # about 90 minutes of one core; goes on where it was stopped
    python benchmarks/merging_language.py report           # write the record of what has been run
    python benchmarks/merging_language.py restore          # put the runs of the record back, to go on elsewhere
    python benchmarks/merging_language.py --smoke FOLDER   # every step of it, on a tiny model and a few short passages

An expert a topic is fine-tuned from the same weights, beside them (LoRA) or in all of them. Every method that begins
each expert at the anchor merges the same ones: they are trained once, kept in runs/merging/language/<adapter>/experts,
and put in the place of training afterwards. Fine-tuning in sequence and joint training train for themselves. Nothing
is tuned: all values are the defaults, but for those in a row's name. `wudi` takes relative steps, as in merging.py.

Held-out passages of all topics are read before the stream and after it, those of a topic also when it was merged. A
choice is among four second halves of passages of one topic, by the mean log-probability of its tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_framework.config import resolve
from cl_framework.evaluate import evaluate
from cl_framework.files import write_json
from cl_framework.job import Job
from cl_framework.launch import open_stream
from cl_framework.models import Model
from cl_framework.protocol import build_model, run_stream
from cl_framework.record import AccuracyMatrix, StreamRecord
from cl_framework.runs import git_commit
from cl_framework.scenario import Stream

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "merging" / "language"
RECORD = ROOT / "runs" / "reference" / "merging_language.json"
SETTINGS: dict[str, Any] = {
    "scenario": "text_domains", "scenario.topics": ["business", "entertainment", "sports"], "scenario.n_train": 96,
    "scenario.n_test": 16, "scenario.n_bytes": 160, "scenario.score": "choice", "model": "smollm2",
    "model.max_tokens": 64, "train.optimizer": "adamw", "train.batch_size": 8, "train.epochs": 2,
    "train.evaluate_every": 3}
RATES = {"lora": 1e-3, "none": 5e-5}
"""Learning rates: of an adapter, and of all weights."""
SMOKE = {"scenario.topics": ["business", "sports"], "scenario.n_train": 8, "scenario.n_test": 4,
         "scenario.n_bytes": 64, "model": "tiny_lm", "model.max_tokens": 200, "train.epochs": 1,
         "train.evaluate_every": 2}
ROWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "lora": {**{name: (name, {}) for name in ("naive", "weight_average", "task_arithmetic", "ties", "opcm", "gcwm")},
             "wudi, 100 steps": ("wudi", {"lr_mode": "relative", "lr": 1e-3, "n_steps": 100}), "joint": ("joint", {})},
    "none": {name: (name, {}) for name in ("naive", "weight_average", "opcm", "gcwm")},
}
"""What is compared, by adapter and by its name in the table: the strategy and its fields."""
ORDERS = (None,)
"""Of the topics: the natural one. All of these methods but fine-tuning in sequence and OPCM end alike in any."""


class Kept:
    """Experts that have been trained before, by the name of their topic; others are trained and kept.

    Args:
        job: whose strategy takes them.
        stream: what they are measured on.
        folder: where they lie.
    """

    def __init__(self, job: Job, stream: Stream, folder: Path) -> None:
        self._job, self._stream, self._folder, self._now = job, stream, folder, 0
        self._train, self._begin = job.strategy.fit, job.strategy.before_experience
        job.strategy.fit, job.strategy.before_experience = self.fit, self.begin  # type: ignore[method-assign]

    def begin(self, model: Model, experience: Any) -> None:
        """Note which expert it is."""
        self._now = experience.index
        self._begin(model, experience)

    def fit(self, model: Model, data: Any, train: Any) -> None:
        """Take the expert, or train, measure and keep it."""
        name = self._stream[self._now].class_names[0]
        path = self._folder / f"{name}.safetensors"
        if path.exists():
            put(model, load_file(path))
            return
        began = time.process_time()
        self._train(model, data, train)
        seconds = time.process_time() - began
        matrix = AccuracyMatrix(len(self._stream), is_language=True)
        evaluate(self._job.strategy, model, [(self._now, self._stream.test(self._now))], matrix, 0, seed=self._job.seed)
        choice, _, loss = matrix.row(0)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(path.with_suffix(".json"), {"topic": name, "loss": float(loss[self._now]),
                                               "choice": float(choice[self._now]), "seconds": round(seconds, 1)})
        save_file(learned(model), path)


def learned(model: Model) -> dict[str, Tensor]:
    """What is trained: all weights, or those of the adapter."""
    return {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def put(model: Model, weights: dict[str, Tensor]) -> None:
    """What `learned` returned, back into a model."""
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.copy_(weights[name])


def run(adapter: str, label: str, order: int | None, settings: dict[str, Any], out: Path) -> None:
    """A row in one order; nothing to do where it is there."""
    path = _place(out, adapter, label) / f"{order}.json"
    if path.exists():
        return
    strategy, fields = ROWS[adapter][label]
    own = {f"strategy.{strategy}.{name}": value for name, value in fields.items()}
    job = resolve({**settings, **own, "strategy": strategy, "model.adapter": adapter, "train.lr": RATES[adapter],
                   "order_seed": order})
    stream = open_stream(job)
    model = build_model(job.architecture, stream.info, job.seed)
    if job.strategy.makes_experts:
        Kept(job, stream, out / adapter / "experts")
    began = time.process_time()
    record = run_stream(job.strategy, stream, model, recipe=job.recipe, seed=job.seed)
    write_json(path, {"order": order, "topics": [each.class_names[0] for each in stream],
                      "seconds": round(time.process_time() - began, 1), **figures(record),
                      "git_commit": git_commit()})
    print(f"{adapter}: {label}, order {order}: perplexity {math.exp(float(record.loss[-1].mean())):.1f}, "
          f"{100 * float(record.accuracy[-1].mean()):.1f} % of choices", flush=True)


def figures(record: StreamRecord) -> dict[str, Any]:
    """Losses in nats and shares of right choices, by topic: before the stream, when it was merged, and at the end."""
    return {name: {"before": before.tolist(), "own": matrix.diagonal().tolist(), "last": matrix[-1].tolist()}
            for name, before, matrix in (("loss", record.initial_loss, record.loss),
                                         ("choice", record.initial, record.accuracy))}


def report(settings: dict[str, Any], out: Path, record: Path) -> None:
    """Write the record of what there is."""
    rows = list[dict[str, Any]]()
    for adapter, labels in ROWS.items():
        experts = [json.loads(path.read_text()) for path in sorted((out / adapter / "experts").glob("*.json"))]
        for label, (strategy, fields) in labels.items():
            runs = [json.loads(path.read_text()) for path in sorted(_place(out, adapter, label).glob("*.json"))]
            if runs:
                rows.append({"row": label, "adapter": adapter, "strategy": strategy, "fields": fields, "runs": runs,
                             "experts": experts})
    write_json(record, {"command": "python benchmarks/merging_language.py", "settings": settings, "rates": RATES,
                        "python": platform.python_version(), "torch": torch.__version__,
                        "git_commits": sorted({run["git_commit"] for row in rows for run in row["runs"]}),
                        "not_run_yet": [f"{label} ({adapter})" for adapter, labels in ROWS.items() for label in labels
                                        if not any((row["adapter"], row["row"]) == (adapter, label) for row in rows)],
                        "rows": rows})


def restore(out: Path, record: Path) -> None:
    """Put the runs of the record where `run` looks for them, but those of rows whose fields have changed."""
    for row in json.loads(record.read_text())["rows"]:
        if ROWS[row["adapter"]].get(row["row"]) == (row["strategy"], row["fields"]):
            for each in row["runs"]:
                write_json(_place(out, row["adapter"], row["row"]) / f"{each['order']}.json", each)


def _place(out: Path, adapter: str, label: str) -> Path:
    return out / adapter / label.replace(", ", "_").replace(" ", "_")


def main(verb: str, smoke: Path | None) -> None:
    """Run what is not there, and write the record."""
    torch.set_num_threads(1)
    settings = SETTINGS if smoke is None else SETTINGS | SMOKE
    out, record = (OUT, RECORD) if smoke is None else (smoke, smoke / RECORD.name)
    if verb == "restore":
        restore(out, record)
        return
    for adapter, labels in ROWS.items() if verb == "run" else ():
        for label in labels:
            for order in ORDERS:
                run(adapter, label, order, settings, out)
    report(settings, out, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Merging on a language model.")
    parser.add_argument("verb", choices=["run", "report", "restore"], nargs="?", default="run")
    parser.add_argument("--smoke", type=Path, metavar="FOLDER", help="a try with a tiny model; none of it is a result")
    given = parser.parse_args()
    main(given.verb, given.smoke)
