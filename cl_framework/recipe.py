"""The training recipe: `train.*` on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
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
    scheduler: Literal["constant", "cosine", "step"] = "constant"
    """Learning rate over one experience: cosine to 0, or times `decay` at each milestone."""
    milestones: list[float] = field(default_factory=list)
    """Fractions of the experience's steps at which scheduler=step decays."""
    decay: float = bounded(0.1, low=0.0, high=1.0)
    """Factor at a milestone."""
    clip: float | None = bounded(None, low=1e-12)
    """Largest gradient norm; none when null."""
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
            return 0.5 * (1.0 + math.cos(math.pi * step / max(n_steps, 1)))
        if self.scheduler == "step":
            return float(self.decay ** sum(step >= fraction * n_steps for fraction in self.milestones))
        return 1.0
