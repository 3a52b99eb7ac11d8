"""The weights of S networks of one shape as tensors [S, ...], of which the parameters of each network are slices.

    P = stack(theta_1, ..., theta_S),    theta_s = P[s]    (one memory),

so that layers and an optimizer work on P, while hooks see the parameters and the gradients of one network, as ever.
`joined` gives P as a function of all theta_s: what is derived from the outputs of one network (`torch.autograd.grad` in
a hook) reaches its own parameters. Only the backward pass of the loss is told apart: it leaves dL/dP whole, and no
gradient is cut up and put together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Unlike(Exception):
    """Networks that cannot be stacked; the text says why."""


class _Join(torch.autograd.Function):
    """Stacks as functions of the parameters that are their slices; nothing is copied."""

    @staticmethod
    def forward(ctx: Any, weights: Weights, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The stacks that are trained."""
        ctx.weights = weights
        ctx.set_materialize_grads(False)
        return tuple(stack.detach() for stack in weights.trained)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Any, ...]:
        """Kept whole for the loss, else cut up."""
        weights: Weights = ctx.weights
        if weights.is_collecting:
            weights.collected = slopes
            return (None,) * (1 + weights.n * len(slopes))
        parts = [[None] * weights.n if slope is None else slope.unbind(0) for slope in slopes]
        return None, *(part for one in parts for part in one)


class Weights:
    """Parameters and buffers of S networks.

    Args:
        models: of one architecture, on one device.

    Attributes:
        n: S.
        stacks: P of each parameter.
        trained: those that learn.
        now: each parameter as layers use it, [S, ...]; `join` makes it anew.
        is_collecting: the backward pass is that of the loss.
        collected: dL/dP of each trained stack.

    Raises:
        Unlike: their parameters differ in name, shape or kind.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.n = len(models)
        tables = [dict(model.named_parameters()) for model in models]
        if any(_kinds(table) != _kinds(tables[0]) for table in tables):
            raise Unlike("their networks have other shapes")
        self._leaves = [[table[name] for table in tables] for name in tables[0]]
        self._places = {id(leaves[0]): place for place, leaves in enumerate(self._leaves)}
        self.stacks = [nn.Parameter(torch.stack([leaf.data for leaf in leaves]), leaves[0].requires_grad)
                       for leaves in self._leaves]
        self.trained = [stack for stack in self.stacks if stack.requires_grad]
        self._trained_leaves = [leaves for leaves in self._leaves if leaves[0].requires_grad]
        self._all_trained = [leaf for leaves in self._trained_leaves for leaf in leaves]
        self._buffers: list[tuple[list[nn.Module], str, Tensor]] = []
        self.now: list[Tensor] = list(self.stacks)
        self.is_collecting = False
        self.collected: Sequence[Tensor | None] = ()

    def place_of(self, parameter: Tensor) -> int:
        """Where `now` has a parameter of the first network."""
        return self._places[id(parameter)]

    def buffer(self, modules: list[nn.Module], name: str) -> Tensor:
        """The stack of a buffer, [S, ...]."""
        stack = torch.stack([module.get_buffer(name).data for module in modules])
        self._buffers.append((modules, name, stack))
        return stack

    def leaves(self) -> Iterator[tuple[nn.Parameter, list[nn.Parameter]]]:
        """Each trained stack with the parameters that are its slices."""
        return zip(self.trained, self._trained_leaves, strict=True)

    @torch.no_grad()
    def place(self) -> None:
        """Make every parameter a slice, also one that a hook has given another memory since."""
        for stack, leaves in zip(self.stacks, self._leaves, strict=True):
            _place(stack.data, leaves)

    @torch.no_grad()
    def place_buffers(self) -> None:
        """Make every buffer a slice."""
        for modules, name, kept in self._buffers:
            _place(kept, [module.get_buffer(name) for module in modules])

    def join(self, *, is_watched: bool) -> None:
        """Make `now` anew.

        Args:
            is_watched: a function of the parameters; else the stacks themselves, and parameters get no gradients.
        """
        if not is_watched:
            for stack in self.trained:
                stack.grad = None
            self.now = list(self.stacks)
            return
        joined: Iterator[Tensor] = iter(_Join.apply(self, *self._all_trained))  # type: ignore[no-untyped-call]
        self.now = [next(joined) if stack.requires_grad else stack.detach() for stack in self.stacks]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Around the backward pass of the loss."""
        self.collected = [None] * len(self.trained)
        self.is_collecting = True
        try:
            yield
        finally:
            self.is_collecting = False

    @torch.no_grad()
    def gather(self) -> bool:
        """After the backward pass: gradients of stacks and, as their slices, of parameters.

        What a hook's own passes gave a parameter is added.

        Returns:
            Whether each parameter has a gradient in all networks or in none.
        """
        is_whole = True
        for (stack, leaves), total in zip(self.leaves(), self.collected, strict=True):
            own = [leaf.grad for leaf in leaves]
            if total is None:
                is_whole &= self._restack(stack, leaves)
                continue
            stack.grad = total.contiguous()
            slices = stack.grad.unbind(0)
            pairs = [(part, grad) for part, grad in zip(slices, own, strict=True) if grad is not None]
            if pairs:
                torch._foreach_add_([part for part, _ in pairs], [grad for _, grad in pairs])
            for leaf, part in zip(leaves, slices, strict=True):
                leaf.grad = part
        return is_whole

    def spread(self) -> None:
        """Give every parameter its slice of a gradient that the stack has got."""
        for stack, leaves in self.leaves():
            for leaf, part in zip(leaves, [None] * self.n if stack.grad is None else stack.grad.unbind(0), strict=True):
                leaf.grad = part

    @torch.no_grad()
    def regather(self) -> bool:
        """The same after hooks have edited gradients, perhaps by new ones."""
        are_whole = [self._restack(stack, leaves) for stack, leaves in self.leaves()]
        return all(are_whole)

    def _restack(self, stack: nn.Parameter, leaves: Sequence[nn.Parameter]) -> bool:
        grads = [leaf.grad for leaf in leaves]
        given = [grad for grad in grads if grad is not None]
        if not given:
            stack.grad = None
        if len(given) < len(grads):
            return not given
        if stack.grad is None or not are_slices(stack.grad, given):
            stack.grad = torch.stack(given)
            for leaf, part in zip(leaves, stack.grad.unbind(0), strict=True):
                leaf.grad = part
        return True

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Scale the gradients of each network to a norm of at most `limit`, as `torch.nn.utils.clip_grad_norm_`."""
        grads = [stack.grad for stack in self.trained if stack.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads])
        factors = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(factors.view(-1, *[1] * (grad.dim() - 1)))


def _kinds(table: dict[str, nn.Parameter]) -> list[tuple[object, ...]]:
    return [(name, value.shape, value.dtype, value.device, value.requires_grad) for name, value in table.items()]


def _place(stack: Tensor, parts: Sequence[Tensor]) -> None:
    if are_slices(stack, parts):
        return
    for k, part in enumerate(parts):
        stack[k].copy_(part.data)
        part.data = stack[k]


def are_slices(stack: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether the parts lie one after the other in the memory of the stack."""
    start, step = stack.data_ptr(), stack.stride(0) * stack.element_size()
    return all(part.data_ptr() == start + k * step for k, part in enumerate(parts))
