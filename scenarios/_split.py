"""The split layer: one data set cut into experiences by its classes.

Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734 (class-, task- and
domain-incremental); Rebuffi et al., iCaRL, CVPR 2017 (even splits); Hou et al., LUCIR, CVPR 2019 (a base of half the
classes, then equal increments).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cl_framework import (
    ConfigError,
    DataError,
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
from cl_framework.sources import ImageSet

from ._avalanche import class_order


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A data set ready to be cut.

    Attributes:
        name: of the data set, for the record.
        images: its rows and original labels 0 to n - 1.
        class_names: the name of each label.
        mean, std: per channel; None where they are to be taken from the first experience.
        augment: "none" or "crop_flip".
    """

    name: str
    images: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"


def experience_sizes(n_classes: int, *, n_experiences: int, default: int, first: int = 0, step: int = 0,
                     sizes: Sequence[int] = ()) -> list[int]:
    """How many classes each experience brings.

    Args:
        n_classes: classes of the phase.
        n_experiences: for an even split; `default` when the user left it alone.
        default: what `n_experiences` is by default.
        first, step: for a base and equal increments; 0 when unset.
        sizes: for any other split; empty when unset.

    Raises:
        ConfigError: two kinds of split at once, or one that the classes do not allow.

    >>> experience_sizes(10, n_experiences=5, default=5)
    [2, 2, 2, 2, 2]
    >>> experience_sizes(10, n_experiences=5, default=5, first=4, step=3)
    [4, 3, 3]
    """
    if sizes and (first or step):
        raise ConfigError("scenario.sizes and scenario.first/scenario.step are two ways to say one thing; keep one")
    if sizes:
        result = list(sizes)
        if min(result) < 1 or sum(result) != n_classes:
            raise ConfigError(f"scenario.sizes={result} sums to {sum(result)}; give positive numbers of classes "
                              f"that sum to the {n_classes} classes of this phase")
    elif first or step:
        result = _base_and_increments(n_classes, first, step)
    else:
        return _even(n_classes, n_experiences)
    if n_experiences not in {default, len(result)}:
        raise ConfigError(f"scenario.n_experiences={n_experiences} contradicts the split {result}, which has "
                          f"{len(result)} experiences; leave scenario.n_experiences out")
    return result


