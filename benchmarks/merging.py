"""Merging on real pretrained networks: five data sets of text on MiniLM, four of images on EfficientNet-lite0.

    make merging                                 # both streams; goes on where it was stopped
    python benchmarks/merging.py text report     # write the record of what has been run
    python benchmarks/merging.py text restore    # put the runs of the record back, to go on on another machine

The same experts are merged by every method that begins each of them at the anchor: they are trained once, in the
natural order of the stream, kept in runs/merging/<stream>/experts, and put in the place of training afterwards. So
methods differ in how they merge alone. All of an expert's weights are trained; GCWM, which merges matrices alone, would
freeze the rest while an expert is trained: `gcwm, experts of its own` has experts that were trained so. Fine-tuning in
sequence, MagMax (whose experts begin where the one before ended) and joint training train for themselves. Nothing is
tuned: all values are the defaults, but for those in a row's name and for OPCM's `project_conv` on images.
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
from joblib import Parallel, delayed
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_framework.config import resolve
from cl_framework.files import write_json
from cl_framework.job import Job
from cl_framework.launch import open_stream
from cl_framework.metric_plugins import compute_all, installed_metrics
from cl_framework.models import Model
from cl_framework.protocol import build_model, run_stream
from cl_framework.record import StreamRecord
from cl_framework.runs import git_commit
from cl_framework.strategy import Strategy

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "merging"
STREAMS: dict[str, dict[str, Any]] = {
    "text": {"scenario": "text_sequence", "model": "minilm", "model.max_tokens": 32, "scenario.n_train": 800,
             "scenario.n_test": 200, "train.optimizer": "adamw", "train.lr": 3e-4, "train.batch_size": 16,
             "train.epochs": 2},
    "vision": {"scenario": "vision_sequence", "model": "efficientnet_lite0", "scenario.n_train": 2000,
               "scenario.n_test": 500, "train.optimizer": "adamw", "train.lr": 5e-4, "train.batch_size": 32,
               "train.epochs": 2},
}
ORDERS = range(5)
"""Of the data sets. Joint training, which does not depend on it, is run in the first."""
RELATIVE = {"lr_mode": "relative", "lr": 1e-3}
"""A rate of 1e-5, as published for language models, moves these updates by nothing."""
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "naive": ("naive", {}),
    **{name: (name, {}) for name in ("weight_average", "task_arithmetic", "ties", "dare", "magmax")},
    "magmax, from the anchor": ("magmax", {"start": "anchor"}),
    "wudi": ("wudi", RELATIVE), "pcb": ("pcb", {}), "pcb, sequential": ("pcb", {"mode": "sequential"}),
    "opcm": ("opcm", {}), "opcm, paper": ("opcm", {"projection": "paper"}),
    **{f"opcm, alpha {alpha}": ("opcm", {"alpha": alpha}) for alpha in (0.1, 0.3, 0.7, 0.9)},
    "gcwm": ("gcwm", {}), "gcwm, current anchor": ("gcwm", {"memory": "current_anchor"}),
    "gcwm, no gate": ("gcwm", {"gate": "none"}), "gcwm, mean metric": ("gcwm", {"metric": "mean"}),
    "gcwm, plain WUDI": ("gcwm", {"alpha_min": 0.0, "alpha_max": 0.0}), "gcwm, experts of its own": ("gcwm", {}),
    "joint": ("joint", {}),
}
"""What is compared, by its name in the tables: the strategy and its fields."""
OWN = "gcwm, experts of its own"


def rows_of(stream: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """`ROWS`; where nearly all weights are kernels OPCM projects these, and once, as is its default, does not."""
    if stream == "text":
        return ROWS
    own = {name: (strategy, {**fields, "project_conv": True} if strategy == "opcm" else fields)
           for name, (strategy, fields) in ROWS.items()}
    return {**own, "opcm, kernels as they are": ("opcm", {})}


def job_of(stream: str, label: str, order: int | None) -> Job:
    """The run of a row in one order."""
    strategy, fields = rows_of(stream)[label]
    own = {f"strategy.{strategy}.{name}": value for name, value in fields.items()}
    return resolve({**STREAMS[stream], **own, "strategy": strategy, "order_seed": order})


def keep_experts(strategy: Strategy, folder: Path) -> None:
    """Let a strategy take an expert that has been trained before, else train it and keep it."""
    begin, train_expert = strategy.before_experience, strategy.fit
    now: list[Any] = []

    def before_experience(model: Model, experience: Any) -> None:
        now[:] = [experience]
        begin(model, experience)

    def fit(model: Model, data: Any, train: Any) -> None:
        path = folder / f"{now[0].class_names[0].replace('/', '_')}.safetensors"
        names = now[0].class_names
        rows = [label for _, label in sorted(zip(names, now[0].classes, strict=True))]
        if path.exists():
            put(model, load_file(path), rows)
            return
        train_expert(model, data, train)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(taken(model, rows), path)

    strategy.before_experience, strategy.fit = before_experience, fit  # type: ignore[method-assign]


def taken(model: Model, rows: list[int]) -> dict[str, Tensor]:
    """The body and some rows of the head."""
    body = {f"body.{name}": value.contiguous() for name, value in model.body.state_dict().items()}
    return {**body, **{f"head.{name}": value[rows].detach().contiguous() for name, value in _head(model).items()}}


@torch.no_grad()
def put(model: Model, weights: dict[str, Tensor], rows: list[int]) -> None:
    """What `taken` returned, back into a model."""
    model.body.load_state_dict({name[5:]: value for name, value in weights.items() if name.startswith("body.")})
    for name, value in _head(model).items():
        value[rows] = weights[f"head.{name}"]


def _head(model: Model) -> dict[str, Tensor]:
    return {"weight": model.head.weight, "bias": model.head.bias}


def run(stream: str, label: str, order: int | None) -> None:
    """A row in one order; nothing to do where it is there."""
    path = _folder(stream, label) / f"{order}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    job = job_of(stream, label, order)
    data = open_stream(job)
    model = build_model(job.architecture, data.info, job.seed)
    if job.strategy.makes_experts and vars(job.strategy)["start"] == "anchor":
        keep_experts(job.strategy, OUT / stream / ("experts_of_its_own" if label == OWN else "experts"))
    began = time.process_time()
    record = run_stream(job.strategy, data, model, recipe=job.recipe, seed=job.seed)
    write_json(path, {"order": order, "experiences": [each.class_names[0].partition(":")[0] for each in data],
                      "seconds": round(time.process_time() - began, 1), **figures(record),
                      "git_commit": git_commit()})
    print(f"{stream}: {label}, order {order}: {100 * record.task_accuracy[-1].mean():.1f} %", flush=True)


def figures(record: StreamRecord) -> dict[str, Any]:
    """ACC and BWT with answers among the classes of the row's own data set, and all metrics."""
    matrix = record.task_accuracy
    last, own = matrix[-1], matrix.diagonal()
    return {"acc": float(last.mean()), "bwt": float((last - own)[:-1].mean()), "last": last.tolist(),
            "own": own.tolist(), "expert": [_known(value) for value in record.expert.tolist()],
            "metrics": {name: _known(value) for name, value in compute_all(record, installed_metrics()).items()},
            "notes": {name: _known(value) for name, value in record.strategy_metrics[-1].items()}}


