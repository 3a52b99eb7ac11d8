"""Residual networks for small images, without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.fields import bounded
from cl_framework.models import Architecture, image_channels


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that uses its running statistics where a batch has a single value a channel."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised activations, [B, C, H, W]."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm(n_out)
        self.shortcut: Callable[[Tensor], Tensor] = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), BatchNorm(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_in, H, W] to [B, n_out, H / stride, W / stride]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def residual_body(n_channels: int, width: int) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no max-pooling: stages of 2 blocks at width times 1, 2, 4, 8."""
    layers: list[nn.Module] = [nn.Conv2d(n_channels, width, 3, 1, 1, bias=False), BatchNorm(width), nn.ReLU()]
    n_in = width
    for stage in range(4):
        n_out = width * 2**stage
        layers += [Block(n_in, n_out, 1 if stage == 0 else 2), Block(n_out, n_out, 1)]
        n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(kw_only=True)
class ResNet18(Architecture):
    """ResNet-18 for 32x32 images: 64 filters, 3x3 stem, no max-pooling (He et al., CVPR 2016)."""

    width: int = bounded(64, low=1)
    """Filters of the first stage."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The residual stages and the mean over positions."""
        return residual_body(image_channels(input_shape, "resnet18"), self.width), self.width * 8


@dataclass(kw_only=True)
class SlimResNet18(Architecture):
    """The reduced ResNet-18 of GEM, 20 filters (Lopez-Paz & Ranzato, NeurIPS 2017, section 5.1)."""

    width: int = bounded(20, low=1)
    """Filters of the first stage."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The residual stages and the mean over positions."""
        return residual_body(image_channels(input_shape, "slim_resnet18"), self.width), self.width * 8
