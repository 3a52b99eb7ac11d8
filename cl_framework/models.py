"""What is trained: preprocess, body, head. Architectures build a body; the head knows the classes seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, check_ranges
from cl_framework.functional import cross_entropy
from cl_framework.preprocess import Preprocess
from cl_framework.types import Batch, Inputs, Output, StreamInfo

if TYPE_CHECKING:
    from cl_framework.adapters import Adapter


class Head(nn.Module):
    """A linear classifier over the classes seen.

    Args:
        n_features: D.
        n_classes: rows that are allocated; 0 lets the head grow with `grow`.
        is_full: answer for all of them from the beginning.
    """

    def __init__(self, n_features: int, n_classes: int, is_full: bool = False) -> None:
        super().__init__()
        self.is_growing = n_classes == 0
        self.n_seen = n_classes if is_full else 0
        weight, bias = self._rows(n_classes, n_features)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def _rows(self, n: int, n_features: int) -> tuple[Tensor, Tensor]:
        bound = 1 / math.sqrt(n_features)
        return torch.empty(n, n_features).uniform_(-bound, bound), torch.empty(n).uniform_(-bound, bound)

    def grow(self, n_seen: int) -> None:
        """Answer for the first `n_seen` classes from now on; old rows keep their values."""
        if self.is_growing and n_seen > len(self.weight):
            weight, bias = self._rows(n_seen - len(self.weight), self.weight.shape[1])
            self.weight = nn.Parameter(torch.cat([self.weight.detach(), weight.to(self.weight)]))
            self.bias = nn.Parameter(torch.cat([self.bias.detach(), bias.to(self.bias)]))
        self.n_seen = max(self.n_seen, n_seen)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, n_seen] of features [B, D]."""
        if self.n_seen == len(self.weight):
            return F.linear(features, self.weight, self.bias)
        return F.linear(features, self.weight[: self.n_seen], self.bias[: self.n_seen])


