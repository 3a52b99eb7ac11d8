"""The files that `clf new` writes beside the plugin itself; `my_method` and `MyMethod` stand for its names."""

from __future__ import annotations

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "my_method"
version = "0.1.0"
description = "A {kind} for cl_framework."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["cl-framework>={version}"]

# The name by which `clf` finds it.
[project.entry-points."{group}"]
my_method = "my_method:{plugin}"

[tool.setuptools.packages.find]
where = ["src"]

# Presets travel with the code: `experiment=my_method`.
[tool.setuptools.package-data]
my_method = ["configs/**/*.yaml"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]
addopts = "--import-mode=importlib"

[tool.ruff]
line-length = 120

[tool.ruff.lint]
extend-select = ["I"]

[tool.ruff.lint.isort]
known-first-party = ["cl_framework"]
known-local-folder = ["my_method"]
"""

README = """\
# my_method

A {kind} for cl_framework. `src/my_method/__init__.py` is all of it; what it does now is an example, change it.

```
pip install -e .
clf list kind={kind}
clf train experiment=my_method
{check}
pytest
```

| file | what it is |
| --- | --- |
| `src/my_method/__init__.py` | the {kind} |
| `src/my_method/configs/experiment/my_method.yaml` | a preset: `experiment=my_method` |
| `tests/test_my_method.py` | {tests} |
| `pyproject.toml` | the name by which `clf` finds it |

While the code changes, give each run another `out=DIR`: a run that has finished is skipped.
"""

_PRESET = """\
# clf train experiment=my_method
scenario: {scenario}
strategy: {strategy}
{model}train:
  epochs: 10
  batch_size: 32
"""

PRESETS = {
    "strategy": _PRESET.format(scenario="split_digits", strategy="my_method", model=""),
    "scenario": _PRESET.format(scenario="my_method", strategy="naive", model=""),
    "metric": _PRESET.format(scenario="split_digits", strategy="naive", model=""),
    "model": _PRESET.format(scenario="split_digits", strategy="naive", model="model: my_method\n"),
}
"""By kind."""

_STRATEGY = '''\
"""It obeys the contract of strategies, check by check, and its penalty is its equation."""

import pytest
import torch

from cl_framework.checks import parametrize_with_checks
from cl_framework.toys import Toy, toy_model

from my_method import MyMethod


@parametrize_with_checks([MyMethod(), MyMethod(alpha=0.01)])
def test_conformance(plugin, check):
    check(plugin)


def test_each_of_n_weights_that_moved_by_one_costs_half_of_alpha():
    stream = Toy().open()
    model = toy_model(stream)
    model.observe([0, 1])
    strategy = MyMethod(alpha=0.5)
    strategy.setup(model, stream.info)
    strategy.after_experience(model, stream[0])
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    n = sum(weight.numel() for weight in model.parameters())
    assert strategy.penalty(model, None, None).item() == pytest.approx(0.25 * n)
'''

_SCENARIO = '''\
"""It obeys the contract of scenarios, check by check, and its rows are what it says."""

import torch

from cl_framework.checks import parametrize_with_checks

from my_method import MyMethod


@parametrize_with_checks([MyMethod(), MyMethod(n_experiences=2)])
def test_conformance(plugin, check):
    check(plugin)


def test_the_second_of_two_experiences_has_half_the_contrast():
    first, second = MyMethod(n_experiences=2).open("single", order_seed=None)
    assert torch.equal(second.train.raw, first.train.raw // 2)
'''

_METRIC = '''\
"""It obeys the contract of metrics, check by check, and its number is its formula."""

import torch

from cl_framework import StreamRecord
from cl_framework.checks import parametrize_with_checks

from my_method import my_method


@parametrize_with_checks([my_method])
def test_conformance(plugin, check):
    check(plugin)


def test_the_lowest_of_two_accuracies():
    record = StreamRecord(n_experiences=2)
    record.accuracy = torch.tensor([[0.9, torch.nan], [0.5, 0.8]], dtype=torch.float64)
    assert my_method(record) == 0.5
'''

_MODEL = '''\
"""Its features have the shape that it says, belong to one row each, and a stream can be learned with it."""

import pytest
import torch

from cl_framework import Strategy, run_stream
from cl_framework.protocol import build_model
from cl_framework.registry import verify
from cl_framework.toys import Toy, toy_recipe

from my_method import MyMethod


def test_it_obeys_the_contract_of_models():
    verify("model", "my_method", MyMethod)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (6,)])
def test_features_have_the_shape_that_it_says(shape):
    body, n_features = MyMethod(width=16).body(shape)
    assert body(torch.rand(5, *shape)).shape == (5, n_features) == (5, 16)


def test_each_row_is_answered_alone():
    body, _ = MyMethod().body((6,))
    rows = torch.rand(5, 6)
    assert torch.allclose(body.eval()(rows)[:1], body(rows[:1]), atol=1e-6)


@pytest.mark.parametrize("head", ["whole", "growing", "full"])
def test_it_learns_a_stream(head):
    stream = Toy(sizes=(2, 2)).open()
    model = build_model(MyMethod(width=16, head=head), stream.info, 0)
    record = run_stream(Strategy(), stream, model, recipe=toy_recipe(), seed=0)
    assert record.accuracy.diagonal().min() > 0.75
'''

TESTS = {"strategy": _STRATEGY, "scenario": _SCENARIO, "metric": _METRIC, "model": _MODEL}
"""By kind."""
