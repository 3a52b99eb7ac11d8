"""What a strategy counts while it adapts: entropy of its answers, images out of range, and figures of its own.

Figures are means over all rows so far, since a strategy does not know where an experience ends. Sums stay on the
device, so that no step waits for one.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from cl_framework.types import Inputs, StreamInfo

from ._adaptation import entropy

_TOLERANCE = 1e-3


class Watch:
    """Figures of the stream so far."""

    def __init__(self, info: StreamInfo, device: torch.device) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._n_outside = torch.zeros((), dtype=torch.int64, device=device)
        self._n_batches = 0
        self._is_told = False
        self._range: tuple[Tensor, Tensor] | None = None
        if len(info.input_shape) == 3:
            mean, std = (torch.tensor(value, device=device).view(-1, 1, 1) for value in (info.mean, info.std))
            self._range = (-_TOLERANCE - mean) / std, (1 + _TOLERANCE - mean) / std

    @torch.no_grad()
    def saw(self, x: Inputs, logits: Tensor) -> None:
        """Count a batch [B, ...] and the logits [B, C] that it was given."""
        self._n_batches += 1
        if self._range is not None and isinstance(x, Tensor):
            self._n_outside += ((x < self._range[0]) | (x > self._range[1])).any()
        self.add("entropy", entropy(logits).sum(), len(logits))

    def add(self, name: str, value: Tensor, n: int = 1) -> None:
        """Add to a figure, whose mean over n is reported."""
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + n

    def metrics(self) -> dict[str, float]:
        """The mean of each figure; warns, once, of images outside the range that the model was trained on."""
        n_outside = int(self._n_outside)
        if n_outside and not self._is_told:
            self._is_told = True
            warnings.warn(f"{n_outside} of {self._n_batches} batches of the stream hold images outside [0, 1]; "
                          "give uint8 rows, or float rows divided by 255 and clipped", stacklevel=2)
        return {name: value.item() / self._counts[name] for name, value in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything counted."""
        return {"sums": {name: value.clone() for name, value in self._sums.items()}, "counts": dict(self._counts),
                "n_outside": self._n_outside.clone(), "n_batches": self._n_batches, "is_told": self._is_told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        device = self._n_outside.device
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts, self._n_outside = dict(state["counts"]), state["n_outside"].to(device).clone()
        self._n_batches, self._is_told = state["n_batches"], state["is_told"]