class Model(nn.Module):
    """A network on a stream.

    Labels are numbered in order of appearance, so the classes seen are always the first `n_seen`, and so are the
    rows of the head that answer. A *whole* head is allocated once (the optimizer's shapes never change); a
    *growing* one gets new rows with `observe`. A *full* head answers for every class of the stream from the
    beginning: classes that are still to come take part in the softmax, as in much published code.

    Args:
        preprocess: raw rows to what the body sees.
        body: the network below the head; what is merged, adapted and given importance.
        head: the classifier.

    Attributes:
        adapter: what is trained beside the weights of the body; None where the weights themselves are.
        channels_last: images are handed to the body pixel by pixel, all channels of one together.
        graph: computes the body's features in its place, given the body and rows, while a step of training lasts.
    """

    adapter: Adapter | None = None
    channels_last: bool = False
    graph: Callable[[nn.Module, Inputs], Tensor] | None = None

    def __init__(self, preprocess: nn.Module, body: nn.Module, head: Head) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.body = body
        self.head = head
        self._tasks: dict[int, tuple[int, ...]] = {}

    @property
    def n_seen(self) -> int:
        """How many classes the logits cover."""
        return self.head.n_seen

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def observe(self, classes: Sequence[int], task: int | None = None) -> None:
        """Meet the classes of an experience: logits cover them from now on."""
        self.head.grow(max(classes) + 1)
        if task is not None:
            self._tasks[task] = tuple(classes)

    def allowed(self, task: Tensor | None) -> Tensor | None:
        """Which classes each row may answer with, bool [B, n_seen]; None where no task label is given."""
        if task is None:
            return None
        table = torch.zeros(max(self._tasks) + 1, self.n_seen, dtype=torch.bool)
        for index, classes in self._tasks.items():
            table[index, list(classes)] = True
        return table.to(task.device)[task]

    def forward(self, x: Inputs) -> Output:
        """Logits over the classes seen and features of B preprocessed rows."""
        if self.channels_last and isinstance(x, Tensor) and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.body(x) if self.graph is None else self.graph(self.body, x)
        return Output(self.head(features), features)

    def loss(self, batch: Batch, output: Output, allowed: Tensor | None = None) -> Tensor:
        """The supervised loss of this kind of model, a scalar: the mean cross-entropy of the labels.

        Args:
            batch: preprocessed rows.
            output: what the model says of them.
            allowed: classes that take part in the softmax, bool [B, n_seen] or [n_seen]; by default those of a row's
                task where it has a task label, else all classes seen.
        """
        return cross_entropy(output.logits, batch.y, self.allowed(batch.task) if allowed is None else allowed)

    def fold(self) -> None:
        """Add what lies beside the weights, an adapter's update, to them; by default nothing does."""

    def respond(self, prompts: Sequence[str]) -> list[str]:
        """Texts that answer prompts, drawn with torch's global generator.

        Raises:
            ConfigError: the model answers no text.
        """
        raise ConfigError("the model answers no text; take a language model, such as model=smollm2")

    def get_extra_state(self) -> dict[str, Any]:
        """How far the head has grown, and the classes of each task."""
        return {"n_seen": self.n_seen, "tasks": {k: list(v) for k, v in self._tasks.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` returned."""
        self.head.n_seen = state["n_seen"]
        self._tasks = {int(k): tuple(v) for k, v in state["tasks"].items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; a growing head first gets the size that it had."""
        self.head.grow(int(state_dict["_extra_state"]["n_seen"]))
        return super().load_state_dict(state_dict, strict, assign)


@dataclass(kw_only=True)
class Architecture(ABC):
    """A family of networks: `model=` on the command line. Its fields are its configuration."""

    brings_weights: ClassVar[bool] = False
    """Its networks are trained already, body and head."""
    speaks: ClassVar[bool] = False
    """It takes rows of prompt and answer, and answers in text."""

    head: Literal["whole", "growing", "full"] = "whole"
    """Rows of the head: allocated once and used as classes appear, added with every experience, or all used from the
    beginning (also those of classes still to come)."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The network below the head for rows of one shape, and the number of features that it returns.

        Raises:
            ConfigError: the network cannot take rows of this shape.
        """

    def build(self, info: StreamInfo) -> Model:
        """A freshly initialised model for a stream (it draws from torch's global generator)."""
        body, n_features = self.body(info.input_shape)
        head = Head(n_features, 0 if self.head == "growing" else info.n_classes, is_full=self.head == "full")
        return Model(Preprocess(info.mean, info.std, info.augment), body, head)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors; a training batch of one row, which has no variance, uses the running statistics
    and leaves them as they are (torch's own refuses it)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised rows [B, D]."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


@dataclass(kw_only=True)
class MLP(Architecture):
    """Fully connected layers with ReLU, over flattened rows of any shape."""

    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Width of each hidden layer."""
    dropout: float = bounded(0.0, low=0.0, high=1.0)
    """Probability of dropping a hidden unit."""
    init: Literal["default", "xavier"] = "default"
    """Initial weights of all layers and of the head: torch's uniform of 1/sqrt(fan in) for weights and biases, or
    Glorot's uniform for weights and 0 for biases (Glorot and Bengio, AISTATS 2010, equation 16)."""
    norm: Literal["none", "batch"] = "none"
    """Batch normalisation between each layer and its ReLU."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """Flatten, then Linear and ReLU for each width."""
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"model.hidden must list at least one width of 1 or more, got {self.hidden}")
        widths = [math.prod(input_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(widths):
            layers.append(nn.Linear(n_in, n_out))
            if self.norm == "batch":
                layers.append(BatchNorm(n_out))
            layers.append(nn.ReLU())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers), widths[-1]

    def build(self, info: StreamInfo) -> Model:
        """A freshly initialised model for a stream."""
        model = super().build(info)
        if self.init == "xavier":
            for layer in (module for module in model.modules() if isinstance(module, nn.Linear | Head)):
                if len(layer.weight):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        return model


@dataclass(kw_only=True)
class CNN(Architecture):
    """A small convolutional network: 3x3 convolutions with batch normalisation, halved by max-pooling."""

    channels: list[int] = field(default_factory=lambda: [32, 64])
    """Channels of each block."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """Conv, batch norm, ReLU and pooling for each block, then the mean over positions."""
        n_in = image_channels(input_shape, "cnn")
        layers: list[nn.Module] = []
        for n_out in self.channels:
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
                       nn.MaxPool2d(2, ceil_mode=True)]
            n_in = n_out
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()), n_in * 4


def image_channels(input_shape: tuple[int, ...], name: str) -> int:
    """The channels of an image's shape.

    Raises:
        ConfigError: the rows are no images.
    """
    if len(input_shape) != 3:
        raise ConfigError(f"model '{name}' takes images (channels, height, width), but the scenario's rows have shape "
                          f"{input_shape}; use model=mlp")
    return input_shape[0]
