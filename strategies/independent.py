"""Independent models: one for each experience, and the task label says which of them answers.

At experience t a network of its own is learned from its rows alone,

    theta_t = argmin_theta  mean of the cross-entropy over D_t,      z(x, t) = z(x; theta_t).

Nothing is forgotten and nothing is transferred: the reference that says what sharing a network costs or gains, at
a memory that grows by one network an experience. It needs task labels. As "independent" in Lopez-Paz & Ranzato,
"Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv 1706.08840, section 4: there too a network may
start from the last one (`from_previous`), but each is narrower by the number of tasks, while here each has full size.

A task label that comes again replaces its network. Without a label, as an online stream asks, the network that is
being trained answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.func import functional_call

from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Inputs, Need, StreamInfo, n_bytes

from ._tasks import by_task
from ._weights import copied_tensors, grown, named_tensors, reset


@dataclass(kw_only=True, eq=False)
class Independent(Strategy):
    """Trains one network an experience and keeps them all."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TASK_LABELS})

    from_previous: bool = False
    """Begin with the weights of the experience before instead of the initial ones."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Keep the initial weights; there is no finished network yet."""
        self._initial: dict[str, Tensor] = {} if self.from_previous else copied_tensors(model)
        self._networks: dict[int, dict[str, Tensor]] = {}

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Put the initial weights back."""
        self._initial = reset(model, self._initial)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Keep the network."""
        assert experience.task is not None
        self._networks[experience.task] = copied_tensors(model)

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The logits of each row's own network; of the current one where there is none."""
        if task is None:
            return super().predict(model, x, task)

        def answer(rows: Inputs, label: int) -> Tensor:
            current = named_tensors(model)
            own = {name: grown(value, current[name]) for name, value in self._networks.get(label, {}).items()}
            logits: Tensor = functional_call(model, own, (rows,)).logits
            return logits

        return by_task(x, task, answer)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of all networks and of the initial weights."""
        return {"memory_bytes": sum(map(n_bytes, [self._initial, *self._networks.values()]))}

    def state_dict(self) -> dict[str, Any]:
        """All networks and the initial weights."""
        return {"initial": dict(self._initial), "networks": {k: dict(v) for k, v in self._networks.items()}}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        device = model.device
        self._initial = {name: value.to(device) for name, value in state["initial"].items()}
        self._networks = {label: {name: value.to(device) for name, value in network.items()}
                          for label, network in state["networks"].items()}
