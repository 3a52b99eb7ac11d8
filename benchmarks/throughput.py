"""Samples per second beside a bare PyTorch loop on the same tensors and beside Avalanche's Naive, in one process.

    make bench                 # writes runs/reference/throughput.json

Ways are taken in turns, an epoch over the same rows each, with one torch thread; on the processor its own time counts,
which other work on the machine lengthens little. Rates are of the best repetition; `paired` has ratios of times, the
median over repetitions with the lowest and the highest. The bare loop steps with the fused optimizer that ours has.
Avalanche's Naive runs in three forms: as its documentation calls it, with the metrics and the logger that it has by
default, on its classic benchmark; the same without metrics and loggers; and without them on a data set that hands out
rows of the same tensors, which is faster than what it ships.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import hashlib
import io
import json
import pickle
import platform
import resource
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timing import in_turns, ratio

from cl_framework.data import Dataset
from cl_framework.files import write_json
from cl_framework.hardware import Hardware
from cl_framework.models import MLP, Architecture, Model
from cl_framework.observer import Moment, Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.resnets import SlimResNet18
from cl_framework.runs import git_commit
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.types import StreamInfo

RESULT = Path(__file__).resolve().parent.parent / "runs" / "reference" / "throughput.json"
LR = 0.05


def now(device: str) -> float:
    """Seconds of the processor; where a GPU computes, of the clock when it has come so far."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Watch(Observer):
    """The seconds between the start of each experience and the end of its training, without evaluation."""

    def __init__(self, device: str) -> None:
        self._device, self._start = device, 0.0
        self.seconds: list[float] = []

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        """Read the clock."""
        if moment == "start":
            self._start = now(self._device)
        elif moment == "trained":
            self.seconds.append(now(self._device) - self._start)


class Case:
    """One network, batch size and number of rows."""

    def __init__(self, name: str, architecture: Architecture, shape: tuple[int, ...], augment: str, batch_size: int,
                 n_rows: int, repeats: int, device: str, *, channels_last: bool = False) -> None:
        self.name, self.batch_size, self.n_rows, self.repeats, self.device = name, batch_size, n_rows, repeats, device
        self.architecture = architecture
        self.hardware = Hardware(accelerator="gpu" if device == "cuda" else "cpu", channels_last=channels_last)
        generator = torch.Generator().manual_seed(0)
        self.raw = torch.randint(0, 256, (n_rows, *shape), dtype=torch.uint8, generator=generator)
        self.y = torch.randint(0, 10, (n_rows,), generator=generator)
        self.info = StreamInfo(n_experiences=1, n_classes=10, input_shape=shape, mean=(0.5,), std=(0.25,),
                               augment=augment)

    def model(self) -> Model:
        """A fresh network that answers for all ten classes."""
        model = build_model(self.architecture, self.info, 0)
        model.observe(range(10))
        model.channels_last = self.hardware.channels_last
        return model.to(self.device)

    def ours(self) -> float:
        """Seconds of one epoch through `run_stream`, without evaluation."""
        train, test = Dataset(self.raw, self.y), Dataset(self.raw[:10], torch.arange(10))
        part = Part(train=train, test=test, classes=tuple(range(10)), class_names=tuple("0123456789"))
        model, watch = build_model(self.architecture, self.info, 0), Watch(self.device)
        recipe = Recipe(optimizer="sgd", lr=LR, batch_size=self.batch_size)
        run_stream(Strategy(), ResidentStream(self.info, [part]), model, recipe=recipe, hardware=self.hardware,
                   observer=watch)
        return watch.seconds[0]

    def bare(self) -> float:
        """Seconds of one epoch of a bare loop over the same tensors, with the same preprocessing."""
        model = self.model().train()
        raw, y = self.raw.to(self.device), self.y.to(self.device)
        optimizer = torch.optim.SGD(model.parameters(), LR, fused=True)
        start = now(self.device)
        for rows in torch.randperm(self.n_rows, device=self.device).split(self.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(model.preprocess(raw[rows])).logits, y[rows])
            loss.backward()
            optimizer.step()
        return now(self.device) - start

    def avalanche_default(self) -> float:
        """Seconds of one epoch of Avalanche's Naive with its default metrics and logger, on its classic benchmark."""
        return self.avalanche_classic(is_measured=True)

    def avalanche_classic(self, is_measured: bool = False) -> float:
        """Seconds of one epoch of Avalanche's Naive on its classic benchmark: SplitMNIST, or SplitCIFAR10, with its
        default transforms, opened on files that hold the same rows; it measures accuracy and loss and logs them, or
        not."""
        with quiet(), tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), self.raw, self.y)
            classic = vars(import_module("avalanche.benchmarks.classic"))
            name = "SplitMNIST" if self.raw.shape[1] == 1 else "SplitCIFAR10"
            stream = classic[name](n_experiences=1, shuffle=False, dataset_root=folder).train_stream
            return self._naive(stream, self.model(), is_raw=False, is_measured=is_measured)

    def avalanche_tensors(self) -> float:
        """Seconds of one epoch of Avalanche's Naive on a data set that hands out rows of the same tensors; they are
        normalised and augmented a batch at a time by our own code inside the model: faster than Avalanche offers."""
        with quiet():
            from avalanche.benchmarks import benchmark_from_datasets
            from avalanche.benchmarks.utils import as_classification_dataset

            data = as_classification_dataset(Rows(self.raw, self.y))
            return self._naive(benchmark_from_datasets(train=[data]).train_stream, self.model(), is_raw=True)

    def _naive(self, stream: Iterable[Any], model: Model, *, is_raw: bool, is_measured: bool = False) -> float:
        from avalanche.training.plugins import EvaluationPlugin
        from avalanche.training.supervised import Naive

        learner = Bare(model, is_raw)
        strategy = Naive(model=learner, optimizer=torch.optim.SGD(learner.parameters(), LR), train_epochs=1,
                         criterion=torch.nn.CrossEntropyLoss(), train_mb_size=self.batch_size, device=self.device,
                         **({} if is_measured else {"evaluator": EvaluationPlugin(loggers=[])}))
        start = now(self.device)
        for experience in stream:
            strategy.train(experience)
        return now(self.device) - start

    def measure(self) -> dict[str, Any]:
        """Rates of the best repetition, and ratios over pairs."""
        peers = ("avalanche_default", "avalanche_classic", "avalanche_tensors")
        seconds = in_turns({name: getattr(self, name) for name in ("ours", "bare", *peers)}, self.repeats)
        best = {name: min(found) for name, found in seconds.items()}
        pairs = [("ours", "bare"), *((peer, way) for peer in peers for way in ("ours", "bare"))]
        paired = {f"{what}_over_{over}": ratio(seconds, what, over) for what, over in pairs}
        return {"case": self.name, "batch_size": self.batch_size, "rows": self.n_rows, "repeats": self.repeats,
                **{f"{name}_samples_per_second": round(self.n_rows / taken) for name, taken in best.items()},
                "ours_over_bare": round(best["ours"] / best["bare"], 3),
                "median_ours_over_bare": paired["ours_over_bare"]["median"],
                **{f"{peer}_over_ours": round(best[peer] / best["ours"], 2) for peer in peers}, "paired": paired}


