"""Samples per second on a GPU beside the best bare loop that PyTorch allows: resnet18 on rows of CIFAR's shape.

    python benchmarks/gpu_throughput.py           # writes runs/reference/gpu_throughput.json; needs CUDA

Both sides learn the same resident uint8 rows with the same batched crop and flip, in bf16, channels_last, compiled,
with the fused optimizer; ours through `run_stream`, as `clf train trainer.precision=bf16-mixed
trainer.channels_last=true trainer.compile=true` runs it. `plain` is ours with the precision alone. An epoch is an
experience of one run, whose first compiles and is not counted; before each the bare loop learns an epoch, so that both
are taken in turns. The graph of the bare loop holds the loss, too, and it chooses its kernels freely; ours asks for
deterministic ones, as every run on a GPU does. How often the host waits for the device is counted by torch itself in an
epoch: once a chunk, and at the end of the experience. Utilisation is the driver's figure, sampled while ours learns.
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from throughput import LR, Watch, now
from timing import ratio, write

from cl_framework.data import Dataset
from cl_framework.hardware import Hardware
from cl_framework.models import Model
from cl_framework.observer import Moment
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.resnets import ResNet18
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.train_calls import CHUNK
from cl_framework.types import Setting, StreamInfo

N_ROWS, BATCH_SIZE, REPEATS, TARGET = 50_176, 128, 5, 0.95
SHAPE = (3, 32, 32)
INFO = StreamInfo(n_experiences=REPEATS + 1, n_classes=10, input_shape=SHAPE, mean=(0.49, 0.48, 0.45),
                  std=(0.25, 0.24, 0.26), augment="crop_flip", setting=Setting.DOMAIN)


class Turns(Watch):
    """Clocks the training of each experience; the other side learns before it.

    Args:
        other: learns an epoch, and says how long it took.
        around: what is watched while an experience is trained, of which the first is left out.
    """

    def __init__(self, device: str, other: Callable[[], float],
                 around: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__(device)
        self.others: list[float] = []
        self._other, self._around, self._open = other, around, ExitStack()

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        """Let the other side learn, then read the clock."""
        if moment == "start":
            self.others.append(self._other())
            if index:
                self._open.enter_context(self._around())
        super().reached(moment, index, model)
        if moment == "trained":
            self._open.close()


class Sides:
    """Both sides on the same rows.

    Args:
        device: cuda.
        n_rows: rows of an epoch; whole batches.
    """

    def __init__(self, device: str, n_rows: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.device, self.n_rows = device, n_rows
        self.raw = torch.randint(0, 256, (n_rows, *SHAPE), dtype=torch.uint8, generator=draw).to(device)
        self.y = torch.randint(0, 10, (n_rows,), generator=draw).to(device)
        self._bare = self._model()
        self._bare.observe(range(10))
        self._bare.body.to(memory_format=torch.channels_last)
        self._loss = torch.compile(lambda x, y: F.cross_entropy(self._bare(x).logits, y))

    def _model(self) -> Model:
        return build_model(ResNet18(), INFO, 0).to(self.device)

    def learned(self, *, is_formed: bool, other: Callable[[], float],
                around: Callable[[], AbstractContextManager[object]] = nullcontext) -> tuple[list[float], list[float]]:
        """Seconds of our epochs and of the other side's, without the first."""
        test = Dataset(self.raw[:10], torch.arange(10, device=self.device))
        part = Part(train=Dataset(self.raw, self.y), test=test, classes=tuple(range(10)),
                    class_names=tuple("0123456789"))
        turns = Turns(self.device, other, around)
        hardware = Hardware(accelerator="gpu" if self.device == "cuda" else "cpu", precision="bf16-mixed",
                            channels_last=is_formed, compile=is_formed)
        run_stream(Strategy(), ResidentStream(INFO, [part] * (REPEATS + 1)), self._model(), hardware=hardware,
                   observer=turns, recipe=Recipe(optimizer="sgd", lr=LR, momentum=0.9, batch_size=BATCH_SIZE))
        return turns.seconds[1:], turns.others[1:]

    def bare(self) -> float:
        """Seconds of an epoch of a bare loop, with whatever kernels are the fastest."""
        model = self._bare.train()
        optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, fused=True)
        with free_kernels():
            start = now(self.device)
            for rows in torch.randperm(self.n_rows, device=self.device).split(BATCH_SIZE):
                optimizer.zero_grad()
                x = model.preprocess(self.raw[rows]).to(memory_format=torch.channels_last)
                with torch.autocast(self.device, torch.bfloat16):
                    loss = self._loss(x, self.y[rows])
                loss.backward()
                optimizer.step()
            return now(self.device) - start


@contextmanager
def free_kernels() -> Iterator[None]:
    """Inside, kernels need not give the same bits each time, and the fastest are looked for."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=True)
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def counted(waits: list[int]) -> Iterator[None]:
    """Note how often the host waits for the device, as torch counts it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits.append(sum("synchroniz" in str(warning.message) for warning in told))


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
    found: dict[str, Any] = {"rows": sides.n_rows, "batch_size": BATCH_SIZE, "repeats": REPEATS}
    for name, is_formed in (("ours", True), ("plain", False)):
        own, bare = sides.learned(is_formed=is_formed, other=sides.bare)
        found |= {f"{name}_samples_per_second": round(sides.n_rows / min(own)),
                  f"bare_samples_per_second_beside_{name}": round(sides.n_rows / min(bare)),
                  f"rate_{name}_over_bare": ratio({"own": own, "bare": bare}, "bare", "own")}
    return found


def main() -> None:
    """Measure, print, write."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_throughput.py measures a CUDA device, and torch finds none here.")
    sides, use, waits = Sides("cuda", N_ROWS), list[int](), list[int]()
    found = measured(sides)
    sides.learned(is_formed=True, other=lambda: 0.0, around=lambda: watched(use))
    sides.learned(is_formed=True, other=lambda: 0.0, around=lambda: counted(waits))
    steps = N_ROWS // BATCH_SIZE
    write("gpu_throughput", {"name": torch.cuda.get_device_name(), "target": TARGET, **found,
                             "waits": {"of_an_epoch": max(waits), "steps": steps, "chunks": -(-steps // CHUNK)},
                             "utilisation_percent": round(mean(use), 1) if use else None})


if __name__ == "__main__":
    main()
