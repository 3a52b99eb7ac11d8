"""What is wrong with the content of a `summary.json`, in words. Imports no torch.

Shares lie in [0, 1] and differences of shares in [-1, 1]: a number beyond was not measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from cl_framework.experience_figures import Figures, is_figure
from cl_framework.intact import is_whole

_KINDS: Mapping[str, tuple[type, ...]] = {
    "scenario": (str,), "strategy": (str,), "model": (str,), "seed": (int,),
    "order_seed": (int, type(None)), "phase": (str,), "protocol": (str,), "config_hash": (str,),
    "git_commit": (str, type(None)), "metrics": (dict,),
    "accuracy_matrix": (list, type(None)), "seconds": (int, float, type(None)), "status": (str,),
}
_LOWEST: Mapping[str, float] = {
    "average_accuracy": 0, "average_incremental_accuracy": 0, "stability": 0, "learning_accuracy": 0,
    "expert_accuracy": 0, "online_accuracy": 0, "task_incremental/average_accuracy": 0, "online_error": 0,
    "calibration_error": 0, "forgetting/max": -1, "forgetting/first": -1, "backward_transfer": -1,
    "forward_transfer": -1, "intransigence": -1, "source_forgetting": -1,
}
"""The least value of metrics that are at most 1."""
_HIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, ends of lines and changes of direction: in a name they move a terminal's cursor, or deceive."""
_SHARES = ("accuracy", "online_error", "calibration_error")
_ROUNDING = 1e-9


def faults_of(content: Mapping[str, Any]) -> list[str]:
    """Fields that are missing, or hold what they cannot, but for `experiences`.

    >>> faults_of({"scenario": 3})[0]
    "'scenario' is 3"
    """
    faults = [f"'{name}' is missing" if name not in content else f"'{name}' is {content[name]!r}"
              for name, kinds in _KINDS.items() if name not in content or not isinstance(content[name], kinds)]
    if not faults:
        seconds = content["seconds"]
        faults = [] if seconds is None or _is_time(seconds) else [f"'seconds' is {seconds!r}"]
        faults += [f"metric '{name}' is {value!r}" for name, value in content["metrics"].items()
                  if value is not None and not _is_value(name, value)]
        matrix: list[list[float | None]] = content["accuracy_matrix"] or []
        if not all(isinstance(row, list) and len(row) == len(matrix) and
                   all(value is None or _is_number(value) for value in row) for row in matrix):
            faults.append("'accuracy_matrix' is no square matrix of numbers and nulls")
        elif not all(value is None or math.isnan(value) or _lies_in(value, 0) for row in matrix for value in row):
            faults.append("'accuracy_matrix' has values outside 0 to 1")
    faults += [f"{text!r} holds signs that are not shown" for text in _texts(content) if _HIDDEN.search(text)]
    if not faults and not is_whole(content):
        faults.append("its content has another digest than it states")
    if not isinstance(content.get("strategy_fields", {}), dict):
        faults.append(f"'strategy_fields' is {content['strategy_fields']!r}")
    return faults


def _texts(content: Mapping[str, Any]) -> Iterator[str]:
    """Names that reports show."""
    yield from (value for name, value in content.items() if name in _KINDS and isinstance(value, str))
    for name in ("metrics", "strategy_fields"):
        inner = content.get(name)
        if isinstance(inner, dict):
            yield from inner
            yield from (value for value in inner.values() if isinstance(value, str))
    experiences = content.get("experiences")
    for each in experiences if isinstance(experiences, list) else []:
        if isinstance(each, dict) and isinstance(each.get("name"), str):
            yield each["name"]


def faults_of_figures(experiences: Sequence[Figures], matrix: Sequence[object]) -> list[str]:
    """Experiences with shares outside 0 to 1, or not as many as the accuracy matrix has rows."""
    faults = [f"'experiences' holds {name}={value!r}" for each in experiences for name in _SHARES
              if (value := vars(each)[name]) is not None and not _lies_in(value, 0)]
    if experiences and matrix and len(experiences) != len(matrix):
        faults.append(f"'experiences' are {len(experiences)}, and 'accuracy_matrix' has {len(matrix)} rows")
    return faults


def _is_value(name: str, value: object) -> bool:
    if not _is_number(value) or not is_figure(value):
        return False
    return name not in _LOWEST or _lies_in(value, _LOWEST[name])


def _is_time(value: object) -> bool:
    return _is_number(value) and value >= 0 and is_figure(value)


def _lies_in(value: float, low: float) -> bool:
    """Whether a share, or a difference of shares, can have this value."""
    return low - _ROUNDING <= value <= 1 + _ROUNDING


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
