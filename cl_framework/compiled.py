"""The body of a network as a compiled graph, for the steps of the training loop and nothing else.

    phi = f(x),   f the body; a graph adds in another order than the layers one by one

What a run computes must not depend on what its process did before, nor on where it was stopped. So there is one graph
for each size of a batch, compiled for that size alone, and each run has graphs of its own. A batch that the data end in
(it is short, and of another length in each experience), a body that somebody watches with hooks, held-out rows, and
whatever a strategy asks the model itself are computed as they are written. The graph ends below the head, so that it
outlives all experiences. Ansel et al., "PyTorch 2", ASPLOS 2024, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.models import Model
from cl_framework.types import Inputs, Output

_GRAPHS = 64
"""Sizes that are compiled for; torch computes more of them as they are written."""
_NAMES = count()


class Compiled:
    """Answers of one model to whole batches.

    Raises:
        ConfigError: torch cannot compile on this machine.
    """

    def __init__(self, model: Model) -> None:
        _prove(model.device)
        import torch._dynamo.config as limits

        limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)
        self._model, self._graph = model, _own_graph()

    def __call__(self, x: Inputs) -> Output:
        """Logits and features of preprocessed rows."""
        model = self._model
        if not _is_watched(model.body):
            model.graph = self._graph
        try:
            output: Output = model(x)
        finally:
            model.graph = None
        return output


def _features(body: nn.Module, x: Inputs) -> Tensor:
    features: Tensor = body(x)
    return features


def _own_graph() -> Callable[[nn.Module, Inputs], Tensor]:
    """Of a function with code of its own, by which torch remembers graphs. It is a function, since torch compiles a
    `Sequential` layer by layer. Dropout draws the numbers that it draws otherwise."""
    code = _features.__code__.replace(co_name=f"features_{next(_NAMES)}")
    graph: Callable[[nn.Module, Inputs], Tensor] = torch.compile(
        FunctionType(code, globals()), dynamic=False, options={"fallback_random": True})
    return graph


def _is_watched(body: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
               or module._backward_pre_hooks for module in body.modules())


def _prove(device: torch.device) -> None:
    try:
        torch.compile(F.relu)(torch.zeros(2, device=device))
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"trainer.compile=true cannot be used here: {why}; torch.compile needs a C++ compiler (g++) "
                          "on the CPU, and Triton on a GPU. Install it, or set trainer.compile=false") from error


@contextmanager
def explained() -> Iterator[None]:
    """Say in words what a compiled network does not offer a strategy.

    Raises:
        ConfigError: gradients of gradients were asked for.
    """
    try:
        yield
    except RuntimeError as error:
        if "double backward" not in str(error):
            raise
        raise ConfigError("the strategy differentiates gradients of the batch's own answers, which a compiled network "
                          "does not offer; set trainer.compile=false") from error
