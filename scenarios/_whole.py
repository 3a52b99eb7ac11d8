"""The layer of whole data sets: each experience is a data set with classes of its own.

Literature: Ebrahimi et al., Adversarial continual learning, ECCV 2020, section 5 (a sequence of five data sets);
van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734 (class- and task-incremental).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from cl_framework import (
    ConfigError,
    DataError,
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
from cl_framework.registry import find
from cl_framework.seeding import generator
from cl_framework.sources import ImageSet

from ._balanced import balanced
from ._cut import Labelled, row_shape
from ._domains import registered


@dataclass(kw_only=True)
class WholeSets(Scenario):
    """Data sets one after the other, their classes apart. Abstract: a final class says what their rows must be."""

    sources: list[str] = field(default_factory=list)
    """Data sets that `clf data` lists, in their natural order; each is an experience."""
    incremental: Literal["task", "class"] = "task"
    """What is told at test time: the data set (`task`), or nothing (`class`)."""
    n_train: int = bounded(2000, low=0)
    """Training rows that are taken of each data set, as many of each class as can be; 0 takes all."""
    n_test: int = bounded(1000, low=0)
    """Held-out rows that are taken of each data set, in the same way; 0 takes all."""
    subset_seed: int = 0
    """Which rows are taken."""

    @abstractmethod
    def refuse(self, name: str, shape: tuple[int, ...]) -> None:
        """Look at the shape of a data set's rows.

        Raises:
            ConfigError: they are not what this scenario is made of.
        """

    @abstractmethod
    def shown(self, data: Labelled) -> Labelled:
        """The chosen rows of a data set as the stream shows them, all of one shape."""

    @abstractmethod
    def moments(self, first: Labelled) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation that rows are normalised by, given the first data set of the order as it is shown."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase: its half of the classes of every data set; `order_seed` shuffles the data sets."""
        setting = Setting(self.incremental)
        whole = self._read()
        pools = {name: self._pool(data, phase, setting) for name, data in whole.items()}
        self._check_numbers({name: len(pool) for name, pool in pools.items()})
        parts: list[Part] = []
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        start = 0
        for index, name in enumerate(_ordered(list(whole), order_seed)):
            pool, classes = pools[name], tuple(range(start, start + len(pools[name])))
            data = self.shown(self._chosen(whole[name], pool))
            label_of = torch.full((len(data.class_names),), -1)
            label_of[pool.start:pool.stop] = torch.tensor(classes)
            task = index if setting is Setting.TASK else None
            train, test = (torch.arange(len(y)) for y in (data.images.train_y, data.images.test_y))
            parts.append(Part(
                train=data.train(train, label_of, task), test=data.test(test, label_of, task), classes=classes,
                class_names=tuple(f"{name}: {data.class_names[original]}" for original in pool), name=name))
            if index == 0:
                mean, std = self.moments(data)
            start += len(pool)
        info = StreamInfo(n_experiences=len(parts), n_classes=start, setting=setting, mean=mean, std=std,
                          input_shape=row_shape(parts[0].train),
                          offers=self.offers | {Need.TASK_LABELS} if setting is Setting.TASK else self.offers)
        return ResidentStream(info, parts, is_task_aware=setting is Setting.TASK,
                              provenance={name: data.images.digest for name, data in whole.items()})

    def _read(self) -> dict[str, Labelled]:
        """The data sets by name; all names are looked up before any data is read."""
        twice = ConfigError(f"scenario.sources={self.sources} must name at least one data set, and none twice")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise twice
        for source in self.sources:
            find("dataset", source)
        read: dict[str, Labelled] = {}
        for source in self.sources:
            data = registered(source)
            if data.name in read:
                raise twice
            self.refuse(data.name, tuple(data.images.train_x.shape[1:]))
            read[data.name] = data
        return read

    def _pool(self, data: Labelled, phase: Phase, setting: Setting) -> range:
        """The original labels of a phase."""
        pool = phase_classes(len(data.class_names), phase)
        if len(pool) == 1 and setting is Setting.TASK:
            raise ConfigError(f"a single class of {data.name} is in phase={Phase(phase)}, which leaves nothing to tell "
                              "apart once the task is told; leave it out of scenario.sources, or take "
                              "scenario.incremental=class or phase=single")
        for part, y in (("training", data.images.train_y), ("test", data.images.test_y)):
            for original in sorted(set(pool) - set(y.unique().tolist())):
                raise DataError(f"class {data.class_names[original]!r} of {data.name} has no {part} rows; add some, "
                                "or leave the data set out of scenario.sources")
        return pool

    def _check_numbers(self, n_classes: dict[str, int]) -> None:
        """Refuse to take fewer rows than a data set has classes."""
        name = max(n_classes, key=n_classes.__getitem__)
        faults = [f"scenario.{key}={n} is fewer than the {n_classes[name]} classes of {name} in this phase; take at "
                  f"least {n_classes[name]}, or 0 for all rows"
                  for key, n in (("n_train", self.n_train), ("n_test", self.n_test)) if 0 < n < n_classes[name]]
        if faults:
            raise ConfigError(faults)

    def _chosen(self, data: Labelled, pool: range) -> Labelled:
        """A data set of the rows that are taken, in the order of the file."""
        images = data.images
        train, test = (balanced(y, pool, n, self.subset_seed, "subset", data.name, part) for part, y, n in (
            ("train", images.train_y, self.n_train), ("test", images.test_y, self.n_test)))
        return replace(data, images=ImageSet(
            train_x=_rows(images.train_x, train), train_y=images.train_y[train],
            test_x=_rows(images.test_x, test), test_y=images.test_y[test], digest=images.digest))


def _ordered(names: list[str], order_seed: int | None) -> list[str]:
    if order_seed is None:
        return names
    order = torch.randperm(len(names), generator=generator(order_seed, "data sets"))
    return [names[at] for at in order.tolist()]


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """A copy of the rows; the store itself where all of them are taken."""
    return x if len(rows) == len(x) else x.index_select(0, rows)
