"""`track.diagnostics=true`: a run writes `diagnostics.json`, the signals of its updates, after each experience.

The weight matrices are noted at three moments of an experience: when it begins, when it was trained, and as they are
deployed. They lie in the run folder until the run ends, so that a run that was stopped goes on with them. Nothing of
the run is changed, and no random number drawn. The file's format is described in docs/diagnostics.md.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cl_framework.adapters import dense_weights
from cl_framework.files import write_atomic, write_json
from cl_framework.layer_signals import LayerSignals, Moments, layer_signals
from cl_framework.models import Model
from cl_framework.observer import Cursor, Moment, Observer
from cl_framework.plain_files import read_json
from cl_framework.pooled_signals import pooled, whole_model
from cl_framework.record import StreamRecord
from cl_framework.tensor_files import TensorFiles
from cl_framework.types import StreamInfo

log = logging.getLogger(__name__)

FILE = "diagnostics.json"
_SMALLEST = 8
"""Matrices with a side below this are left out, as in arXiv 2511.08567."""
_LOST = ("diagnostics are off: this run was begun without them, or what they kept was removed; give its command with "
         "track.diagnostics=true and another out=DIR")


def matrices(model: Model) -> dict[str, Tensor]:
    """The weight matrices of a model by name, float32 copies on the CPU; convolutions as [out, in k k].

    Embeddings are looked up by row and are left out; so is what has no inputs, as a token or a bias. An adapter's
    update is added to the weight beside which it lies.
    """
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    return {name: value.flatten(1).to("cpu", torch.float32, copy=True).contiguous()
            for name, value in dense_weights(model) if value.dim() >= 2 and name not in tables}


class Diagnostics(Observer):
    """Writes the diagnostics of a run.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._weights = folder / FILE, folder / "diagnostics"
        self._entries: list[dict[str, Any]] = []
        self._is_on = True

    def started(self, info: StreamInfo, record: StreamRecord, cursor: Cursor) -> None:
        """Take up what is known of the experiences that are over; drop what a killed run wrote beyond them."""
        try:
            entries = [*read_json(self._file)["experiences"]]
        except (OSError, ValueError, KeyError, TypeError):
            entries = []
        self._entries = entries[: cursor.experience]
        self._check(len(self._entries) == cursor.experience)

    def _check(self, is_whole: bool) -> None:
        if self._is_on and not is_whole:
            self._is_on = False
            log.warning(_LOST)

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        """Note the weights; once they are deployed, measure. A run that has diverged is about to say so itself."""
        found = matrices(model) if self._is_on else {}
        if not all(bool(value.isfinite().all()) for value in found.values()):
            return
        if self._is_on:
            write_atomic(self._place(index, moment), save(found))
        if self._is_on and moment == "deployed":
            places = [self._place(i, each) for i in range(index + 1) for each in get_args(Moment)]
            self._check(all(place.is_file() for place in places))
            if self._is_on:
                self._entries.append(self._measured(index))
                write_json(self._file, {"experiences": self._entries})

    def _place(self, index: int, moment: Moment) -> Path:
        return self._weights / f"{index:05d}-{moment}.safetensors"

    def finished(self, record: StreamRecord) -> None:
        """The weights that were kept are needed no more."""
        shutil.rmtree(self._weights, ignore_errors=True)

    def _measured(self, index: int) -> dict[str, Any]:
        kept = [{moment: TensorFiles(self._place(i, moment)) for moment in get_args(Moment)} for i in range(index + 1)]
        names = [name for name, (_, shape, _) in kept[0]["start"].forms.items() if min(shape) >= _SMALLEST]
        layers = {name: self._layer(name, kept) for name in names}
        over_layers = self._pooled(layers) if layers else {"signals": {}, "means": {}, "medians": {}, "pairs": []}
        return {"experience": index, **over_layers, "layers": {
            name: {"shape": list(kept[0]["start"].forms[name][1]), "signals": _nullable(layer.signals),
                   "pairs": _by_experience(_nullable(pair) for pair in layer.pairs)}
            for name, layer in layers.items()}}

    def _layer(self, name: str, kept: Sequence[Mapping[str, TensorFiles]]) -> LayerSignals:
        origin = kept[0]["start"][name]
        for files in kept[1:]:
            origin = _grown(origin, files["start"][name])

        def moments(files: Mapping[str, TensorFiles]) -> Moments:
            return Moments(**{moment: _grown(tensors[name], origin) for moment, tensors in files.items()})

        known = [pair for entry in self._entries for pair in entry["layers"][name]["pairs"]]
        before = origin if len(kept) == 1 else _grown(kept[-2]["deployed"][name], origin)
        return layer_signals(origin, moments(kept[-1]), before, map(moments, kept[:-1]), known)

    def _pooled(self, layers: Mapping[str, LayerSignals]) -> dict[str, Any]:
        """Over the layers of the body; over the head where the body has no matrix."""
        counted = [layer for name, layer in layers.items() if name.startswith("body.")] or list(layers.values())
        signals, weights = [layer.signals for layer in counted], [layer.signals["update_norm"] for layer in counted]
        own = whole_model(signals, [entry["signals"]["update_norm"] for entry in self._entries])
        over_layers = [pooled(signals, weights), *(pooled([layer.pairs[i] for layer in counted], weights)
                                                   for i in range(len(self._entries)))]
        first, *pairs = ({key: _nullable(each) for key, each in one._asdict().items()} for one in over_layers)
        return {**first, "signals": first["signals"] | _nullable(own), "pairs": _by_experience(pairs)}


def _grown(saved: Tensor, current: Tensor) -> Tensor:
    """Rows that a head has grown since are those of `current`, as they were when they came."""
    return torch.cat([saved, current[len(saved):]])


def _by_experience(pairs: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"earlier": earlier, **pair} for earlier, pair in enumerate(pairs)]


def _nullable(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
