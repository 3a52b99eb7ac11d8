"""Fields that carry their own rules: ranges that are checked, grids that may be searched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from cl_framework.errors import ConfigError

T = TypeVar("T")


class DataclassLike(Protocol):
    """Anything made by `@dataclass`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def bounded(default: T, *, low: float | None = None, high: float | None = None) -> T:
    """A field whose value must lie in [low, high].

    >>> @dataclasses.dataclass
    ... class Recipe:
    ...     lr: float = bounded(0.1, low=0.0)
    >>> Recipe().lr
    0.1
    """
    metadata: Mapping[str, object] = {"low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def tunable(default: T, *grid: T, low: float | None = None, high: float | None = None) -> T:
    """A hyperparameter that `clf tune` may choose from `grid`; `low` and `high` bound what is legal."""
    metadata: Mapping[str, object] = {"grid": grid, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def told(default: T) -> T:
    """A field that says which form of a method runs: results name its value, also where it is the default."""
    return dataclasses.field(default=default, metadata={"is_told": True})


def range_faults(instance: DataclassLike, owner: str) -> list[str]:
    """One sentence for each field outside its declared range."""
    faults = []
    for spec in dataclasses.fields(instance):
        value = vars(instance)[spec.name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            faults.append(f"{owner}.{spec.name} must be finite, got {value}")
            continue
        low, high = spec.metadata.get("low"), spec.metadata.get("high")
        if low is not None and not value >= low:
            faults.append(f"{owner}.{spec.name} must be at least {low}, got {value}")
        elif high is not None and not value <= high:
            faults.append(f"{owner}.{spec.name} must be at most {high}, got {value}")
    return faults


def check_ranges(instance: DataclassLike) -> None:
    """Refuse values outside their declared range.

    Raises:
        ConfigError: names each field, its limit and the value given.
    """
    faults = range_faults(instance, type(instance).__name__)
    if faults:
        raise ConfigError(faults)


def grids(cls: type[DataclassLike]) -> dict[str, tuple[object, ...]]:
    """The declared search space of a class: field name to the values that `clf tune` may draw."""
    return {
        spec.name: tuple(spec.metadata["grid"])
        for spec in dataclasses.fields(cls)
        if spec.metadata.get("grid")
    }
