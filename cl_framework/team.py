"""Several processes that learn one run: they share out the rows of each step, and all of them do everything else.

    o = [o_1; ...; o_P],   g = 1/P sum_p dL(o, theta) / d theta, where process p differentiates o_p alone, times P

Every process holds the whole run: weights, optimizer, buffers, generators, and does the same with them, so that no
strategy needs to know. Of the network's forward pass it does its part o_p of the rows, and is given those of the
others; the loss is of all rows, whatever it is, and the mean of the gradients is the gradient of one process: what
reaches theta through o_p is counted once, times P, and what reaches it directly, a penalty say, P times. Batch
normalisation takes its moments over all rows. Li et al., "PyTorch Distributed", VLDB 2020, section 3, for gradients
that are averaged; here the loss is not a mean over parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cl_framework.errors import ClfError, ConfigError
from cl_framework.models import Model
from cl_framework.types import Inputs, Output


class Alone(ClfError):
    """Another process of the run has ended."""


class Team:
    """What the processes do together; a process group has been made.

    Raises:
        Alone: in any of its methods: a process has ended.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def forward(self, model: Model, x: Inputs) -> Output:
        """The answer to all rows, of which this process computes its part.

        Raises:
            ConfigError: the network draws random numbers, which the parts would share out otherwise than one process.
        """
        n = len(next(iter(x.values())) if isinstance(x, Mapping) else x)
        if n < 2 * self.size:  # every process answers all: a part of one row has no moments
            everything: Output = model(x)
            return everything
        sizes = [len(part) for part in torch.arange(n).tensor_split(self.size)]
        begin = sum(sizes[: self.rank])
        own = slice(begin, begin + sizes[self.rank])
        part = {name: value[own] for name, value in x.items()} if isinstance(x, Mapping) else x[own]
        before = torch.get_rng_state()
        with _WholeBatch():
            output = model(part)
            if not torch.equal(before, torch.get_rng_state()):
                raise ConfigError("the network draws random numbers in its forward pass (dropout?), and processes that "
                                  "share out its rows would draw others than one; set trainer.processes=1")
            return Output(*(_gathered(value, sizes, self) for value in output))

    @torch.no_grad()
    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every parameter the mean of its gradients; one that has a gradient nowhere stays without."""
        learned = [each for each in parameters if each.requires_grad]
        if not learned:
            return
        flags = learned[0].new_tensor([float(each.grad is not None) for each in learned])
        whole = torch.cat([flags, *((torch.zeros_like(each) if each.grad is None else each.grad).flatten()
                                    for each in learned)])
        _finish(dist.all_reduce(whole, async_op=True))
        has, start = (whole[: len(learned)] > 0).tolist(), len(learned)
        for each, is_there in zip(learned, has, strict=True):
            if is_there:
                mean = (whole[start: start + each.numel()] / self.size).view_as(each).to(each.dtype)
                each.grad = mean if each.grad is None else each.grad.copy_(mean)
            start += each.numel()

    def is_any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        found = torch.tensor([flag], dtype=torch.int64)
        _finish(dist.all_reduce(found, async_op=True))
        return bool(found)

    def check(self, losses: Sequence[float]) -> None:
        """Refuse to go on where processes no longer do the same.

        Raises:
            ClfError: some loss is another one elsewhere.
        """
        own = torch.tensor(losses, dtype=torch.float64)
        first = own.clone()
        _finish(dist.broadcast(first, 0, async_op=True))
        if self.is_any(not torch.equal(own.nan_to_num(), first.nan_to_num())):
            raise ClfError("the processes of this run no longer compute the same losses: something in it depends on "
                           "more than its seed, a clock or an order of hashes say; set trainer.processes=1")


class _Gathered(torch.autograd.Function):
    """The parts of all processes, of which the own one lets gradients through, times P."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: list[int], team: Team) -> Tensor:
        ctx.begin, ctx.n, ctx.times = sum(sizes[: team.rank]), len(part), team.size
        sent = part.new_zeros(max(sizes), *part.shape[1:])
        sent[: len(part)] = part
        parts = [torch.empty_like(sent) for _ in sizes]
        _finish(dist.all_gather(parts, sent, async_op=True))
        return torch.cat([each[:n] for each, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.times * gradient[ctx.begin: ctx.begin + ctx.n], None, None


def _gathered(part: Tensor, sizes: list[int], team: Team) -> Tensor:
    whole: Tensor = _Gathered.apply(part, sizes, team)  # type: ignore[no-untyped-call]
    return whole


class _Summed(torch.autograd.Function):
    """The sum over all processes; each of them depends on each part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _sum(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(part: Tensor) -> Tensor:
    whole = part.clone(memory_format=torch.contiguous_format)
    _finish(dist.all_reduce(whole, async_op=True))
    return whole


def _summed(part: Tensor) -> Tensor:
    whole: Tensor = _Summed.apply(part)  # type: ignore[no-untyped-call]
    return whole


class _WholeBatch(TorchFunctionMode):
    """Inside, batch normalisation in training mode takes its moments over the rows of all processes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, or ours in its place."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            given = dict(zip(("x", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
                             args, strict=False))
            given.update({"x" if name == "input" else name: value for name, value in kwargs.items()})
            if given.get("training"):
                return _normalised(**given)
        return func(*args, **kwargs)


def _normalised(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = True, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """Ioffe and Szegedy, "Batch Normalization", ICML 2015, algorithm 1, over all processes."""
    kind, over, shape = x.dtype, [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    x = x.to(torch.promote_types(kind, torch.float32))
    n = _sum(x.new_tensor(float(x.numel() // x.shape[1])))
    mean = _summed(x.sum(over)) / n
    centred = x - mean.view(shape)
    var = _summed(centred.square().sum(over)) / n
    with torch.no_grad():
        for kept, new in ((running_mean, mean), (running_var, var * n / (n - 1))):
            if kept is not None:
                kept.lerp_(new.to(kept.dtype), momentum)
    scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
    found: Tensor = centred * scale.view(shape)
    return (found if bias is None else found + bias.view(shape)).to(kind)


def _finish(work: Any) -> None:
    """Wait for an exchange; signals are heard meanwhile, which they are not inside the library.

    Raises:
        Alone: a process has ended.
    """
    try:
        while not work.is_completed():
            time.sleep(_LOOK)
        work.wait()
    except RuntimeError as error:
        raise Alone(_ENDED) from error


_LOOK = 2e-5
"""Seconds between two looks at whether an exchange is over."""
_ENDED = ("another process of this run has ended (killed, or out of memory?); give the same command again: it goes on "
          "from its last checkpoint")
_TEAM: list[Team] = []


def team() -> Team | None:
    """That of this process; None where a run is learned by one."""
    return _TEAM[-1] if _TEAM else None


def anywhere(flag: bool) -> bool:
    """Whether something holds in any process of the run. All of them ask at the same places."""
    return flag if not _TEAM else _TEAM[-1].is_any(flag)


@contextmanager
def joined(rank: int, size: int, place: str) -> Iterator[None]:
    """Inside, this process is one of a team.

    Args:
        rank: which one, from 0.
        size: how many there are.
        place: a file that does not exist yet, where they meet.
    """
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=size)
    _TEAM.append(Team())
    try:
        yield
    finally:
        _TEAM.pop()
        dist.destroy_process_group()
