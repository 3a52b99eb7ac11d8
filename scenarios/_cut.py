"""Rows of a data set dealt to experiences by their classes.

Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734 (class-, task- and
domain-incremental); Bang et al., Rainbow Memory, CVPR 2021 (blurry experiences).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_framework import DataError, Dataset, Part, Setting, Source
from cl_framework.data import Views
from cl_framework.seeding import generator
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
        views, view: how its rows are seen, and by which of the views; as they are when None.
    """

    name: str
    images: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: str = "none"
    views: Views | None = None
    view: int = 0

    @staticmethod
    def of(source: Source) -> Labelled:
        """A data set that the framework knows how to obtain, memory-mapped from the cache.

        Raises:
            DataError: it cannot be had or is damaged.
        """
        names = source.class_names or tuple(str(label) for label in range(source.n_classes))
        return Labelled(name=source.name, images=source.load(), class_names=names, mean=source.mean, std=source.std,
                        augment=source.augment)

    def train(self, rows: Tensor, label_of: Tensor, task: int | None) -> Dataset:
        """Training rows; `label_of` maps original labels to those of the stream."""
        return self._rows(self.images.train_x, self.images.train_y, rows, label_of, task)

    def test(self, rows: Tensor, label_of: Tensor, task: int | None) -> Dataset:
        """Held-out rows, as `train` does training rows."""
        return self._rows(self.images.test_x, self.images.test_y, rows, label_of, task)

    def _rows(self, raw: Tensor, y: Tensor, rows: Tensor, label_of: Tensor, task: int | None) -> Dataset:
        return Dataset(raw, label_of[y[rows]], rows, None if task is None else torch.tensor(task).expand(len(rows)),
                       self.views, None if self.views is None else torch.tensor(self.view).expand(len(rows)))


def cut(data: Labelled, pool: Sequence[int], sizes: Sequence[int], order_seed: int | None, setting: Setting,
        blurry: float = 0.0) -> list[Part]:
    """The experiences: rows of the shared store in file order, labels renumbered in order of appearance.

    In the domain-incremental setting a label is the position of the class within its experience.

    Args:
        data: the data set; its tensors are shared, never copied.
        pool: the original labels of the phase.
        sizes: classes of each experience.
        order_seed: shuffles the classes as Avalanche does; None keeps the order of the labels.
        setting: which of the three.
        blurry: the share of each class's training rows that lie in other experiences; class-incremental alone.

    Raises:
        DataError: a class has no training or no test rows.
    """
    groups = [[pool[position] for position in positions]
              for positions in class_order(len(pool), sizes, order_seed)]
    label_of, home_of = torch.full((2, len(data.class_names)), -1)
    own: list[tuple[int, ...]] = []
    start = 0
    for index, group in enumerate(groups):
        own.append(tuple(range(start, start + len(group))))
        label_of[group], home_of[group] = torch.tensor(own[-1]), index
        start += 0 if setting is Setting.DOMAIN else len(group)
    images = data.images
    home, held_out = home_of[images.train_y], home_of[images.test_y]
    for part, y in (("training", images.train_y), ("test", images.test_y)):
        for original in sorted(set(pool) - set(y.unique().tolist())):
            raise DataError(f"class {data.class_names[original]!r} has no {part} rows; add some, or leave the class "
                            "out")
    if blurry:
        for original in torch.nonzero(images.train_y[home >= 0].bincount() == 1).flatten().tolist():
            raise DataError(f"class {data.class_names[original]!r} has a single training row, which cannot lie in two "
                            "experiences; add some, or leave scenario.blurry out")
        home = spread(home, images.train_y, len(groups), blurry, order_seed or 0)
    names = [data.class_names[original] for group in groups for original in group]
    parts = []
    for index, classes in enumerate(own):
        task = index if setting is Setting.TASK else None
        train = data.train(torch.nonzero(home == index).flatten(), label_of, task)
        test = data.test(torch.nonzero(held_out == index).flatten(), label_of, task)
        occurring = tuple(train.y.unique().tolist()) if blurry else classes
        named = [names[label] for label in occurring] if blurry else [data.class_names[at] for at in groups[index]]
        parts.append(Part(train=train, test=test, classes=occurring, class_names=tuple(named), test_classes=classes))
    return parts


def spread(home: Tensor, y: Tensor, n_experiences: int, share: float, seed: int) -> Tensor:
    """Blurry boundaries: some rows of each class move to the other experiences, equally many to each (but for one).

    Args:
        home: the experience of each row, -1 for none; rows of a class have one home.
        y: the class of each row.
        n_experiences: at least two.
        share: of the rows of a class that move; at least one does, and one stays.
        seed: decides which do.

    Returns:
        The new experience of each row.

    >>> spread(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2, 0.25, 0).bincount()
    tensor([4, 4])
    """
    moved = home.clone()
    for label in y[home >= 0].unique().tolist():
        rows = torch.nonzero(y == label).flatten()
        n_moved = min(max(round(share * len(rows)), 1), len(rows) - 1)
        chosen = rows[torch.randperm(len(rows), generator=generator(seed, "blurry", label))[:n_moved]]
        others = [index for index in range(n_experiences) if index != int(home[rows[0]])]
        for at, index in enumerate(others):
            moved[chosen[at::len(others)]] = index
    return moved


def row_shape(data: Dataset) -> tuple[int, ...]:
    """Shape of a row as it is seen.

    >>> row_shape(Dataset(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])))
    (1, 28, 28)
    """
    raw = data.take(torch.arange(1)).raw
    assert isinstance(raw, Tensor)
    return tuple(raw.shape[1:])


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
