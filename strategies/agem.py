"""Averaged gradient episodic memory: never step against the mean gradient of the past.

A buffer holds rows of the past. Each step draws some, computes their mean gradient g_ref at the current weights, and
where the gradient g of the incoming batch would raise their loss (g . g_ref < 0) takes its projection onto the half
space where it does not,

    g~ = g - (g . g_ref) / (g_ref . g_ref) g_ref.

Chaudhry, Ranzato, Rohrbach, Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019, arXiv 1812.00420,
equation 11. The paper fills its memory while a task is learned and draws from finished tasks alone; that is
`fill=experience`. With `fill=step` (online) the buffer is a running sample of all rows so far, also of this
experience. Weights that the batch's loss does not reach have no gradient and take no part in either product. The
reference rows pass through the model as training rows do: augmented, and with their share in running statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.functional import dot
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, StreamInfo

from ._rehearsal import Rehearsal, recalled


@torch.no_grad()
def project(gradients: list[Tensor], reference: tuple[Tensor, ...] | list[Tensor]) -> None:
    """Take what points against `reference` out of `gradients`, in place; nothing happens where nothing does.

    >>> g = [torch.tensor([1.0, -1.0])]
    >>> project(g, [torch.tensor([0.0, 2.0])])
    >>> g
    [tensor([1., 0.])]
    """
    along = dot(gradients, reference)
    length = dot(reference, reference).clamp(min=torch.finfo(along.dtype).tiny)
    against = (along / length).clamp(max=0.0)
    torch._foreach_sub_(gradients, torch._foreach_mul(reference, against))


@dataclass(kw_only=True, eq=False)
class AGEM(Strategy):
    """Projects gradients that conflict with the past's."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all; 0 for none."""
    reference_batch_size: int = tunable(256, 64, 128, 256, 512, low=1)
    """Rows whose mean gradient is the reference of a step."""
    policy: Literal["reservoir", "class_balanced"] = "class_balanced"
    """Which rows are kept: a uniform sample of all, or equal shares of the classes."""
    fill: Literal["auto", "step", "experience"] = "auto"
    """When rows enter: after the step that learned them, or at the end of their experience; auto is step online."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """An empty buffer with its own generator."""
        buffer = Buffer(self.memory_size, self.policy, generator(info.seed, "agem", "buffer"))
        self._memory = Rehearsal(buffer, self.fill, info)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Remember how many rows arrived; what a later part appends is not stored."""
        self._memory.arrive(batch)
        return batch

    def after_backward(self, model: Model) -> None:
        """Project the gradient."""
        reached = [param for param in model.parameters() if param.grad is not None]
        if len(self._memory.buffer) == 0 or not reached:
            return
        batch = recalled(self._memory.buffer.draw(self.reference_batch_size), model.device)
        batch = batch._replace(x=model.preprocess(batch.raw))
        with torch.enable_grad():
            loss = self.loss(model, batch, model(batch.x))
            reference = torch.autograd.grad(loss, reached, materialize_grads=True)
        project([param.grad for param in reached if param.grad is not None], reference)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Store the rows that arrived."""
        self._memory.after_step(batch)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Store the experience's rows, unless its steps did."""
        self._memory.after_experience(model, experience)

    def metrics(self) -> Mapping[str, float]:
        """Bytes of the buffer."""
        return self._memory.metrics()

    def state_dict(self) -> dict[str, Any]:
        """The buffer."""
        return self._memory.state_dict()

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._memory.load_state_dict(model, state)
