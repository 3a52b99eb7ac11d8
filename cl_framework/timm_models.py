"""Any network of timm by its name, with its own size, mean and deviation, pretrained or with random weights.

Its classifier is left out, and what it returns for an image are the features. Wightman, "PyTorch Image Models", 2019,
doi 10.5281/zenodo.4414861; `timm.list_models(pretrained=True)` lists the names.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from cl_framework.errors import ConfigError, DataError
from cl_framework.extras import load_extra
from cl_framework.fields import bounded
from cl_framework.models import Architecture, Model
from cl_framework.places import Url
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.resized import Resized, check_images
from cl_framework.types import StreamInfo


@dataclass(kw_only=True)
class Timm(Architecture):
    """A network of timm, with a fresh head."""

    network: str = "vit_tiny_patch16_224"
    """Its name there, with the tag of its weights where it has one: `vit_base_patch16_clip_224.openai`, `resnet50`."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """What it begins with; pretrained weights are fetched once."""
    image_size: int = bounded(0, low=0)
    """Side of the image that it sees, in pixels; 0 is the one that it was trained with."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The network without its classifier.

        Raises:
            ConfigError: the rows are no images, timm has no such network or weights, the size does not fit it, or the
                package is not installed.
            DataError: the weights cannot be had.
        """
        check_images(input_shape, "timm")
        timm, facts = self._facts()
        size = self._size(facts)
        options: dict[str, Any] = {"img_size": size} if self.image_size and facts.fixed_input_size else {}
        file = self._file(facts) if self.weights == "pretrained" else None
        if file is not None:
            options["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": False}
        try:
            network: nn.Module = timm.create_model(self.network, pretrained=file is not None, num_classes=0, **options)
            n_features = _n_features(network, size)
        except (SafetensorError, OSError) as error:
            raise DataError(f"the weights of {self.network} are damaged ({error}); remove {file} and give the same "
                            "command again") from error
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"model.network={self.network} cannot be built for images of side {size} ({error}); set "
                              "model.image_size=0, or take another network") from error
        return network, n_features

    def build(self, info: StreamInfo) -> Model:
        """Network and a fresh head."""
        model = super().build(info)
        facts = self._facts()[1]
        model.preprocess = Resized(self._size(facts), facts.mean, facts.std, info.augment,
                                   "bicubic" if facts.interpolation == "bicubic" else "bilinear")
        return model

    def _facts(self) -> tuple[Any, Any]:
        """timm, and what it says of the network.

        Raises:
            ConfigError: it has no such network or weights.
        """
        timm: Any = load_extra("timm", model="timm", extra="vision")
        name, _, tag = self.network.partition(".")
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else "timm.list_models() lists them"
            raise ConfigError(f"timm has no network '{name}'; {hint}")
        tags = [weights.partition(".")[2] for weights in timm.list_pretrained(name)]
        if tag and tag not in tags:
            raise ConfigError(f"timm has no weights '{tag}' for {name}; it has {', '.join(tags) or 'none'}")
        if self.weights == "pretrained" and not tags:
            raise ConfigError(f"timm has no pretrained weights for {name}; set model.weights=random")
        return timm, timm.get_pretrained_cfg(self.network)

    def _size(self, facts: Any) -> int:
        return self.image_size or int(facts.input_size[-1])

    def _file(self, facts: Any) -> Path:
        """The file of the weights, fetched where it is not there.

        Raises:
            ConfigError: they are not where timm's are.
            DataError: they cannot be had.
        """
        if not facts.hf_hub_id:
            raise ConfigError(f"the weights of {self.network} are not on the Hugging Face hub; take other weights")
        name = facts.hf_hub_filename or "model.safetensors"
        address = f"https://huggingface.co/{facts.hf_hub_id}/resolve/main/"
        files = PretrainedFiles(
            name=f"{facts.architecture}.{facts.tag}", sha256={name: ""}, place=Url(address, (name,)),
            by_hand=f"{address}{name} gives it where there is a network; or take model.weights=random")
        return files.path(name)


def _n_features(network: nn.Module, size: int) -> int:
    """How many features it returns for an image: measured."""
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, size, size))
    network.train()
    if features.dim() != 2:
        raise ValueError(f"it returns {tuple(features.shape)} for an image, and no vector")
    return int(features.shape[1])
