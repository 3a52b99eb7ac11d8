"""A dataclass that is being filled in, field by field, from what a user typed. OmegaConf is used here alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cl_framework.errors import ConfigError, PluginError
from cl_framework.fields import DataclassLike
from cl_framework.hardware import NOT_OFFERED
from cl_framework.registry import unknown

T = TypeVar("T", bound=DataclassLike)


def structured(cls: type[DataclassLike]) -> DictConfig:
    """The fields of a dataclass, to be filled in.

    Raises:
        PluginError: names the field's fault.
    """
    try:
        made: DictConfig = OmegaConf.structured(cls)
    except (OmegaConfBaseException, NameError, TypeError, ValueError) as error:
        raise PluginError(f"{cls.__name__} cannot be configured: {str(error).splitlines()[0]}; fields are int, float, "
                          "bool, str, Literal, list or dict of these") from error
    return made


class Section:
    """One dataclass being filled in.

    Args:
        prefix: of its keys on the command line; empty for keys without a section.
        schema: the dataclass.
        others: keys without a section that are no field of it, for suggestions.
    """

    def __init__(self, prefix: str, schema: type[DataclassLike], others: Sequence[str] = ()) -> None:
        self.prefix, self._others = prefix, others
        self._names = [spec.name for spec in dataclasses.fields(schema) if spec.init]
        self._config = structured(schema)

    def put(self, name: str, value: Any) -> list[str]:
        """Set a field; the faults, if any."""
        full = f"{self.prefix}.{name}" if self.prefix else name
        first = name.partition(".")[0]
        if first not in self._names or (first != name and not isinstance(self._config[first], DictConfig)):
            if not self.prefix:
                return [unknown("key", full, [*self._names, *self._others])]
            return [NOT_OFFERED.get(full) or unknown("key", full, [f"{self.prefix}.{known}" for known in self._names])]
        try:
            OmegaConf.update(self._config, name, value, merge=False)
        except OmegaConfBaseException as error:
            return [f"{full}={shown(value)}: {_reason(error, value)}"]
        return []

    def build(self, faults: list[str]) -> Any:
        """The dataclass; its own complaints are added to the faults."""
        try:
            return OmegaConf.to_object(self._config)
        except OmegaConfBaseException as error:
            faults.append(f"{self.prefix}: {str(error.msg or error).splitlines()[0]}")
        except ConfigError as error:
            prefix = f"{self.prefix}." if self.prefix else ""
            faults += [f"{prefix}{fault.partition('.')[2]}" if fault.split(".")[0].isidentifier() and " " not in
                       fault.split(".")[0] else fault for fault in error.faults]
        return None

    def tree(self) -> dict[str, Any]:
        """The values as plain data."""
        tree: dict[str, Any] = OmegaConf.to_container(self._config)  # type: ignore[assignment]
        return tree


def filled(prefix: str, schema: type[T], values: Mapping[str, Any]) -> T:
    """A section outside a run, such as `search`, from the values of its fields.

    Raises:
        ConfigError: every fault at once.
    """
    section, faults = Section(prefix, schema), list[str]()
    for name, value in values.items():
        faults += section.put(name, value)
    built: T = section.build(faults)
    if faults:
        raise ConfigError(faults)
    return built


def shown(value: Any) -> str:
    """A value as the user wrote it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _reason(error: OmegaConfBaseException, value: Any) -> str:
    text = str(error.msg or error).splitlines()[0]
    if "is not Optional" in text:
        return "null is no value for it"
    if "is not a ListConfig" in text:
        return f"expected a list, e.g. [{shown(value)}]"
    return text
