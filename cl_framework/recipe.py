"""The training recipe: `train.*` on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, check_ranges, tunable


@dataclass(kw_only=True)
class Recipe:
    """How one experience is trained."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Update rule, of torch.optim."""
    lr: float = tunable(1e-3, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, low=0.0)
    """Learning rate."""
    momentum: float = bounded(0.0, low=0.0, high=1.0)
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's momentum for sgd."""
    weight_decay: float = bounded(0.0, low=0.0)
    """L2 penalty of the optimizer (decoupled for adamw)."""
    epochs: int = bounded(1, low=1)
    """Passes over an experience; 1 where the stream is online."""
    batch_size: int = bounded(128, low=1, high=2**40)
    """Rows of one step."""
    scheduler: Literal["constant", "cosine", "restarts", "step"] = "constant"
    """Learning rate over one experience: cosine to `lr_end`; cosine to `lr_end` and back, over 1, 2, 4, 8 ... epochs
    (Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, per step); or times `decay` at each milestone."""
    lr_end: float = bounded(0.0, low=0.0)
    """Learning rate at the end of a cosine."""
    milestones: list[float] = field(default_factory=list)
    """Fractions of the experience's steps at which scheduler=step decays."""
    decay: float = bounded(0.1, low=0.0, high=1.0)
    """Factor at a milestone."""
    clip: float | None = bounded(None, low=1e-12)
    """Largest gradient norm; none when null."""
    reset_optimizer: bool = True
    """Begin every experience with a fresh optimizer; false carries its state (moments, momentum) on."""
    on_nonfinite: Literal["stop", "skip", "reset"] = "stop"
    """Where loss or weights are not finite: the run stops; or the step is left out, as if it had never been; or the
    experience's training begins anew at half the learning rate, up to 3 times."""
    evaluate_every: int = bounded(1, low=1)
    """All seen experiences are evaluated after every so many, and after the last; in between the newest alone."""
    checkpoint_every: float = bounded(120.0, low=0.0)
    """Seconds between checkpoints inside an experience; one is written after every experience in any case."""

    def __post_init__(self) -> None:
        check_ranges(self)
        faults = []
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0.0):
            faults.append("Recipe.nesterov needs optimizer=sgd and a momentum above 0; set train.momentum=0.9")
        if self.momentum and self.optimizer != "sgd":
            faults.append(f"Recipe.momentum is of sgd alone, not of {self.optimizer}; set train.optimizer=sgd")
        if self.scheduler == "step" and not self.milestones:
            faults.append("Recipe.milestones is empty, so scheduler=step would never decay; set e.g. "
                          "train.milestones=[0.5,0.75]")
        if self.lr_end > self.lr or (self.lr_end and self.scheduler not in ("cosine", "restarts")):
            faults.append(f"Recipe.lr_end={self.lr_end} is where a cosine ends: it goes with scheduler=cosine or "
                          f"restarts and lies below train.lr, which is {self.lr}")
        if any(not 0.0 < fraction < 1.0 for fraction in self.milestones):
            faults.append(f"Recipe.milestones are fractions between 0 and 1, got {self.milestones}")
        if faults:
            raise ConfigError(faults)

    def optimizer_for(self, params: Iterable[nn.Parameter]) -> Optimizer:
        """A fresh optimizer over `params`, in torch's fused form (one kernel for all parameters)."""
        trainable = [p for p in params if p.requires_grad]
        if self.optimizer == "sgd":
            return torch.optim.SGD(trainable, self.lr, self.momentum, weight_decay=self.weight_decay,
                                   nesterov=self.nesterov, fused=True)
        rule = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return rule(trainable, self.lr, weight_decay=self.weight_decay, fused=True)

    def lr_factor(self, step: int, n_steps: int) -> float:
        """What the learning rate is multiplied by at `step` of `n_steps` (both of one `train` call).

        >>> Recipe(scheduler="step", milestones=[0.5], decay=0.1).lr_factor(5, 10)
        0.1
        """
        if self.scheduler == "cosine":
            return self._cosine(step / max(n_steps, 1))
        if self.scheduler == "restarts":
            epoch = step * self.epochs / max(n_steps, 1)
            start, length = 0, 1
            while epoch >= start + length:
                start, length = start + length, 2 * length
            return self._cosine((epoch - start) / length)
        if self.scheduler == "step":
            return float(self.decay ** sum(step >= fraction * n_steps for fraction in self.milestones))
        return 1.0

    def _cosine(self, share: float) -> float:
        """From 1 to `lr_end` / `lr` along half a cosine."""
        end = self.lr_end / self.lr if self.lr else 0.0
        return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def carry_on(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give a fresh optimizer the state of an earlier one over the same parameters; its own learning rates stay.

    Raises:
        ConfigError: the parameters have other shapes now.
    """
    own = optimizer.state_dict()
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, kept in state["state"].items():
        param = params[index]
        if any(isinstance(value, Tensor) and value.dim() and value.shape != param.shape for value in kept.values()):
            raise ConfigError("train.reset_optimizer=false carries the optimizer's state to the next experience, but "
                              "the head has grown; set model.head=whole")
    optimizer.load_state_dict({"state": state["state"], "param_groups": own["param_groups"]})
