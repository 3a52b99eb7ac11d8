"""Samples per second on a GPU beside the best bare loop that PyTorch allows: resnet18 on rows of CIFAR's shape.

    python benchmarks/gpu_throughput.py           # writes runs/reference/gpu_throughput.json; needs CUDA

Both sides learn the same resident uint8 rows with the same batched crop and flip, in bf16, channels_last, compiled,
with the fused optimizer; ours through `run_stream`, as `clf train trainer.precision=bf16-mixed
trainer.channels_last=true trainer.compile=true` runs it. `plain` is ours with the precision alone. The graph of the
bare loop holds the loss, too, and it chooses its kernels freely; ours asks for deterministic ones, as every run on a
GPU does. How often the host waits for the device is counted by torch itself, chunk by chunk and at the end of an
experience; utilisation is the driver's figure, sampled while ours runs.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from throughput import LR, Watch, now
from timing import in_turns, ratio, write

from cl_framework.data import Dataset
from cl_framework.hardware import Hardware
from cl_framework.models import Model
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.resnets import ResNet18
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.train_calls import CHUNK
from cl_framework.types import StreamInfo

N_ROWS, BATCH_SIZE, REPEATS, TARGET = 50_176, 128, 5, 0.95
SHAPE = (3, 32, 32)
INFO = StreamInfo(n_experiences=1, n_classes=10, input_shape=SHAPE, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26),
                  augment="crop_flip")


class Sides:
    """Both sides, each with one network that is learned on from epoch to epoch.

    Args:
        device: cuda.
        n_rows: rows of an epoch; whole batches.
    """

    def __init__(self, device: str, n_rows: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.device, self.n_rows = device, n_rows
        self.raw = torch.randint(0, 256, (n_rows, *SHAPE), dtype=torch.uint8, generator=draw).to(device)
        self.y = torch.randint(0, 10, (n_rows,), generator=draw).to(device)
        self._ours, self._bare, self._plain = (self._model() for _ in range(3))
        self._bare.body.to(memory_format=torch.channels_last)
        self._loss = torch.compile(lambda x, y: F.cross_entropy(self._bare(x).logits, y))

    def _model(self) -> Model:
        model = build_model(ResNet18(), INFO, 0).to(self.device)
        model.observe(range(10))
        return model

    def ours(self) -> float:
        """Seconds of an epoch through `run_stream`."""
        return self._learned(self._ours, is_formed=True)

    def plain(self) -> float:
        """The same as it is written."""
        return self._learned(self._plain, is_formed=False)

    def _learned(self, model: Model, *, is_formed: bool) -> float:
        test = Dataset(self.raw[:10], torch.arange(10, device=self.device))
        part = Part(train=Dataset(self.raw, self.y), test=test, classes=tuple(range(10)),
                    class_names=tuple("0123456789"))
        watch = Watch(self.device)
        hardware = Hardware(accelerator="gpu" if self.device == "cuda" else "cpu", precision="bf16-mixed",
                            channels_last=is_formed, compile=is_formed)
        run_stream(Strategy(), ResidentStream(INFO, [part]), model, hardware=hardware, observer=watch,
                   recipe=Recipe(optimizer="sgd", lr=LR, momentum=0.9, batch_size=BATCH_SIZE))
        return watch.seconds[0]

    def bare(self) -> float:
        """Seconds of an epoch of a bare loop."""
        model = self._bare.train()
        optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, fused=True)
        start = now(self.device)
        for rows in torch.randperm(self.n_rows, device=self.device).split(BATCH_SIZE):
            optimizer.zero_grad()
            x = model.preprocess(self.raw[rows]).to(memory_format=torch.channels_last)
            with torch.autocast(self.device, torch.bfloat16):
                loss = self._loss(x, self.y[rows])
            loss.backward()
            optimizer.step()
        return now(self.device) - start


def waits(work: Callable[[], float]) -> int:
    """How often the host waits for the device, as torch counts it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in told)


@contextmanager
def watched(found: list[int]) -> Iterator[None]:
    """Note the utilisation of the device ten times a second, in percent; nothing where the driver cannot be asked."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            try:
                found.append(torch.cuda.utilization())
            except (ModuleNotFoundError, RuntimeError):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def measured(sides: Sides) -> dict[str, Any]:
    """Rates and ratios."""
    seconds = in_turns({"ours": sides.ours, "plain": sides.plain, "bare": sides.bare}, REPEATS)
    return {"rows": sides.n_rows, "batch_size": BATCH_SIZE, "repeats": REPEATS,
            **{f"{name}_samples_per_second": round(sides.n_rows / min(taken)) for name, taken in seconds.items()},
            "rate_ours_over_bare": ratio(seconds, "bare", "ours"),
            "rate_plain_over_bare": ratio(seconds, "bare", "plain")}


def main() -> None:
    """Measure, print, write."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_throughput.py measures a CUDA device, and torch finds none here.")
    torch.backends.cudnn.benchmark = True
    sides, use = Sides("cuda", N_ROWS), list[int]()
    found = measured(sides)
    with watched(use):
        sides.ours()
    steps = N_ROWS // BATCH_SIZE
    write("gpu_throughput", {"name": torch.cuda.get_device_name(), "target": TARGET, **found,
                             "waits": {"of_an_epoch": waits(sides.ours), "steps": steps, "chunks": -(-steps // CHUNK)},
                             "utilisation_percent": round(mean(use), 1) if use else None})


if __name__ == "__main__":
    main()
