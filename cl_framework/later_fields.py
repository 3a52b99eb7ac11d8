"""Fields that `train`, `trainer` and `model` were given later: at their defaults they count nowhere, so that earlier
runs keep their hash.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LATER: Mapping[str, object] = {"on_nonfinite": "stop", "evaluate_every": 1, "processes": 1,
                              "channels_last": False, "compile": False, "frame": "template", "stop": "end"}


def counted(section: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a section that a hash counts.

    >>> counted({"lr": 0.1, "on_nonfinite": "stop", "evaluate_every": 10})
    {'lr': 0.1, 'evaluate_every': 10}
    """
    return {name: value for name, value in section.items() if name not in _LATER or _LATER[name] != value}
