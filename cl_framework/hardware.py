"""Where training runs, and what Lightning does there that a run of ours must not: talk, and swallow signals."""

from __future__ import annotations

import cl_framework._torchmetrics  # noqa: F401  (before lightning, torchmetrics)

# isort: split
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cl_framework.errors import ConfigError, Stopped
from cl_framework.fields import bounded, check_ranges
from cl_framework.models import Model
from cl_framework.types import StreamInfo

NOT_OFFERED = {key: f"{key} is not offered: a run trains on one device, trainer.device, or in trainer.processes=N "
                    "processes on the CPU; many runs go side by side with launcher=local, or launcher=ray on several "
                    "machines"
               for key in ("trainer.devices", "trainer.num_nodes", "trainer.strategy")}
"""Keys that users of Lightning look for, and what is said of them."""


@dataclass(kw_only=True)
class Hardware:
    """Where training runs: `trainer.*` on the command line, handed to Lightning's Trainer."""

    accelerator: str = "auto"
    """auto, cpu, gpu or another accelerator that Lightning knows."""
    device: int = bounded(0, low=0)
    """Index of the accelerator to use."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Floating-point precision; scaled float16 is left out, since strategies edit unscaled gradients."""

    processes: int = bounded(1, low=1, high=64)
    """Processes on the CPU that share out the rows of each step; the numbers are those of one, to rounding."""
    threads: int = bounded(1, low=1, high=1024)
    """Threads of torch on the CPU; 1 gives the same bits on machines with any number of cores."""
    channels_last: bool = False
    """Lay images out pixel by pixel, all channels of one together: convolutions are faster on GPUs with tensor cores
    and on many CPUs; numbers agree to rounding."""
    compile: bool = False
    """Compile the network's body with torch.compile for the steps of training, once for the stream and each size of a
    batch, which may take a minute; numbers agree to rounding. Meant for GPUs: on the CPU it needs a C++ compiler and
    gains little."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def describe(self) -> str:
        """The device in words."""
        device = self.trainer().strategy.root_device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

    def check_form(self, model: Model, info: StreamInfo) -> None:
        """Refuse a form that the model does not take, or the stream.

        Raises:
            ConfigError: says why.
        """
        keys = [key for key in ("channels_last", "compile") if getattr(self, key)]
        if keys and type(model).forward is not Model.forward:
            raise ConfigError([f"trainer.{key}=true is not offered for this model, which computes its answers in a way "
                               f"of its own; set trainer.{key}=false" for key in keys])
        if self.compile and not info.is_labelled:
            raise ConfigError("trainer.compile=true is not offered for unlabelled streams: what adapts to them may "
                              "compute otherwise from batch to batch; set trainer.compile=false")

    def trainer(self) -> L.Trainer:
        """A fresh Trainer; Lightning's trains nothing on a second fit."""
        is_cpu = self.accelerator == "cpu" or (self.accelerator == "auto" and not torch.cuda.is_available())
        devices: int | list[int] = 1 if is_cpu else [self.device]
        try:
            with quiet_lightning():
                return self._trainer(devices)
        except Exception as error:
            raise ConfigError(f"trainer.accelerator={self.accelerator} cannot be used here: {error}") from error

    def _trainer(self, devices: int | list[int]) -> L.Trainer:
        return L.Trainer(accelerator=self.accelerator, devices=devices, precision=self.precision, max_epochs=1,
                         plugins=[LightningEnvironment()],  # Slurm's would take the signals, and requeue the job itself
                         logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False, num_sanity_val_steps=0)


@contextmanager
def interruptible() -> Iterator[None]:
    """Give Ctrl-C and SIGTERM back to the caller: Lightning turns them into an exit, of status 1 and 0."""
    try:
        yield
    except SIGTERMException:
        raise Stopped from None
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, choose kernels that give the same bits each time, and warn of an operation that has none."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's hints: the loader is resident on purpose, and each experience has its own Trainer."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