class Bare(torch.nn.Module):
    """Logits alone, as Avalanche wants them."""

    def __init__(self, model: Model, is_raw: bool) -> None:
        super().__init__()
        self.model, self.is_raw = model, is_raw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, 10]."""
        logits: torch.Tensor = self.model(self.model.preprocess(x) if self.is_raw else x).logits
        return logits


class Rows(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The same tensors, with the targets that Avalanche asks for."""

    def __init__(self, raw: torch.Tensor, y: torch.Tensor) -> None:
        self.raw, self.targets = raw, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.raw[index], self.targets[index]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and prints of other packages."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def write_files(root: Path, raw: torch.Tensor, y: torch.Tensor) -> None:
    """Rows in the on-disk form that torchvision's MNIST or CIFAR10 opens."""
    if raw.shape[1] == 1:
        folder = root / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for split in ("train", "t10k"):
            head = np.array([0x803, *raw.shape[:1], *raw.shape[2:]], ">i4").tobytes()
            (folder / f"{split}-images-idx3-ubyte").write_bytes(head + raw.numpy().tobytes())
            labels = np.array([0x801, len(y)], ">i4").tobytes() + y.numpy().astype(np.uint8).tobytes()
            (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)
        return
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batch = pickle.dumps({"data": raw[: len(raw) // 5].flatten(1).numpy(), "labels": y[: len(y) // 5].tolist()})
    meta = pickle.dumps({"label_names": [str(label) for label in range(10)]})
    cifar = import_module("torchvision.datasets").CIFAR10
    for table in (cifar.train_list, cifar.test_list):
        for row in table:
            (folder / row[0]).write_bytes(batch)
            row[1] = hashlib.md5(batch).hexdigest()
    (folder / "batches.meta").write_bytes(meta)
    cifar.meta["md5"] = hashlib.md5(meta).hexdigest()


def memory() -> dict[str, float]:
    """Growth of the process while a data set of 100 MB is opened from the cache and learned, over its bytes."""
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return float(pages * resource.getpagesize())

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        save_file({"x": torch.randint(0, 256, (130_000, 1, 28, 28), dtype=torch.uint8)}, path)
        before = resident()
        raw = load_file(path)["x"]
        parts = [Part(train=Dataset(raw, torch.zeros(26_000, dtype=torch.int64) + i, torch.arange(26_000) + 26_000 * i),
                      test=Dataset(raw[:1], torch.tensor([i])), classes=(i,), class_names=(str(i),)) for i in range(5)]
        info = StreamInfo(n_experiences=5, n_classes=5, input_shape=(1, 28, 28), mean=(0.5,), std=(0.25,))
        stream = ResidentStream(info, parts)
        run_stream(Strategy(), stream, build_model(MLP(hidden=[16]), info, 0), recipe=Recipe(batch_size=1024))
        return {"data_bytes": raw.numel(), "growth_over_data_bytes": round((resident() - before) / raw.numel(), 3)}


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mlp, slim = MLP(hidden=[100, 100]), SlimResNet18()
    n_slim = 20_000 if device == "cuda" else 640
    cases = [Case("mlp 784-100-100-10", mlp, (1, 28, 28), "none", 10, 12_000, 7, device),
             Case("mlp 784-100-100-10", mlp, (1, 28, 28), "none", 128, 60_000, 7, device),
             *(Case(f"slim_resnet18, crop and flip{words}", slim, (3, 32, 32), "crop_flip", 32, n_slim, 5, device,
                    channels_last=channels_last)
               for words, channels_last in (("", False), (", channels_last", True)))]
    memory()
    rows = [case.measure() for case in cases]
    result = {"command": "make bench", "git_commit": git_commit(), "torch": torch.__version__, "device": device,
              "python": platform.python_version(), "cases": rows, "memory": memory()}
    print(json.dumps(result, indent=2))
    write_json(RESULT.with_name("throughput-gpu.json") if device == "cuda" else RESULT, result)


if __name__ == "__main__":
    main()
