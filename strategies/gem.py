"""Gradient episodic memory: never step against the gradient of any past experience.

Every experience leaves a memory of its own, an equal share of the rows. Each step computes the gradient g_k of each
past experience's whole memory at the current weights, and where the gradient g of the incoming batch would raise the
loss of any (g . g_k < 0) takes the nearest gradient that raises none. With the g_k as the rows of G, the dual of that
is a quadratic programme of one variable a past experience,

    min_v 1/2 v' (G G' + eps I) v + g' G' v  s.t.  v >= gamma,    g~ = g + G' v.

gamma > 0 pulls along every g_k, which favours backward transfer. Lopez-Paz & Ranzato, "Gradient Episodic Memory for
Continual Learning", NeurIPS 2017, arXiv 1706.08840, section 3; eps and the test before are of the authors' code, the
programme is solved as a non-negative least squares problem (v = gamma + u, u >= 0; Lawson & Hanson, 1974).

The paper keeps the last rows of a task. Here they are a uniform sample of it, as in the code of Hsu, Liu, Ramasamy and
Kira, "Re-evaluating Continual Learning Scenarios", 2018, arXiv 1810.12488; drawn as rows pass where every row is seen
once, else at the end of the experience. Weights that the batch's loss does not reach have no gradient and take no part.
The memories pass through the model as training rows do: augmented, and with their share in running statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.optimize import nnls
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.memory import Buffer
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import NOT_YET, Batch, Output, StreamInfo, move, n_bytes

from ._rehearsal import Rehearsal, recalled

EPS = 1e-3
"""Added to the diagonal of G G', so that the programme has one solution."""


def multipliers(gram: Tensor, along: Tensor, margin: float) -> Tensor:
    """argmin_v 1/2 v' (gram + EPS I) v + along' v with v >= margin.

    Args:
        gram: G G', float64 [K, K].
        along: G g, float64 [K].

    >>> multipliers(torch.eye(2, dtype=torch.float64), torch.tensor([-1.001, 3.0], dtype=torch.float64), 0.0).tolist()
    [1.0, 0.0]
    """
    matrix = gram + EPS * torch.eye(len(gram), dtype=gram.dtype)
    root = torch.linalg.cholesky(matrix)
    target = torch.linalg.solve_triangular(root, -(along + margin * matrix.sum(1)).unsqueeze(1), upper=False)
    above, _ = nnls(root.T.numpy(), target.squeeze(1).numpy(), maxiter=100 * len(gram))
    return margin + torch.from_numpy(above)


@torch.no_grad()
def project(gradient: list[Tensor], references: Sequence[Sequence[Tensor]], margin: float) -> None:
    """Change `gradient` in place where it points against any of `references`; leave it as it is where it does not.

    >>> g = [torch.tensor([1.0, -1.0])]
    >>> project(g, [[torch.tensor([0.0, 10.0])]], margin=0.0)
    >>> g[0].round(decimals=3).tolist()
    [1.0, -0.0]
    """
    lists = [torch.stack([part.flatten() for part in parts]).double()
             for parts in zip(gradient, *references, strict=True)]
    products = torch.stack([rows @ rows.T for rows in lists]).sum(0).cpu()
    along = products[0, 1:]
    if bool((along < 0).any()):
        for weight, reference in zip(multipliers(products[1:, 1:], along, margin).tolist(), references, strict=True):
            torch._foreach_add_(gradient, list(reference), alpha=weight)


@dataclass(kw_only=True, eq=False)
class GEM(Strategy):
    """Projects gradients that conflict with those of any past experience."""

    neutral: ClassVar[Mapping[str, object]] = {"memory_size": 0}

    memory_size: int = bounded(500, low=0)
    """Rows that are kept in all, 0 for none; each experience has the same share, rounded down."""
    memory_strength: float = tunable(0.5, 0.0, 0.5, 1.0, low=0.0)
    """Least weight gamma of each past gradient in a projected one."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """No memories yet.

        Raises:
            ConfigError: there are fewer rows than experiences, so that none would be kept.
        """
        if 0 < self.memory_size < info.n_experiences:
            raise ConfigError(f"GEM.memory_size={self.memory_size} leaves no row for each of "
                              f"{info.n_experiences} experiences; use at least {info.n_experiences}, or 0 for none")
        self._info = info
        self._past: list[Batch] = []
        self._begin()

    def _begin(self) -> None:
        """An empty memory for the next experience."""
        info = self._info
        buffer = Buffer(self.memory_size // info.n_experiences, "reservoir",
                        generator(info.seed, "gem", "buffer", len(self._past)))
        self._present = Rehearsal(buffer, "auto", info)

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Remember how many rows arrived; what a later part appends is not stored."""
        self._present.arrive(batch)
        return batch

    def after_backward(self, model: Model) -> None:
        """Project the gradient."""
        reached = [param for param in model.parameters() if param.grad is not None]
        if not self._past or not reached:
            return
        with torch.enable_grad():
            references = [torch.autograd.grad(self._loss_of(model, batch), reached, materialize_grads=True)
                          for batch in self._past]
        project([param.grad for param in reached if param.grad is not None], references, self.memory_strength)

    def _loss_of(self, model: Model, memory: Batch) -> Tensor:
        batch = memory._replace(x=model.preprocess(memory.raw))
        return self.loss(model, batch, model(batch.x))

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Offer the rows that arrived, where each is seen once."""
        self._present.after_step(batch)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """What was drawn from the experience is past from now on."""
        self._present.after_experience(model, experience)
        buffer = self._present.buffer
        if len(buffer) > 0:
            self._past.append(recalled(buffer.draw(len(buffer)), model.device))
        self._begin()

    def metrics(self) -> Mapping[str, float]:
        """Bytes of all memories."""
        rows = [n_bytes(batch.raw) + n_bytes(batch.y) + (0 if batch.task is None else n_bytes(batch.task))
                for batch in self._past]
        return {"memory_bytes": sum(rows) + self._present.buffer.n_bytes}

    def state_dict(self) -> dict[str, Any]:
        """The memories, and the one that is being filled."""
        past = [{"raw": batch.raw, "y": batch.y, "task": batch.task} for batch in self._past]
        return {"past": past, "present": self._present.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        device = model.device
        self._past = [Batch(move(memory["raw"], device), NOT_YET, memory["y"].to(device),
                            None if memory["task"] is None else memory["task"].to(device)) for memory in state["past"]]
        self._begin()
        self._present.load_state_dict(model, state["present"])