def _known(value: float) -> float | None:
    """A number; None where nothing was measured."""
    return value if math.isfinite(value) else None


def report(stream: str) -> None:
    """Write the record of what there is."""
    rows = []
    for label, (strategy, fields) in rows_of(stream).items():
        folder = _folder(stream, label)
        runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem.isdigit()]
        if runs:
            rows.append({"row": label, "strategy": strategy, "fields": fields, "runs": runs})
    write_json(_record(stream), {
        "command": "make merging", "settings": STREAMS[stream], "python": platform.python_version(),
        "torch": torch.__version__, "git_commits": sorted({run["git_commit"] for row in rows for run in row["runs"]}),
        "rows": rows})


def restore(stream: str) -> None:
    """Put the runs of the record where `run` looks for them, but those of rows whose fields have changed."""
    for row in json.loads(_record(stream).read_text())["rows"]:
        if rows_of(stream).get(row["row"]) == (row["strategy"], row["fields"]):
            for each in row["runs"]:
                write_json(_folder(stream, row["row"]) / f"{each['order']}.json", each)


def _folder(stream: str, label: str) -> Path:
    return OUT / stream / label.replace(", ", "_").replace(" ", "_")


def _record(stream: str) -> Path:
    return ROOT / "runs" / "reference" / f"merging_{stream}.json"


def main(stream: str, verb: str, labels: list[str]) -> None:
    """Train the experts, then everything else, two at a time."""
    if verb == "restore":
        restore(stream)
        return
    if verb == "run":
        run(stream, "weight_average", None)
        run(stream, OWN, None)
        Parallel(n_jobs=2)(delayed(run)(stream, label, order) for order in ORDERS for label in labels
                           if order == 0 or label != "joint")
    report(stream)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Merging on real pretrained networks.")
    parser.add_argument("stream", choices=STREAMS)
    parser.add_argument("verb", choices=["run", "report", "restore"], nargs="?", default="run")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some of the table's rows alone")
    given = parser.parse_args()
    known = list(rows_of(given.stream))
    if unknown := sorted(set(given.rows or ()) - set(known)):
        parser.error(f"there are no rows {unknown}; there are {known}")
    main(given.stream, given.verb, given.rows or known)