def _base_and_increments(n_classes: int, first: int, step: int) -> list[int]:
    if not first or not step:
        raise ConfigError("scenario.first (classes of the first experience) and scenario.step (classes of each "
                          f"later one) go together, got first={first} step={step}; give both")
    rest = n_classes - first
    if rest < 0 or rest % step != 0:
        fits = ", ".join(str(size) for size in range(1, rest + 1) if rest % size == 0)
        advice = f"with first={first}, step may be {fits}" if fits else f"first must be below {n_classes}"
        raise ConfigError(f"scenario.first={first} scenario.step={step} does not add up to the {n_classes} classes of "
                          f"this phase; {advice}, or give any split as scenario.sizes=[...]")
    return [first, *[step] * (rest // step)]


def _even(n_classes: int, n_experiences: int) -> list[int]:
    if n_experiences > n_classes:
        raise ConfigError(f"scenario.n_experiences={n_experiences}, but this phase has {n_classes} classes; "
                          f"take at most {n_classes}")
    size, left = divmod(n_classes, n_experiences)
    if left:
        fits = ", ".join(str(count) for count in range(1, n_classes + 1) if n_classes % count == 0)
        uneven = [size + 1] * left + [size] * (n_experiences - left)
        raise ConfigError(f"the {n_classes} classes of this phase do not divide into scenario.n_experiences="
                          f"{n_experiences}; take {fits}, or an uneven split such as scenario.sizes={uneven}")
    return [size] * n_experiences


def cut(data: Labelled, pool: Sequence[int], sizes: Sequence[int], order_seed: int | None,
        setting: Setting) -> list[Part]:
    """The experiences: rows of the shared store in file order, labels renumbered in order of appearance.

    In the domain-incremental setting a label is the position of the class within its experience.

    Args:
        data: the data set; its tensors are shared, never copied.
        pool: the original labels of the phase.
        sizes: classes of each experience.
        order_seed: shuffles the classes as Avalanche does; None keeps the order of the labels.
        setting: which of the three.

    Raises:
        DataError: a class has no training or no test rows.
    """
    parts, n_seen = [], 0
    for index, positions in enumerate(class_order(len(pool), sizes, order_seed)):
        originals = [pool[position] for position in positions]
        start = 0 if setting is Setting.DOMAIN else n_seen
        classes = tuple(range(start, start + len(originals)))
        task = index if setting is Setting.TASK else None
        images = data.images
        names = tuple(data.class_names[original] for original in originals)
        train = _rows(images.train_x, images.train_y, originals, start, task)
        test = _rows(images.test_x, images.test_y, originals, start, task)
        for part, rows in (("training", train), ("test", test)):
            for label, name in zip(classes, names, strict=True):
                if not bool((rows.y == label).any()):
                    raise DataError(f"class {name!r} has no {part} rows; add some, or leave the class out")
        parts.append(Part(train=train, test=test, classes=classes, class_names=names))
        n_seen += len(originals)
    return parts


def _rows(raw: Tensor, y: Tensor, originals: Sequence[int], start: int, task: int | None) -> Dataset:
    label_of = torch.full((int(y.max()) + 1 if len(y) else 1,), -1, dtype=torch.int64)
    for label, original in enumerate(originals, start):
        if original < len(label_of):
            label_of[original] = label
    labels = label_of[y]
    rows = torch.nonzero(labels >= 0).flatten()
    return Dataset(raw, labels[rows], rows, None if task is None else torch.full_like(rows, task))


def moments(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel (or per value of a vector), uint8 rows in units of raw/255.

    A channel that never changes gets the deviation 1.

    >>> moments(Dataset(torch.tensor([[0, 255], [255, 255]], dtype=torch.uint8), torch.tensor([0, 1])))
    ((0.5, 1.0), (0.5, 1.0))
    """
    count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for batch in data.batches(1024):
        assert isinstance(batch.raw, Tensor)
        rows = batch.raw.to(torch.float64).flatten(2) if batch.raw.dim() > 2 else batch.raw.to(torch.float64)[..., None]
        rows = rows / 255 if batch.raw.dtype == torch.uint8 else rows
        count += rows.shape[0] * rows.shape[2]
        total = total + rows.sum((0, 2))
        squares = squares + rows.square().sum((0, 2))
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-6, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(kw_only=True)
class Split(Scenario):
    """A data set cut into experiences by its classes. Abstract: a final class says which data set."""

    incremental: Literal["class", "task", "domain"] = "class"
    """What is told at test time: nothing, the task, or (domain) the label is the position within the experience."""
    n_experiences: int = bounded(5, low=1)
    """Number of experiences of an even split."""
    first: int = bounded(0, low=0)
    """Classes of the first experience, when every later one brings `step`; 0 for an even split."""
    step: int = bounded(0, low=0)
    """Classes of every later experience; goes with `first`."""
    sizes: list[int] = field(default_factory=list)
    """Classes of each experience, for an uneven split; empty for an even one."""
    is_online: bool = False
    """Every row is seen once, and answered before it is learned."""

    @abstractmethod
    def read(self) -> Labelled:
        """The data set.

        Raises:
            DataError: it cannot be had or is damaged.
        """

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase; the split describes the classes of that phase."""
        setting = Setting(self.incremental)
        data = self.read()
        pool = phase_classes(len(data.class_names), phase)
        sizes = experience_sizes(len(pool), n_experiences=self.n_experiences, default=type(self).n_experiences,
                                 first=self.first, step=self.step, sizes=self.sizes)
        if setting is Setting.DOMAIN and max(sizes) < 2:
            raise ConfigError(f"scenario.incremental=domain with one class per experience ({len(sizes)} experiences of "
                              f"{len(pool)} classes) leaves nothing to tell apart; take fewer experiences")
        parts = cut(data, pool, sizes, order_seed, setting)
        mean, std = moments(parts[0].train) if data.mean is None or data.std is None else (data.mean, data.std)
        offers = self.offers | {Need.TASK_LABELS} if setting is Setting.TASK else self.offers
        info = StreamInfo(n_experiences=len(parts), n_classes=max(part.classes[-1] for part in parts) + 1,
                          input_shape=tuple(data.images.train_x.shape[1:]), setting=setting,
                          is_online=self.is_online, offers=offers, mean=mean, std=std, augment=data.augment)
        return ResidentStream(info, parts, is_task_aware=setting is Setting.TASK,
                              provenance={data.name: data.images.digest})

    def recipe(self) -> dict[str, object]:
        """One epoch when every row may be seen once only."""
        return {"epochs": 1} if self.is_online else {}
