"""One expert an experience, and one model merged of all: the frame of the strategies that merge.

The body returns to the anchor theta_0, the weights that it had when the stream began (after `stream.pretraining` where
there is one), and the ordinary trainer makes an expert theta_t of it. After the experience the rule folds the update
theta_t - theta_0 into the merged model, which is what answers from then on. Nothing of the data is kept.

- The head is not merged. Each experience trains the rows of its own classes, with a softmax over them alone, and they
  stay as they were trained; rows of a class that comes again are averaged over the experts that trained them. In a
  domain-incremental stream every expert trains all rows, and they are merged like a bias.
- Running statistics of batch normalisation are not merged but averaged over experts, or measured anew.
- Experts from random weights do not merge well: the paper of each rule begins with a model that has been pretrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.merging import Layer, Merger, Merging
from cl_framework.models import Model
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Output, Setting, StreamInfo, n_bytes

from ._weights import grown, named_tensors

_ROWS = 256
"""Rows that are measured at once."""


@dataclass(kw_only=True, eq=False)
class Experts(Strategy, Merging):
    """Trains an expert an experience from the anchor, and merges it. A strategy adds the rule: `merge`, and what else
    of `Merging` it needs."""

    makes_experts: ClassVar[bool] = True
    speaks: ClassVar[bool] = True
    training_fields: ClassVar[frozenset[str]] = frozenset({"start", "bn_stats"})

    start: Literal["anchor", "previous", "merged"] = "anchor"
    """Where an expert begins: at the anchor, where the expert before it ended, or at the merged model."""
    bn_stats: Literal["mean", "recalibrate", "first"] = "mean"
    """Running statistics of the merged model: the mean over experts, measured on the newest experience's rows, or
    those of the first expert."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """There is no expert and no anchor yet."""
        self._parts = ("body", "head") if info.setting is Setting.DOMAIN else ("body",)
        self._merger = Merger(self, layers_of(model, self._parts), seed=info.seed)
        self._anchor: dict[str, Tensor] = {}
        self._previous: dict[str, Tensor] = {}
        self._statistics: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}
        self._counts = torch.zeros(info.n_classes, dtype=torch.int64)
        self._classes: list[int] = []

    @torch.no_grad()
    def before_experience(self, model: Model, experience: Experience) -> None:
        """The body begins where `start` says; rows of classes met before begin anew, the others are noted."""
        current = _tensors(model, ("body", "head"))
        self._anchor = {name: grown(self._anchor[name], value).clone() if name in self._anchor else value.clone()
                        for name, value in current.items()}
        self._classes = list(experience.classes)
        begin = {"anchor": self._anchor, "previous": self._previous or self._anchor, "merged": {}}[self.start]
        for name, value in begin.items():
            if name.partition(".")[0] in self._parts:
                current[name].copy_(value)
        if "head" not in self._parts:
            self._rows = {name: value.clone() for name, value in current.items() if name.startswith("head.")}
            for name in self._rows:
                current[name][self._classes] = self._anchor[name][self._classes]

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Cross-entropy over the experience's classes; over all classes seen for a replayed row of another class."""
        own = torch.zeros(model.n_seen, dtype=torch.bool, device=batch.y.device)
        own[self._classes] = True
        return model.loss(batch, output, own | ~own[batch.y].unsqueeze(1))

    @torch.no_grad()
    def after_experience(self, model: Model, experience: Experience) -> None:
        """Merge the expert, and put the merged model in its place."""
        model.fold()
        current = _tensors(model, self._parts)
        if self.start == "previous":
            self._previous = {name: value.clone() for name, value in current.items()}
        buffers = frozenset(name for name, _ in model.named_buffers())
        self._average_statistics({name: value for name, value in current.items() if name in buffers})
        self._merger.absorb([{name: current[name] - self._anchor[name] for name in self._merger.names}])
        for name in () if self._merger.is_expert else self._merger.names:
            current[name].copy_(self._merger.weight(name, self._anchor[name]))
        for name, value in self._statistics.items():
            current[name].copy_(value)
        if "head" not in self._parts:
            self._keep_rows(_tensors(model, ("head",)))
        if self.bn_stats == "recalibrate":
            recalibrate(model, experience.train)

    def _keep_rows(self, current: dict[str, Tensor]) -> None:
        """Rows of other classes as they were, rows of the experience's classes averaged over their experts."""
        counts = self._counts[self._classes].to(current["head.weight"].device)
        for name, before in self._rows.items():
            trained = current[name][self._classes]
            share = (1 / (counts + 1)).view(-1, *[1] * (trained.dim() - 1))
            mean = torch.lerp(before[self._classes], trained, share.to(trained))
            current[name].copy_(before)
            current[name][self._classes] = mean
        self._counts[self._classes] += 1
        self._rows = {}

    def _average_statistics(self, current: dict[str, Tensor]) -> None:
        """The running mean over experts of statistics; of the first expert's alone with `first`."""
        share = 1 / (self._merger.totals.n_experts + 1)
        if share < 1 and self.bn_stats == "first":
            return
        found = {name: value for name, value in current.items()
                 if name not in self._merger.names and value.is_floating_point()}
        self._statistics = {name: torch.lerp(self._statistics.get(name, value), value, share)
                            for name, value in found.items()}

    def metrics(self) -> Mapping[str, float]:
        """Bytes of anchor, merged and kept updates and statistics; norms and factor of the merge, and the rule's notes
        (means over layers)."""
        held = [*self._merger.tensors(), self._counts]
        for tensors in (self._anchor, self._previous, self._statistics, self._rows):
            held += tensors.values()
        totals = self._merger.totals
        factor = self._merger.factor if totals.n_experts else 1.0
        return {"memory_bytes": sum(map(n_bytes, held)), "merge_factor": factor, "mean_update_norm": totals.mean_norm,
                "merged_update_norm": totals.norm, **self._merger.notes}

    def state_dict(self) -> dict[str, Any]:
        """The merge, the anchor, and what is noted of head and statistics."""
        return {"merger": self._merger.state_dict(), "anchor": dict(self._anchor), "previous": dict(self._previous),
                "statistics": dict(self._statistics), "rows": dict(self._rows), "counts": self._counts.clone(),
                "classes": list(self._classes)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._merger.load_state_dict(state["merger"], model.device)
        self._anchor, self._previous, self._statistics, self._rows = (
            {name: value.to(model.device) for name, value in state[key].items()}
            for key in ("anchor", "previous", "statistics", "rows"))
        self._counts, self._classes = state["counts"].clone(), list(state["classes"])


def layers_of(model: Model, parts: tuple[str, ...]) -> list[Layer]:
    """The parameters of some parts of a model as layers; those of the head are "other". A tied one counts once. Of a
    model with an adapter they are the weights that it lies beside."""
    names = frozenset(name for name, _ in model.named_parameters()) if model.adapter is None else model.adapter.weights
    return [Layer(name=f"{place}.{leaf}", kind=_kind(module) if leaf == "weight" else "other",
                  is_leaf=next(module.children(), None) is None)
            for place, module in model.named_modules() if place.partition(".")[0] in parts
            for leaf, _ in module.named_parameters(recurse=False) if f"{place}.{leaf}" in names]


def _kind(module: nn.Module) -> Literal["linear", "conv", "other"]:
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv" if isinstance(module, nn.modules.conv._ConvNd) else "other"


def _tensors(model: Model, parts: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in named_tensors(model).items() if name.partition(".")[0] in parts}


@torch.no_grad()
def recalibrate(model: Model, data: Dataset) -> None:
    """Measure running statistics anew on some rows: the mean over batches, without augmentation or dropout."""
    layers = [module for module in model.body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for batch in data.batches(_ROWS):
        if len(batch.y) > 1:
            model.body(model.preprocess(batch.raw))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, is_training in modes.items():
        module.training = is_training
