"""Replay beside a bare loop with a tensor as buffer and beside Avalanche's, batches of 10 rows that are seen once.

Two questions: what a step of `er` and `derpp` costs beside the same arithmetic written out, and what it costs
Avalanche. Whether it stays the same while the stream grows is measured by `scaling.py`. An online stream also answers
each batch before it is learned, which is what `answered` adds to the bare loop; `bare` does without. Avalanche answers
nothing. Its online stream has experiences of a batch each, and its buffer is a reservoir; `halves` is its replay plugin
as it is by default on a stream of two experiences, which fills the buffer between them and replays in the second alone.

    python benchmarks/rehearsal_speed.py
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from throughput import Bare, Case, Watch, quiet, write_files
from timing import clocked, in_turns, ratio, write
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.models import MLP, Model
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo

LR, BATCH_SIZE, CAPACITY, N_ROWS, REPEATS = 0.05, 10, 500, 6_000, 7
ALPHA, BETA = 0.3, 0.5
BARE_TARGET, PEER_TARGET = 1.25, 8.0


class Reservoir:
    """Rows, labels and logits in three tensors (Vitter's algorithm R, a batch at a time)."""

    def __init__(self, shape: tuple[int, ...], capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.raw = torch.empty(capacity, *shape, dtype=torch.uint8)
        self.y = torch.empty(capacity, dtype=torch.int64)
        self.logits = torch.empty(capacity, 10)
        self.n_seen = 0

    def draw(self) -> Tensor:
        """Places of a batch of rows without replacement."""
        return torch.randperm(min(self.n_seen, self.capacity))[:BATCH_SIZE]

    def add(self, raw: Tensor, y: Tensor, logits: Tensor) -> None:
        """Offer rows."""
        n = len(y)
        if self.n_seen + n <= self.capacity:
            slots, chosen = torch.arange(self.n_seen, self.n_seen + n), slice(None)
        else:
            slots = (torch.rand(n) * (self.n_seen + 1 + torch.arange(n))).long()
            chosen = slots < self.capacity
            slots = slots[chosen]
        self.raw[slots], self.y[slots], self.logits[slots] = raw[chosen], y[chosen], logits[chosen]
        self.n_seen += n


def bare(case: Case, name: str, is_answered: bool) -> None:
    """One pass with replay, written out."""
    model = case.model().train()
    optimizer = torch.optim.SGD(model.parameters(), LR, fused=True)
    memory, hits = Reservoir(tuple(case.raw.shape[1:])), torch.zeros((), dtype=torch.int64)
    for rows in torch.randperm(len(case.y)).split(BATCH_SIZE):
        raw, y = case.raw[rows], case.y[rows]
        if is_answered:
            with torch.no_grad():
                hits += (logits_of(model, raw).argmax(1) == y).sum()
        optimizer.zero_grad()
        loss, logits = (er_loss if name == "er" else derpp_loss)(model, memory, raw, y)
        loss.backward()
        optimizer.step()
        memory.add(raw, y, logits.detach())


def logits_of(model: Model, raw: Tensor) -> Tensor:
    """What a model says of stored rows."""
    logits: Tensor = model(model.preprocess(raw)).logits
    return logits


def er_loss(model: Model, memory: Reservoir, raw: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy over incoming and replayed rows together."""
    if memory.n_seen:
        places = memory.draw()
        raw, y = torch.cat([raw, memory.raw[places]]), torch.cat([y, memory.y[places]])
    logits = logits_of(model, raw)
    return F.cross_entropy(logits, y), logits[:BATCH_SIZE]


def derpp_loss(model: Model, memory: Reservoir, raw: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, distance to stored logits, and cross-entropy of a second draw."""
    logits = logits_of(model, raw)
    loss = F.cross_entropy(logits, y)
    if memory.n_seen:
        places = memory.draw()
        loss = loss + ALPHA * F.mse_loss(logits_of(model, memory.raw[places]), memory.logits[places])
        places = memory.draw()
        loss = loss + BETA * F.cross_entropy(logits_of(model, memory.raw[places]), memory.y[places])
    return loss, logits


def strategy_of(name: str) -> Strategy:
    """Ours, with the same memory."""
    return load("strategy", name)(memory_size=CAPACITY)


def ours(case: Case, name: str) -> float:
    """Processor time of training one online experience through `run_stream`, without what surrounds it."""
    part = Part(train=Dataset(case.raw, case.y), test=Dataset(case.raw[:10], torch.arange(10)),
                classes=tuple(range(10)), class_names=tuple("0123456789"))
    info = StreamInfo(n_experiences=1, n_classes=10, input_shape=tuple(case.raw.shape[1:]), mean=(0.5,), std=(0.25,),
                      is_online=True)
    model = build_model(case.architecture, info, 0)
    recipe = Recipe(optimizer="sgd", lr=LR, batch_size=BATCH_SIZE)
    watch = Watch("cpu")
    run_stream(strategy_of(name), ResidentStream(info, [part]), model, recipe=recipe, observer=watch)
    return watch.seconds[0]


def avalanche(case: Case, *, is_online: bool) -> float:
    """Processor time of Avalanche's Naive with its ReplayPlugin on its classic benchmark, whose rows are the same."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), case.raw, case.y)
        classic = vars(import_module("avalanche.benchmarks.classic"))
        stream = classic["SplitMNIST"](n_experiences=1 if is_online else 2, shuffle=False,
                                       dataset_root=folder).train_stream
        from avalanche.benchmarks.scenarios.online import split_online_stream
        from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
        from avalanche.training.storage_policy import ReservoirSamplingBuffer
        from avalanche.training.supervised import Naive

        learner = Bare(case.model(), is_raw=False)
        buffer = ReservoirSamplingBuffer(CAPACITY) if is_online else None
        peer = Naive(model=learner, optimizer=torch.optim.SGD(learner.parameters(), LR), train_epochs=1,
                     criterion=torch.nn.CrossEntropyLoss(), train_mb_size=BATCH_SIZE, device="cpu",
                     plugins=[ReplayPlugin(CAPACITY, BATCH_SIZE, BATCH_SIZE, storage_policy=buffer)],
                     evaluator=EvaluationPlugin(loggers=[]))
        experiences = split_online_stream(stream, BATCH_SIZE) if is_online else list(stream)
        return clocked(lambda: [peer.train(experience) for experience in experiences])


def beside(case: Case, name: str) -> dict[str, object]:
    """Ratios of one strategy."""
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: ours(case, name), "bare": lambda: clocked(lambda: bare(case, name, is_answered=False)),
        "answered": lambda: clocked(lambda: bare(case, name, is_answered=True))}
    if name == "er":
        ways |= {"avalanche_online": lambda: avalanche(case, is_online=True),
                 "avalanche_halves": lambda: avalanche(case, is_online=False)}
    seconds = in_turns(ways, REPEATS)
    found = {f"ours_over_{way}": ratio(seconds, "ours", way) for way in ("answered", "bare")}
    found |= {f"{peer}_over_{way}": ratio(seconds, peer, way) for peer in ways if peer.startswith("avalanche")
              for way in ("ours", "bare")}
    return {"strategy": name, "rows": len(case.y), "microseconds_a_step": round(
        1e6 * median(seconds["ours"]) * BATCH_SIZE / len(case.y)), **found}


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    case = Case("mlp 784-100-100-10", MLP(hidden=[100, 100]), (1, 28, 28), "none", BATCH_SIZE, N_ROWS, REPEATS, "cpu")
    write("rehearsal_speed", {"targets": {"ours_over_answered": BARE_TARGET, "avalanche_online_over_ours": PEER_TARGET},
                              "cases": [beside(case, name) for name in ("er", "derpp")]})


if __name__ == "__main__":
    main()
