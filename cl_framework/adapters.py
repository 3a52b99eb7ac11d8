"""An adapter beside the weights of a network: low-rank updates that are trained while the weights stand still.

    y = (W + Delta) x,   Delta = (alpha / r) B A,   A [r, in], B [out, r]

B begins as 0, so that training begins with the network as it is. Hu et al., "LoRA: Low-Rank Adaptation of Large
Language Models", ICLR 2022, arXiv 2106.09685, section 4.1; the layers are those of the package `peft`.

Whatever reads weights, merging and diagnostics, sees the dense update Delta through `dense_weights` or after `fold`,
so that an update of low rank and one of full rank are measured alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.extras import load_extra
from cl_framework.models import Model

_NAME = "default"
_INNER = ".base_layer."
"""What peft puts into the name of a weight that an adapter lies beside."""


class Adapter:
    """The adapter of a network, of all its linear layers but the last.

    Args:
        network: gets the layers; its own weights are frozen.
        rank: r.
        alpha: scales the update by alpha / r.
        model: who needs the package, as `model=` names it.

    Attributes:
        layers: the adapted layers by the name of their module in the model.
    """

    def __init__(self, network: nn.Module, rank: int, alpha: float, model: str) -> None:
        peft = load_extra("peft", model=model, extra="llm")
        settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0, bias="none",
                                   task_type="CAUSAL_LM")
        peft.inject_adapter_in_model(settings, network, _NAME)
        kind = peft.tuners.lora.LoraLayer
        self.layers: dict[str, Any] = {f"body.{path}": layer for path, layer in network.named_modules()
                                       if isinstance(layer, kind)}

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network answers as it would without the adapter, and nothing of it is trained."""
        self._switch(False)
        try:
            yield
        finally:
            self._switch(True)

    def _switch(self, is_on: bool) -> None:
        for layer in self.layers.values():
            layer.enable_adapters(is_on)

    @torch.no_grad()
    def dense_delta(self) -> dict[str, Tensor]:
        """Delta of each adapted weight, [out, in], by the name that the weight has in a model without an adapter."""
        return {f"{path}.weight": layer.get_delta_weight(_NAME) for path, layer in self.layers.items()}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The frozen weights that the adapter lies beside, by their names in the model."""
        return {f"{path}{_INNER}weight": layer.get_base_layer().weight for path, layer in self.layers.items()}

    @staticmethod
    def owns(name: str) -> bool:
        """Whether a tensor of the model, by its name, is the adapter's."""
        return ".lora_A." in name or ".lora_B." in name

    @torch.no_grad()
    def fold(self) -> None:
        """Add Delta to the weights and begin anew with B = 0; the network answers as before."""
        for layer in self.layers.values():
            layer.get_base_layer().weight.add_(layer.get_delta_weight(_NAME))
            layer.lora_B[_NAME].weight.zero_()


def dense_weights(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The parameters as they act, by the names that they have in a model without an adapter, one at a time."""
    if model.adapter is None:
        yield from ((name, value.detach()) for name, value in model.named_parameters())
        return
    deltas: Mapping[str, Tensor] = model.adapter.dense_delta()
    for name, value in model.named_parameters():
        plain = name.replace(_INNER, ".")
        if plain in deltas:
            yield plain, value.detach() + deltas[plain]
        elif not model.adapter.owns(name):
            yield plain, value.detach()
