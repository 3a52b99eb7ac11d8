"""The arrays of a safetensors file, mapped: pages are read when they are touched, and one file serves all processes.

The mapping is private, so that who writes into a row changes a copy of that page alone, and no memory is set aside for
such copies: a file may be larger than the memory. Of one that takes more than half of it, the neighbours of a page are
not read along, as they would be gone before their rows are drawn. The format: 8 bytes that tell the length of a header,
the header as JSON, the bytes of the arrays (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "I64": np.dtype("<i8")}
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_LENGTH = 8


def mapped(path: Path) -> dict[str, Tensor]:
    """Each array as a tensor over the file.

    Args:
        path: a safetensors file of uint8 and int64 arrays.

    Raises:
        OSError: it cannot be opened, or is empty.
        ValueError: it is no such file, or cut short.
    """
    with path.open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE,
                          prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if len(whole) > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        whole.madvise(mmap.MADV_RANDOM)
    begin = _LENGTH + int.from_bytes(whole[:_LENGTH], "little")
    if begin > len(whole):
        raise ValueError("its header is cut short")
    head = json.loads(whole[_LENGTH:begin])
    found = {}
    for name, each in head.items():
        if name != "__metadata__":
            dtype, (start, end) = _TYPES[each["dtype"]], each["data_offsets"]
            array = np.frombuffer(whole, dtype, (end - start) // dtype.itemsize, begin + start)
            found[name] = torch.from_numpy(array.reshape(each["shape"]))
    return found
