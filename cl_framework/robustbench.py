"""Networks of RobustBench, trained already, from the package `robustbench` where it is installed.

The last linear layer becomes the head and everything below it the body; that the two compose to the original network
is checked when it is built. These networks take pixels in [0, 1] and normalise by themselves. Croce et al.,
"RobustBench: a standardized adversarial robustness benchmark", NeurIPS 2021, arXiv 2010.09670.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from cl_framework.errors import ConfigError
from cl_framework.models import Architecture, Head, Model, image_channels
from cl_framework.preprocess import Preprocess
from cl_framework.sources import cache_folder
from cl_framework.types import StreamInfo


@dataclass(kw_only=True)
class RobustBench(Architecture):
    """A network of RobustBench with its weights, for `scenario.source=model`. Needs the package `robustbench`."""

    brings_weights: ClassVar[bool] = True

    network: str = "Standard"
    """Its name there: `Standard` (WideResNet-28-10), `Hendrycks2020AugMix_ResNeXt`, `Standard_R50`, ..."""
    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10"
    """What it was trained on."""
    threat_model: Literal["corruptions", "Linf", "L2"] = "corruptions"
    """Which leaderboard it stands in."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The network below its classifier."""
        image_channels(input_shape, "robustbench")
        body, classifier = _cut(self._network(), self.network)
        return body, classifier.in_features

    def build(self, info: StreamInfo) -> Model:
        """The trained network, body and head.

        Raises:
            ConfigError: the package is not there, it has no such network, its weights cannot be had, or it answers
                for other classes than the stream has.
        """
        image_channels(info.input_shape, "robustbench")
        network = self._network().eval()
        images = torch.linspace(0, 1, 2 * _size(info.input_shape)).view(2, *info.input_shape)
        with torch.no_grad():
            whole = network(images)
        body, classifier = _cut(network, self.network)
        if classifier.out_features != info.n_classes:
            raise ConfigError(f"model.network={self.network} answers for {classifier.out_features} classes, the stream "
                              f"has {info.n_classes}; choose model.dataset")
        head = Head(classifier.in_features, info.n_classes, is_full=self.head == "full")
        head.weight.data.copy_(classifier.weight.data)
        head.bias.data.copy_(torch.zeros_like(head.bias) if classifier.bias is None else classifier.bias.data)
        model = Model(Preprocess((0.0,), (1.0,), info.augment), body, head).eval()
        with torch.no_grad():
            halves = nn.functional.linear(body(images), head.weight, head.bias)
        if not torch.allclose(whole, halves, atol=1e-4, rtol=1e-4):
            raise ConfigError(f"model.network={self.network} does not end in a linear classifier; choose another one")
        return model.train()

    def _network(self) -> nn.Module:
        folder = cache_folder() / "robustbench"
        try:
            zoo: Any = importlib.import_module("robustbench.utils")
        except ImportError as error:
            raise ConfigError(f"model=robustbench needs its package ({error}); install it: pip install robustbench"
                              ) from error
        try:
            network = zoo.load_model(model_name=self.network, model_dir=str(folder), dataset=self.dataset,
                                     threat_model=self.threat_model)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"RobustBench has no network {self.network} for {self.dataset} and {self.threat_model} "
                              f"({type(error).__name__}: {error}); its leaderboard lists them") from error
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"the weights of {self.network} cannot be had ({error}); download them where there is a "
                              f"network, and copy the folder {folder}") from error
        assert isinstance(network, nn.Module)
        return network


def _cut(network: nn.Module, name: str) -> tuple[nn.Module, nn.Linear]:
    """The network without its last linear layer, and that layer."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(f"model.network={name} does not end in a linear classifier; choose another one")
    classifier = network.get_submodule(linear[-1])
    assert isinstance(classifier, nn.Linear)
    parent, _, own = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    return network, classifier


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
