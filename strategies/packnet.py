"""PackNet: give each task some of the network's weights, and never touch them again.

A task trains every weight that is still free, seeing those of earlier tasks but not moving them. Then, in each layer,
the fraction rho of its own weights with the smallest magnitude is set to zero and freed for later tasks, and the rest
is trained once more,

    M_t = {i trained by t : |theta_i| among the largest 1 - rho of those in its layer},
    z(x, t) = z(x; theta_i 1[i in M_1 u ... u M_t]).

A row is answered with the weights that its task has seen, so what a task has learned is kept to the bit. The task must
be known. Weights are the body's parameters of two or more dimensions. Biases, the parameters of normalisation layers
and their running statistics are trained by the first task alone, and normalisation layers use the running statistics
from then on. Each task has its own rows of the head, which are not pruned.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018,
arXiv 1711.05769, section 3.

Choices:

- Both trainings run the epochs of `train.*` (the paper gives each a number of its own). On an online stream, where
  every row passes once, there is no second training.
- The number of weights freed is rounded down, and exact; the release also frees those that equal the last one.
- Weights that may not move are put back after each step, so momentum and weight decay do not matter, and their
  gradients are dropped before clipping.
- Without a task label, as an online stream asks, the current task's weights answer.
- A task label that comes again adds weights to those that it sees, and trains its rows of the head on. Classes that
  two tasks share belong to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.fields import tunable
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Need, Output, StreamInfo, n_bytes

from ._tasks import by_task


@dataclass(kw_only=True, eq=False)
class PackNet(Strategy):
    """Packs task after task into the weights that pruning frees."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TASK_LABELS})

    prune: float = tunable(0.75, 0.5, 0.75, 0.9, low=0.0, high=0.999)
    """Fraction rho of a task's weights that is freed for later ones; with 0 they have nothing but their heads."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Every weight is free. Owners are experiences counted from 1; 0 is free."""
        self._owner = {name: torch.zeros_like(value, dtype=torch.int16)
                       for name, value in model.body.named_parameters("body") if value.dim() > 1}
        self._tasks: list[int] = []
        self._classes: list[list[int]] = []
        self._is_online = info.is_online
        self._movable: list[Tensor] = []
        self._fixed: list[Tensor] = []

    def before_experience(self, model: Model, experience: Experience) -> None:
        """The free weights are this experience's."""
        assert experience.task is not None
        self._tasks.append(experience.task)
        self._classes.append(list(experience.classes))
        self._owner = {name: owner.masked_fill(owner == 0, len(self._tasks)) for name, owner in self._owner.items()}
        self._hold(model)

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Train, free the smallest weights, train the rest."""
        with _statistics_held(model.body) if len(self._tasks) > 1 else nullcontext():
            train(data)
            self._free_smallest(model)
            self._hold(model)
            if not self._is_online:
                train(data)

    @torch.no_grad()
    def after_backward(self, model: Model) -> None:
        """Drop the gradients of what may not move."""
        pairs = [(param.grad, movable) for param, movable in zip(model.parameters(), self._movable, strict=True)
                 if param.grad is not None]
        torch._foreach_mul_([grad for grad, _ in pairs], [movable for _, movable in pairs])

    @torch.no_grad()
    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Put back what may not move: theta <- theta * movable + fixed."""
        params = [param.detach() for param in model.parameters()]
        torch._foreach_mul_(params, self._movable)
        torch._foreach_add_(params, self._fixed)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Nothing is held between experiences."""
        self._movable, self._fixed = [], []

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The logits of the weights that each row's task has seen."""
        if task is None:
            return super().predict(model, x, task)

        def answer(rows: Inputs, label: int) -> Tensor:
            logits: Tensor = functional_call(model, self._seen_by(model, label), (rows,)).logits
            return logits

        return by_task(x, task, answer)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the owners, and how many of the weights no task owns yet."""
        n_weights = sum(owner.numel() for owner in self._owner.values())
        n_free = sum(int((owner == 0).sum()) for owner in self._owner.values())
        held = sum(n_bytes(value) for value in [*self._movable, *self._fixed])
        return {"memory_bytes": n_bytes(self._owner) + held, "free_fraction": n_free / max(n_weights, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Who owns each weight, and the tasks and their classes."""
        return {"owner": dict(self._owner), "tasks": list(self._tasks),
                "classes": [list(classes) for classes in self._classes]}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned; what is held follows from it and the weights."""
        self._owner = {name: owner.to(model.device) for name, owner in state["owner"].items()}
        self._tasks, self._classes = list(state["tasks"]), [list(classes) for classes in state["classes"]]
        self._hold(model)

    @torch.no_grad()
    def _free_smallest(self, model: Model) -> None:
        weights = dict(model.named_parameters())
        for name, owner in self._owner.items():
            own = (owner == len(self._tasks)).flatten().nonzero().squeeze(1)
            magnitude = weights[name].flatten()[own].abs()
            freed = own[magnitude.argsort(stable=True)[:int(self.prune * len(own))]]
            self._owner[name] = owner.flatten().index_fill(0, freed, 0).view_as(owner)
            weights[name].mul_(self._owner[name] != 0)

    @torch.no_grad()
    def _hold(self, model: Model) -> None:
        """Note which entries may move, and the values of the others."""
        self._movable = [self._may_move(name, param).to(param) for name, param in model.named_parameters()]
        self._fixed = [param * (1 - movable) for param, movable in zip(model.parameters(), self._movable, strict=True)]

    def _may_move(self, name: str, param: Tensor) -> Tensor:
        """Which entries of a parameter the current experience trains, bool."""
        if name in self._owner:
            return self._owner[name] == len(self._tasks)
        may = torch.zeros_like(param, dtype=torch.bool)
        if name.startswith("head."):
            others = {label for task, classes in zip(self._tasks, self._classes, strict=True)
                      if task != self._tasks[-1] for label in classes}
            may[[label for label in self._classes[-1] if label not in others]] = True
        elif len(self._tasks) == 1:
            may.fill_(True)
        return may

    def _seen_by(self, model: Model, task: int) -> dict[str, Tensor]:
        """The body's weights with those of later experiences at zero; none where there are no later ones."""
        last = max((number for number, label in enumerate(self._tasks, 1) if label == task), default=len(self._tasks))
        if last == len(self._tasks):
            return {}
        weights = dict(model.named_parameters())
        return {name: weights[name] * ((owner > 0) & (owner <= last)) for name, owner in self._owner.items()}


@contextmanager
def _statistics_held(body: nn.Module) -> Iterator[None]:
    """Layers with statistics use them, and do not change them, also while the rest of the network trains."""
    layers = [module for module in body.modules() if any(True for _ in module.buffers(recurse=False))]
    hooks = [layer.register_forward_pre_hook(_to_evaluation) for layer in layers]
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.train(body.training)


def _to_evaluation(layer: nn.Module, _: Any) -> None:
    layer.eval()
