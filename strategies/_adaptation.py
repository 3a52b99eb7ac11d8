"""Test-time adaptation: the weights that a strategy learns from unlabelled rows.

A stream of unlabelled batches is answered and adapted to, batch after batch, with no notice of a change: "continual
test-time adaptation" (Wang et al., CVPR 2022, arXiv 2203.13591).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.functional import cross_entropy
from cl_framework.models import Model
from cl_framework.types import Inputs, StreamInfo

from ._statistics import by_batch, normalised_by

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_REFERENCE_BATCH = 200

Rule = Literal["adam", "sgd", "nesterov"]


def unlabelled(name: str, info: StreamInfo) -> None:
    """Refuse a stream that is learned with labels.

    Raises:
        ConfigError: names a scenario that fits.
    """
    if info.is_labelled:
        raise ConfigError(f"{name} adapts to an unlabelled stream of test rows, but this scenario's rows come with "
                          "labels; use scenario=corrupted, or a strategy that learns from labels")


def several_rows(name: str, info: StreamInfo) -> None:
    """Refuse to take batch statistics of one row.

    Raises:
        ConfigError: says which batch size or strategy to take.
    """
    if info.batch_size == 1:
        raise ConfigError(f"{name} normalises with the statistics of a batch, and a batch of one row has none; set "
                          "scenario.batch_size=64 or more, or use strategy=rotta or strategy=bn_stats "
                          "strategy.bn_stats.statistics=moving")


def norm_weights(name: str, model: Model) -> dict[str, nn.Parameter]:
    """Scale and shift of the normalisation layers, by parameter name.

    Raises:
        ConfigError: the model has no such layer.
    """
    found = {f"{place}.{leaf}": param for place, layer in model.named_modules() if isinstance(layer, _NORMS)
             for leaf, param in layer.named_parameters(recurse=False)}
    if not found:
        raise ConfigError(f"{name} adapts the scale and shift of normalisation layers, and this model has none; set "
                          "model=cnn, model=slim_resnet18 or model.norm=batch (of mlp), or use strategy=cotta")
    return found


def all_weights(model: Model) -> dict[str, nn.Parameter]:
    """Every parameter that is called weight or bias, as in the released code of CoTTA and PSMT, by name."""
    return {name: param for name, param in model.named_parameters() if name.rpartition(".")[2] in ("weight", "bias")}


def meet_classes(model: Model, *copies: Model | None) -> None:
    """Let copies that were made before the model met its classes answer for them too."""
    for own in copies:
        if own is not None:
            own.set_extra_state(model.get_extra_state())


def by_batch_in(model: Model) -> AbstractContextManager[None]:
    """Inside, the model normalises with the statistics of the batch."""
    return normalised_by(model, by_batch)


def batch_logits(model: Model, x: Inputs) -> Tensor:
    """Logits [B, C] with the statistics of the batch."""
    with by_batch_in(model):
        logits: Tensor = model(x).logits
    return logits


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of each row in nats, [B].

    >>> entropy(torch.zeros(1, 2))
    tensor([0.6931])
    """
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-sum_c q_c log p_c of each row, [B]; p and q are the softmax of `logits` and of `target`."""
    return -(target.softmax(1) * F.log_softmax(logits, 1)).sum(1)


def source_rows(name: str, experience: Experience) -> Dataset:
    """The labelled rows that the model was trained on, kept before the first experience of the stream.

    Raises:
        ConfigError: there are none.
    """
    if not experience.history:
        raise ConfigError(f"{name} measures its Fisher on source rows, and the scenario gives none; set "
                          f"strategy.{name}.fisher=stream")
    return experience.history[0]


def answer_fisher(logits: Tensor, params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The squared gradient of a batch's mean cross-entropy with its own answers as labels, B/200 times as in
    `batch_fisher`; the graph of the logits is kept."""
    loss = cross_entropy(logits, logits.detach().argmax(1))
    slopes = torch.autograd.grad(loss, list(params.values()), retain_graph=True, materialize_grads=True)
    return {name: slope.square() * (len(logits) / _REFERENCE_BATCH)
            for name, slope in zip(params, slopes, strict=True)}


class Adapted:
    """The weights that adapt, with their optimizer; the rest of the model is frozen.

    Args:
        params: the weights by name; they stay the model's own.
        rule: "adam" (beta_2 0.999), "sgd" (with momentum) or "nesterov" (the same, looking ahead).
        beta: beta_1 of Adam, momentum of the others.
        weight_decay: added to the gradient, times the weight.
    """

    def __init__(self, model: Model, params: Mapping[str, nn.Parameter], rule: Rule, lr: float, *, beta: float = 0.9,
                 weight_decay: float = 0.0) -> None:
        model.requires_grad_(False)
        self.params = dict(params)
        for param in self.params.values():
            param.requires_grad_(True)
        self._rule, self._lr, self._beta, self._decay = rule, lr, beta, weight_decay
        self.optimizer = self._fresh()

    def _fresh(self) -> Optimizer:
        if self._rule != "adam":
            return torch.optim.SGD(self.params.values(), self._lr, momentum=self._beta, weight_decay=self._decay,
                                   nesterov=self._rule == "nesterov" and self._beta > 0, fused=True)
        return torch.optim.Adam(self.params.values(), self._lr, (self._beta, 0.999), weight_decay=self._decay,
                                fused=True)

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        loss.backward()
        self.apply()

    def apply(self) -> None:
        """One step with the gradients that are there; they are gone afterwards."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def copied(self) -> dict[str, Tensor]:
        """A copy of the weights as they are."""
        return {name: param.detach().clone() for name, param in self.params.items()}

    @torch.no_grad()
    def restart(self, weights: Mapping[str, Tensor]) -> None:
        """Take these weights, and a fresh optimizer."""
        for name, param in self.params.items():
            param.copy_(weights[name])
        self.optimizer = self._fresh()

    @property
    def n_bytes(self) -> int:
        """Bytes of the optimizer's moments."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(value.numel() * value.element_size() for value in moments if isinstance(value, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the optimizer's state; the weights are the model's."""
        return copy.deepcopy(self.optimizer.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.optimizer.load_state_dict(copy.deepcopy(state))
