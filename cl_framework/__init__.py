"""cl_framework: stream experiences, apply a strategy against forgetting, trust the numbers.

Names are loaded when first used, so that `clf list` and `clf show` need not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "models", "Batch": "types", "Buffer": "memory", "Chain": "chain", "ConfigError": "errors",
    "DataError": "errors", "DataLeak": "errors", "Dataset": "data", "Diverged": "errors", "Experience": "experience",
    "Inputs": "types", "Model": "models", "Need": "types", "Output": "types", "Part": "scenario", "Phase": "types",
    "PluginError": "errors", "Recipe": "recipe", "ResidentStream": "scenario", "Scenario": "scenario",
    "Setting": "types", "Source": "sources", "Strategy": "strategy", "Stream": "scenario", "StreamInfo": "types",
    "StreamRecord": "record", "TestSet": "data", "bounded": "fields", "concat": "types", "metric": "metric_plugins",
    "phase_classes": "scenario", "run_stream": "protocol", "tunable": "fields",
}

if TYPE_CHECKING:
    from cl_framework.chain import Chain as Chain
    from cl_framework.data import Dataset as Dataset
    from cl_framework.data import TestSet as TestSet
    from cl_framework.errors import ConfigError as ConfigError
    from cl_framework.errors import DataError as DataError
    from cl_framework.errors import DataLeak as DataLeak
    from cl_framework.errors import Diverged as Diverged
    from cl_framework.errors import PluginError as PluginError
    from cl_framework.experience import Experience as Experience
    from cl_framework.fields import bounded as bounded
    from cl_framework.fields import tunable as tunable
    from cl_framework.memory import Buffer as Buffer
    from cl_framework.metric_plugins import metric as metric
    from cl_framework.models import Architecture as Architecture
    from cl_framework.models import Model as Model
    from cl_framework.protocol import run_stream as run_stream
    from cl_framework.recipe import Recipe as Recipe
    from cl_framework.record import StreamRecord as StreamRecord
    from cl_framework.scenario import Part as Part
    from cl_framework.scenario import ResidentStream as ResidentStream
    from cl_framework.scenario import Scenario as Scenario
    from cl_framework.scenario import Stream as Stream
    from cl_framework.scenario import phase_classes as phase_classes
    from cl_framework.sources import Source as Source
    from cl_framework.strategy import Strategy as Strategy
    from cl_framework.types import Batch as Batch
    from cl_framework.types import Inputs as Inputs
    from cl_framework.types import Need as Need
    from cl_framework.types import Output as Output
    from cl_framework.types import Phase as Phase
    from cl_framework.types import Setting as Setting
    from cl_framework.types import StreamInfo as StreamInfo
    from cl_framework.types import concat as concat


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cl_framework' has no attribute {name!r}")
    return vars(import_module(f"cl_framework.{_HOMES[name]}"))[name]


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
