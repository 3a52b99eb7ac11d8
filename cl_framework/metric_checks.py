"""What every metric must obey; each function's docstring is the rule."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from cl_framework.metric_plugins import Metric
from cl_framework.record import StreamRecord


def example_record(n_experiences: int, n_done: int) -> StreamRecord:
    """A record with made-up figures: `n_done` of `n_experiences` learned, everything measured."""
    draws = torch.Generator().manual_seed(n_experiences)
    record = StreamRecord(n_experiences=n_experiences)
    figures = torch.rand(n_experiences + 3, n_experiences, generator=draws, dtype=torch.float64)
    record.accuracy[:n_done] = figures[:n_done]
    record.task_accuracy[:n_done] = figures[:n_done].sqrt()
    record.initial[:] = figures[-1]
    record.joint = figures[-2].clone()
    record.online[:n_done] = figures[-3, :n_done]
    record.seconds[:n_done] = 1.0
    record.n_parameters, record.memory_bytes = 10, 20
    record.strategy_metrics += [{} for _ in range(n_done)]
    return record


def declares_itself(metric: Metric) -> None:
    """It has a name, a formula, a source and a docstring."""
    for name in ("name", "formula", "source"):
        assert vars(metric)[name], f"{name} is empty"
    assert metric.function.__doc__, "the function has no docstring"


def returns_a_number(metric: Metric) -> None:
    """A float, finite or NaN where it is absent."""
    value = metric(example_record(4, 4))
    assert isinstance(value, float), f"it returns {type(value).__name__}"
    assert value not in (float("inf"), float("-inf")), "it returns an infinite number"


def is_pure(metric: Metric) -> None:
    """It changes nothing in the record and gives the same number twice."""
    record = example_record(4, 4)
    before = copy.deepcopy(vars(record))
    first, second = metric(record), metric(record)
    assert first == second or first != first, "it gives another number the second time"
    after = vars(record)
    for name, value in before.items():
        same = torch.equal(value.nan_to_num(), after[name].nan_to_num()) if isinstance(value, torch.Tensor) else (
            value == after[name])
        assert same, f"it changes the record's {name}"


def takes_one_experience(metric: Metric) -> None:
    """A stream of a single experience gives a number or NaN, no error."""
    metric(example_record(1, 1))


def takes_an_unfinished_stream(metric: Metric) -> None:
    """Of a stream half done it makes what it makes of a stream that ends there."""
    half, whole = example_record(5, 3), StreamRecord(n_experiences=3)
    for name in ("accuracy", "task_accuracy"):
        vars(half)[name][:, 3:] = torch.nan
        vars(whole)[name] = vars(half)[name][:3, :3].clone()
    for name in ("initial", "online", "seconds"):
        vars(half)[name][3:] = 0.0 if name == "seconds" else torch.nan
        vars(whole)[name] = vars(half)[name][:3].clone()
    assert half.joint is not None
    whole.joint, whole.n_parameters, whole.memory_bytes = half.joint[:3].clone(), half.n_parameters, half.memory_bytes
    whole.strategy_metrics = half.strategy_metrics
    first, second = metric(half), metric(whole)
    assert first == second or (first != first and second != second), (
        f"3 of 5 experiences give {first}, the same 3 of 3 give {second}")


def weighs_experiences_alike(metric: Metric) -> None:
    """With the same accuracy everywhere, it does not depend on how many experiences there are."""
    if metric.axis not in ("stability", "plasticity"):
        return
    values = []
    for n in (3, 12):
        record = example_record(n, n)
        record.accuracy[:], record.task_accuracy[:], record.online[:], record.joint = 0.5, 0.5, 0.5, None
        values.append(metric(record))
    assert values[0] != values[0] or abs(values[0] - values[1]) < 1e-9, (
        f"constant accuracy gives {values[0]} over 3 experiences and {values[1]} over 12")


METRIC_CHECKS: tuple[Callable[[Metric], None], ...] = (
    declares_itself, returns_a_number, is_pure, takes_one_experience, takes_an_unfinished_stream,
    weighs_experiences_alike,
)
