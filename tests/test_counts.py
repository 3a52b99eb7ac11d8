"""Counts that stand for time: a step that waits, copies or prepares more than it must is slower on every machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cl_framework.data import Dataset, TestSet
from cl_framework.evaluate import evaluate
from cl_framework.metrics import AccuracyMatrix
from cl_framework.models import MLP
from cl_framework.observer import Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.scenario import Part, ResidentStream
from cl_framework.strategy import Strategy
from cl_framework.train_calls import CHUNK
from cl_framework.types import StreamInfo

BATCH = 4
WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "is_nonzero"}
"""Ways to ask a tensor for its values: on a GPU each waits until the device has come so far. So does a choice of rows
by a mask, whose number is not known before."""
VIEWS = {"select", "slice", "split", "view", "t", "detach", "_unsafe_view", "unsqueeze", "squeeze", "expand", "alias",
           "transpose", "permute", "as_strided", "reshape", "lift_fresh", "split_with_sizes", "unbind"}
"""Operations that copy nothing."""


class Waits(TorchFunctionMode):
    """Counts questions for values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the name, then do it."""
        if func.__name__ in WAITS:
            self.found[func.__name__] += 1
        if func.__name__ == "__getitem__" and any(isinstance(place, torch.Tensor) and place.dtype == torch.bool
                                                  for place in (args[1] if isinstance(args[1], tuple) else args[1:])):
            self.found["mask"] += 1
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Counts the operations that reach a kernel; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the name, then do it."""
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Between(Observer):
    """Keeps what was counted while the second of two experiences was learned, when there is a past to keep."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self.found: Counter[str] = Counter()

    def reached(self, moment: str, index: int, model: Any) -> None:
        """Training begins, or ends."""
        if moment == "start":
            self._mode.found.clear()
        elif moment == "trained" and index == 1:
            self.found = Counter(self._mode.found)


def rows(n: int) -> Dataset:
    draw = torch.Generator().manual_seed(0)
    return Dataset(torch.randint(0, 256, (n, 1, 6, 6), dtype=torch.uint8, generator=draw),
                   torch.randint(0, 3, (n,), generator=draw))


def stream_of(n_rows: int, *, is_online: bool = False) -> ResidentStream:
    """Two experiences of the same three classes."""
    info = StreamInfo(n_experiences=2, n_classes=3, input_shape=(1, 6, 6), mean=(0.5,), std=(0.25,),
                      is_online=is_online)
    part = Part(train=rows(n_rows), test=rows(12), classes=(0, 1, 2), class_names=("a", "b", "c"))
    return ResidentStream(info, [part, part])


def counted(mode: Any, strategy: Strategy, n_steps: int, *, is_online: bool = False) -> Counter[str]:
    """What a mode counts while `n_steps` batches of the second experience are learned."""
    stream, between = stream_of(BATCH * n_steps, is_online=is_online), Between(mode)
    with mode:
        run_stream(strategy, stream, build_model(MLP(hidden=[8]), stream.info, 0),
                   recipe=Recipe(optimizer="sgd", lr=0.01, batch_size=BATCH), observer=between)
    return between.found


def each(mode: type[Any], strategy: str, fields: Mapping[str, Any] | None = None, *,
         is_online: bool = False) -> dict[str, float]:
    """What each further chunk adds: half of what 3 chunks have more than 1."""
    few, many = (counted(mode(), load("strategy", strategy)(**(fields or {})), n * CHUNK, is_online=is_online)
                 for n in (1, 3))
    return {name: (many[name] - few[name]) / 2 for name in many if many[name] != few[name]}


@pytest.mark.parametrize("strategy", ["naive", "er", "ewc", "lwf", "si", "mas", "l2"])
def test_the_host_waits_once_a_chunk(strategy: str) -> None:
    assert each(Waits, strategy) == {"tolist": 1.0}, "the losses of a chunk are read together, and nothing else"


@pytest.mark.parametrize(("strategy", "is_online"), [("er", True), ("derpp", False)])
def test_a_buffer_that_fills_by_step_asks_its_keys_and_nothing_else(strategy: str, is_online: bool) -> None:
    """They lie with the host, wherever the rows are, so that no device is waited for; once a step when it is full."""
    found = each(Waits, strategy, {"memory_size": 20}, is_online=is_online)
    assert found == {"tolist": 1.0 + CHUNK, **({"__int__": 1.0} if is_online else {})}


def test_an_online_stream_adds_one_wait_a_chunk() -> None:
    assert each(Waits, "naive", is_online=True) == {"tolist": 1.0, "__int__": 1.0}


def bare(n_steps: int) -> Counter[str]:
    """The same steps, written out."""
    info = StreamInfo(n_experiences=1, n_classes=3, input_shape=(1, 6, 6), mean=(0.5,), std=(0.25,))
    model, data = build_model(MLP(hidden=[8]), info, 0), rows(BATCH * n_steps)
    model.observe(range(3))
    raw, y = data.raw, data.y
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    with Operations() as mode:
        for places in torch.arange(len(y)).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(model.preprocess(raw[places])).logits, y[places])
            loss.backward()
            optimizer.step()
    return mode.found


def test_a_step_is_no_more_operations_than_a_bare_loop_has() -> None:
    ours = each(Operations, "naive")
    few, many = bare(CHUNK), bare(3 * CHUNK)
    theirs = sum(many.values()) - sum(few.values())
    assert 2 * sum(ours.values()) <= theirs, "rows are gathered once a chunk, not once a step"
    assert ours["_to_copy"] == CHUNK, "rows become float once a step"
    assert ours["index_select"] == 2, "one gathers the rows of a chunk, one its labels"
    assert not {"clone", "copy_", "cat"} & ours.keys(), f"nothing else is copied: {ours}"


def test_replay_adds_a_draw_and_its_rows() -> None:
    ours, plain = each(Operations, "er"), each(Operations, "naive")
    added = {name: (count - plain.get(name, 0)) / CHUNK for name, count in ours.items() if count != plain.get(name, 0)}
    assert added == {"randperm": 1.0, "index_select": 2.0, "cat": 2.0}, "places, rows and labels; both put together"


@pytest.mark.parametrize(("strategy", "draws"), [("naive", 0), ("er", 0), ("derpp", 2), ("ewc", 0), ("lwf", 0)])
def test_a_step_prepares_its_batch_and_each_further_draw_once(strategy: str, draws: int) -> None:
    stream, is_training = stream_of(BATCH * 20), list[bool]()
    model = build_model(MLP(hidden=[8]), stream.info, 0)
    model.preprocess.register_forward_hook(lambda module, args, out: is_training.append(module.training))
    run_stream(load("strategy", strategy)(), stream, model, recipe=Recipe(batch_size=BATCH))
    without_a_past = draws  # of the very first step
    assert sum(is_training) == 40 * (1 + draws) - without_a_past


@pytest.mark.parametrize("n_experiences", [1, 5, 20])
def test_an_evaluation_passes_each_row_once(n_experiences: int) -> None:
    info = StreamInfo(n_experiences=n_experiences, n_classes=3, input_shape=(1, 6, 6), mean=(0.5,), std=(0.25,))
    model, data, sizes = build_model(MLP(hidden=[8]), info, 0), rows(20 * n_experiences), list[int]()
    model.observe(range(3))
    model.body.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    tests = [(index, TestSet(data.subset(torch.arange(20 * index, 20 * index + 20)), (0, 1, 2)))
             for index in range(n_experiences)]
    evaluate(Strategy(), model, tests, AccuracyMatrix(n_experiences), 1)  # the first may also probe the network
    sizes.clear()
    evaluate(Strategy(), model, tests, AccuracyMatrix(n_experiences), 1)
    assert sum(sizes) == 20 * n_experiences
    assert len(sizes) <= n_experiences * math.ceil(20 / TestSet.n_at_once)
