"""Any classic benchmark of Avalanche.

Literature: Carta et al., Avalanche: a PyTorch library for deep continual learning, JMLR 24(363), 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cl_framework import (
    ConfigError,
    Dataset,
    Need,
    Part,
    Phase,
    ResidentStream,
    Scenario,
    Setting,
    Stream,
    StreamInfo,
    bounded,
    phase_classes,
)

from ._avalanche import Classic, open_classic
from ._cut import Labelled, cut
from ._sizes import experience_sizes


@dataclass(kw_only=True)
class Avalanche(Scenario):
    """A benchmark of `avalanche.benchmarks.classic`, its experiences read once into resident tensors.

    It is task-incremental if its experiences carry different task labels, domain-incremental if all have the same
    classes, class-incremental otherwise. Rows are what its evaluation transform makes of them.

    Literature: Carta et al., Avalanche: a PyTorch library for deep continual learning, JMLR 24(363), 2023.
    """

    benchmark: str = "SplitMNIST"
    """Name of the benchmark, e.g. SplitCUB200, CORe50, PermutedMNIST."""
    n_experiences: int = bounded(5, low=1)
    """Number of experiences, where the benchmark lets one choose."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Passed on to the benchmark, e.g. `dataset_root` or `return_task_id`."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase. Tuning and evaluation cut the classes of a class-incremental benchmark anew."""
        classic = open_classic(self.benchmark, self.n_experiences, order_seed, self.arguments)
        setting = _setting(classic)
        if phase == Phase.SINGLE:
            parts = _parts(classic, setting)
        elif setting is Setting.CLASS and _is_disjoint(classic):
            parts = self._half(classic, phase, order_seed)
        else:
            raise ConfigError(f"avalanche's {self.benchmark} is not class-incremental with disjoint classes, so it has "
                              "no tuning and evaluation halves; use phase=single (`clf train`), or a split scenario "
                              "such as split_fashion, split_cifar100 or custom")
        labels = [label for part in parts for label in part.classes]
        offers = self.offers | {Need.TASK_LABELS} if setting is Setting.TASK else self.offers
        info = StreamInfo(n_experiences=len(parts), n_classes=max(labels) + 1, setting=setting, offers=offers,
                          input_shape=tuple(classic.images.train_x.shape[1:]), mean=classic.mean, std=classic.std)
        return ResidentStream(info, parts, is_task_aware=setting is Setting.TASK,
                              provenance={f"avalanche {self.benchmark}": classic.images.digest})

    def _half(self, classic: Classic, phase: Phase, order_seed: int | None) -> list[Part]:
        images = classic.images
        known, train_y = torch.unique(images.train_y, return_inverse=True)
        keep = torch.isin(images.test_y, known)
        if not bool(keep.all()):
            raise ConfigError(f"avalanche's {self.benchmark} tests classes that it never trains; use phase=single")
        relabelled = replace(images, train_y=train_y, test_y=torch.searchsorted(known, images.test_y))
        pool = phase_classes(len(known), phase)
        sizes = experience_sizes(len(pool), n_experiences=self.n_experiences, default=self.n_experiences)
        data = Labelled(name=self.benchmark, images=relabelled, class_names=tuple(str(int(label)) for label in known))
        return cut(data, pool, sizes, order_seed, Setting.CLASS)


def _classes(classic: Classic) -> list[list[int]]:
    return [torch.unique(classic.images.train_y[rows]).tolist() for rows in classic.train]


def _is_disjoint(classic: Classic) -> bool:
    classes = _classes(classic)
    return sum(map(len, classes)) == len({label for labels in classes for label in labels})


def _setting(classic: Classic) -> Setting:
    if 1 < len(set(classic.tasks)) < len(classic.tasks):
        raise ConfigError("this benchmark gives one task label to several experiences, which cannot be told from new "
                          "tasks here; take a benchmark with one task an experience, or without task labels")
    if len(set(classic.tasks)) > 1:
        return Setting.TASK
    classes = _classes(classic)
    is_domain = len(classes) > 1 and all(labels == classes[0] for labels in classes)
    return Setting.DOMAIN if is_domain else Setting.CLASS


def _parts(classic: Classic, setting: Setting) -> list[Part]:
    """The experiences as Avalanche cuts them, labels renumbered in order of appearance (of task and label)."""
    label_of: dict[tuple[int, int], int] = {}
    parts = []
    images = classic.images
    for index, (originals, train, test) in enumerate(zip(_classes(classic), classic.train, classic.test, strict=True)):
        task = index if setting is Setting.TASK else None
        own = {original: label_of.setdefault((task or 0, original), len(label_of)) for original in originals}
        parts.append(Part(train=_rows(images.train_x, images.train_y, train, own, task),
                          test=_rows(images.test_x, images.test_y, test, own, task),
                          classes=tuple(own.values()), class_names=tuple(str(original) for original in originals)))
    return parts


def _rows(raw: Tensor, y: Tensor, rows: Tensor, label_of: Mapping[int, int], task: int | None) -> Dataset:
    """The rows of the experience's own classes: one test part for all experiences is cut down to these."""
    labels = torch.tensor([label_of.get(label, -1) for label in y[rows].tolist()], dtype=torch.int64)
    rows, labels = rows[labels >= 0], labels[labels >= 0]
    return Dataset(raw, labels, rows, None if task is None else torch.full_like(rows, task))
