"""Lets torchvision import beside a CPU build of torch.

PyPI's torchvision is linked to CUDA. Beside a CPU build of torch its compiled operators do not load, and importing
it fails with `operator torchvision::nms does not exist`, and with it torchmetrics, lightning and avalanche.
Declaring the two missing schemas is enough; nothing is declared where torchvision imports, or is not installed.
Import this module before any of those packages.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import torch

_LIBRARIES: list[torch.library.Library] = []


def mend() -> bool:
    """Declare the missing operators if, and only if, torchvision fails to import for want of them.

    Returns:
        Whether anything was declared.
    """
    if find_spec("torchvision") is None:
        return False
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return False
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return True


mend()
