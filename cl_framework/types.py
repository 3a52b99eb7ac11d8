"""The small words that every hook speaks: batches, outputs, and facts about a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor

Inputs = Tensor | Mapping[str, Tensor]
"""What is stored or fed: one tensor of B rows, or a mapping of such tensors (token ids and their mask)."""

NOT_YET = torch.empty(0)
"""Stands for `Batch.x` until `Model.preprocess` has filled it in."""


class Need(StrEnum):
    """What a strategy cannot do without, and what a scenario may offer."""

    TASK_LABELS = "task_labels"
    HISTORY = "history"
    SOURCE_DATA = "source_data"
    PRETRAINED = "pretrained"
    TEXT = "text"
    UNLABELLED = "unlabelled"
    VERIFIER = "verifier"


class Phase(StrEnum):
    """Which stream of a scenario is opened. Tuning and evaluation share no class and no image."""

    TUNING = "tuning"
    EVALUATION = "evaluation"
    SINGLE = "single"


class Setting(StrEnum):
    """What changes from experience to experience, and what is told at test time."""

    CLASS = "class"
    TASK = "task"
    DOMAIN = "domain"


class Batch(NamedTuple):
    """B rows on their way through one step.

    Attributes:
        raw: what is stored (uint8 images, token ids, vectors), [B, ...]; buffers keep this.
        x: what the network sees, normalised and augmented; filled in after `prepare_batch`.
        y: labels in order of appearance, int64 [B].
        task: the task label of each row, int64 [B], or None where none is given.
    """

    raw: Inputs
    x: Inputs
    y: Tensor
    task: Tensor | None = None


class Output(NamedTuple):
    """What a model says of B rows: logits [B, classes seen] and the features before the head [B, D]."""

    logits: Tensor
    features: Tensor


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """Facts about a stream that a strategy and a model may know before it starts.

    Attributes:
        n_experiences: how many experiences will come.
        n_classes: how many labels there will be in all.
        input_shape: shape of one raw row, e.g. (1, 28, 28).
        setting: class-, task- or domain-incremental.
        is_online: every row is seen once, and answered before it is learned.
        offers: what the scenario gives beyond labelled rows.
        mean, std: per channel (or one number), in units of raw/255 for uint8 rows, else of raw.
        augment: the batched augmentation of training rows: "none", "crop" or "crop_flip".
        seed: the training seed, from which a strategy draws its own generators.
        is_labelled: its rows are learned with labels; else they reach a strategy through `adapt` alone.
        batch_size: rows of one step; of an unlabelled stream the scenario's, else the recipe's.
        n_rounds: how often the same experiences come round.
        is_language: a row is a mapping of two texts, `prompt` and `answer`, each as UTF-8 bytes, uint8 [B, n] padded
            with 0; its label says nothing, and `input_shape` is the two widths.
    """

    n_experiences: int
    n_classes: int
    input_shape: tuple[int, ...]
    setting: Setting = Setting.CLASS
    is_online: bool = False
    offers: frozenset[Need] = frozenset()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: str = "none"
    seed: int = 0
    is_labelled: bool = True
    batch_size: int = 0
    n_rounds: int = 1
    is_language: bool = False


def select(inputs: Inputs, rows: Tensor) -> Inputs:
    """Copy some rows: one `index_select` a tensor.

    >>> select(torch.tensor([10, 20, 30]), torch.tensor([2, 0]))
    tensor([30, 10])
    """
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, rows)
    return {name: value.index_select(0, rows) for name, value in inputs.items()}


def concat(first: Inputs, second: Inputs) -> Inputs:
    """Stack the rows of two inputs of one kind.

    Raises:
        TypeError: one is a tensor and the other a mapping.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        raise TypeError("cannot stack a tensor and a mapping of tensors")
    return {name: torch.cat([value, second[name]]) for name, value in first.items()}


def n_rows(inputs: Inputs) -> int:
    """Number of rows.

    >>> n_rows({"ids": torch.zeros(4, 7)})
    4
    """
    tensor = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    return int(tensor.shape[0])


def move(inputs: Inputs, device: torch.device) -> Inputs:
    """Put the rows on a device; nothing is copied when they are there already."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def n_bytes(inputs: Inputs) -> int:
    """Bytes that the tensors hold.

    >>> n_bytes(torch.zeros(3, 2, dtype=torch.uint8))
    6
    """
    tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
