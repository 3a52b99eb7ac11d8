"""The domain layer: the same classes in one domain after the other.

Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734, section 3 (permuted MNIST
as domain-, task- and class-incremental).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cl_framework import (
    ConfigError,
    Need,
    Part,
    Phase,
    ResidentStream,
    Scenario,
    Setting,
    Source,
    Stream,
    StreamInfo,
    phase_classes,
)
from cl_framework.registry import load
from cl_framework.seeding import generator

from ._cut import Labelled, moments, row_shape


@dataclass(kw_only=True)
class Domains(Scenario):
    """Experiences that bring new domains of the same classes. Abstract: a final class says which domains."""

    incremental: Literal["domain", "task", "class"] = "domain"
    """`domain`: all experiences share their labels; `task`: each has its own, and the task is told; `class`: each has
    its own, and nothing is told."""
    is_online: bool = False
    """Every row is seen once, and answered before it is learned."""
    normalise: bool = True
    """Subtract the mean of the first data set and divide by its deviation; false leaves raw/255."""

    @abstractmethod
    def domains(self, phase: Phase) -> Mapping[str, Labelled]:
        """The domains by name, in their natural order; label i has the same meaning in each.

        Raises:
            ConfigError: the fields ask for domains that the data cannot give.
            DataError: the data cannot be had or is damaged.
        """

    def keeps_first(self) -> bool:
        """Whether the first domain stays the first in any order."""
        return False

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase: its half of the classes in every domain; `order_seed` shuffles the domains."""
        setting = Setting(self.incremental)
        domains = self.domains(phase)
        order = _shuffled(list(domains), order_seed, int(self.keeps_first()))
        first = domains[order[0]]
        pool = phase_classes(len(first.class_names), phase)
        parts: list[Part] = []
        rows: dict[int, tuple[Tensor, Tensor]] = {}
        for index, name in enumerate(order):
            data = domains[name]
            start = 0 if setting is Setting.DOMAIN else index * len(pool)
            label_of = torch.full((len(data.class_names),), -1)
            label_of[pool.start:pool.stop] = torch.arange(start, start + len(pool))
            if id(data.images) not in rows:
                rows[id(data.images)] = _rows_of(data, label_of)
            train, test = rows[id(data.images)]
            task = index if setting is Setting.TASK else None
            named = [data.class_names[original] for original in pool]
            parts.append(Part(
                train=data.train(train, label_of, task), test=data.test(test, label_of, task),
                classes=tuple(range(start, start + len(pool))),
                class_names=tuple(named if setting is Setting.DOMAIN else [f"{name}: {each}" for each in named])))
        mean, std = moments(parts[0].train) if first.mean is None or first.std is None else (first.mean, first.std)
        if not self.normalise:
            mean, std = (0.0,), (1.0,)
        augments = {data.augment for data in domains.values()}
        info = StreamInfo(n_experiences=len(parts), n_classes=parts[-1].classes[-1] + 1, setting=setting,
                          input_shape=row_shape(parts[0].train), is_online=self.is_online, mean=mean, std=std,
                          offers=self.offers | {Need.TASK_LABELS} if setting is Setting.TASK else self.offers,
                          augment=augments.pop() if len(augments) == 1 else "none")
        return ResidentStream(info, parts, is_task_aware=setting is Setting.TASK,
                              provenance={data.name: data.images.digest for data in domains.values()})

    def recipe(self) -> dict[str, object]:
        """One epoch when every row may be seen once only."""
        return {"epochs": 1} if self.is_online else {}


def _shuffled(names: list[str], order_seed: int | None, n_fixed: int) -> list[str]:
    if order_seed is None:
        return names
    order = torch.randperm(len(names) - n_fixed, generator=generator(order_seed, "domains"))
    return names[:n_fixed] + [names[n_fixed + at] for at in order.tolist()]


def _rows_of(data: Labelled, label_of: Tensor) -> tuple[Tensor, Tensor]:
    """The training and the held-out rows whose class is in the phase."""
    return (torch.nonzero(label_of[data.images.train_y] >= 0).flatten(),
            torch.nonzero(label_of[data.images.test_y] >= 0).flatten())


def registered(name: str) -> Labelled:
    """A registered data set (`clf data` lists them).

    Raises:
        ConfigError: there is none of that name.
        DataError: it cannot be had or is damaged.
    """
    source = load("dataset", name)
    if not isinstance(source, Source):
        raise ConfigError(f"data set '{name}' is {source!r}; expected a cl_framework.Source")
    return Labelled.of(source)


def registered_images(name: str) -> tuple[Labelled, tuple[int, int]]:
    """A registered data set of images, and their height and width.

    Raises:
        ConfigError: there is none of that name, or it holds no images.
        DataError: it cannot be had or is damaged.
    """
    data = registered(name)
    shape = data.images.train_x.shape
    if len(shape) != 4:
        raise ConfigError(f"scenario.images={name!r} holds rows of shape {tuple(shape[1:])}, not images; take one such "
                          "as mnist, fashion_mnist or digits")
    return data, (shape[2], shape[3])
