"""The split layer: one data set cut into experiences by its classes.

Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734 (class-, task- and
domain-incremental); Rebuffi et al., iCaRL, CVPR 2017 (even splits); Hou et al., LUCIR, CVPR 2019 (a base of half the
classes, then equal increments); Bang et al., Rainbow Memory, CVPR 2021 (blurry experiences).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from cl_framework import (
    ConfigError,
    Need,
    Phase,
    ResidentStream,
    Scenario,
    Setting,
    Stream,
    StreamInfo,
    bounded,
)

from ._anchor import pools, pretraining
from ._cut import Labelled, cut, moments, row_shape
from ._sizes import experience_sizes


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
    blurry: float = bounded(0.0, low=0.0, high=0.9)
    """Share of each class's training rows that are spread over the other experiences; class-incremental alone.
    Held-out rows stay with the experience that the class belongs to."""
    is_online: bool = False
    """Every row is seen once, and answered before it is learned."""
    pretrain_classes: int = bounded(0, low=0)
    """How many classes of the phase the body learns before the stream, all at once and by the recipe: the first in the
    order of the labels, whatever the order of the stream, which has the others. 0 begins with random weights."""
    pretrain_seed: int | None = bounded(None, low=0)
    """Seed of that training; null takes the seed of each run."""

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
        before, pool = self._pools(len(data.class_names), phase)
        try:
            sizes = experience_sizes(len(pool), n_experiences=self.n_experiences, default=type(self).n_experiences,
                                     first=self.first, step=self.step, sizes=self.sizes)
        except ConfigError as error:
            raise ConfigError([fault + self._taken for fault in error.faults]) from None
        if setting is Setting.DOMAIN and min(sizes) < 2:
            raise ConfigError(f"scenario.incremental=domain with one class in an experience (sizes {sizes} of the "
                              f"{len(pool)} classes) leaves nothing to tell apart there; take fewer experiences")
        if self.blurry and (setting is not Setting.CLASS or len(sizes) < 2):
            raise ConfigError(f"scenario.blurry={self.blurry} spreads classes over the other experiences: it goes with "
                              "scenario.incremental=class and at least 2 experiences, not with "
                              f"incremental={self.incremental} and {len(sizes)}; change these, or leave it out")
        parts = cut(data, pool, sizes, order_seed, setting, self.blurry)
        learned = pretraining(data, before, self.pretrain_seed) if before else None
        first_rows = parts[0].train if learned is None else learned.data
        mean, std = moments(first_rows) if data.mean is None or data.std is None else (data.mean, data.std)
        offers = self.offers | {Need.TASK_LABELS} if setting is Setting.TASK else self.offers
        info = StreamInfo(n_experiences=len(parts), n_classes=max(part.classes[-1] for part in parts) + 1,
                          input_shape=row_shape(parts[0].train), setting=setting, is_online=self.is_online,
                          offers=offers, mean=mean, std=std, augment=data.augment)
        stream = ResidentStream(info, parts, is_task_aware=setting is Setting.TASK,
                                provenance={data.name: data.images.digest})
        stream.pretraining = learned
        return stream

    @property
    def _taken(self) -> str:
        """What messages about the classes of a stream add where it has not all of its phase."""
        n = self.pretrain_classes
        return f" (scenario.pretrain_classes={n} has taken the others)" if n else ""

    def _pools(self, n_classes: int, phase: Phase) -> tuple[range, range]:
        """The classes of a phase that are learned before the stream, and those of the stream.

        Raises:
            ConfigError: the first leave too few of the second.
        """
        needed = len(self.sizes) or (2 if self.first or self.step else self.n_experiences)
        return pools(n_classes, phase, self.pretrain_classes, needed)

    def recipe(self) -> dict[str, object]:
        """One epoch when every row may be seen once only."""
        return {"epochs": 1} if self.is_online else {}
