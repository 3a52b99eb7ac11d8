"""Streams small enough to train in a blink, for tests and for the conformance suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cl_framework.data import Dataset
from cl_framework.models import MLP, Model
from cl_framework.protocol import build_model
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, Pretraining, ResidentStream, Stream
from cl_framework.seeding import generator
from cl_framework.speaking_toys import speaking_model
from cl_framework.types import Need, Setting, StreamInfo

SHAPE = (1, 4, 4)


@dataclass(kw_only=True)
class Toy:
    """A stream of noisy prototypes, one a class: uint8 images of 4x4 pixels.

    >>> len(Toy(sizes=(2, 2)).open())
    2
    """

    sizes: Sequence[int] = (2, 2, 2)
    """Classes of each experience."""
    setting: Setting = Setting.CLASS
    """Class-, task- or domain-incremental."""
    is_online: bool = False
    """Rows are answered before they are learned."""
    n_train: int = 22
    """Training rows of a class."""
    n_test: int = 8
    """Held-out rows of a class."""
    seed: int = 0
    """Seed of prototypes and noise."""
    is_labelled: bool = True
    """False: every experience has all classes, darker from one to the next, and rows come without labels."""

    def open(self, poisoned: Sequence[int] = ()) -> Stream:
        """The stream; experiences in `poisoned` have their training and held-out rows replaced by noise."""
        if not self.is_labelled:
            return self._unlabelled(poisoned)
        is_domain, is_aware = self.setting is Setting.DOMAIN, self.setting is Setting.TASK
        parts, first = [], 0
        for index, size in enumerate(self.sizes):
            labels = range(size) if is_domain else range(first, first + size)
            kinds = range(first, first + size)
            first += size
            task = index if is_aware else None
            parts.append(Part(
                train=self._rows("train", kinds, labels, self.n_train, task, index in poisoned),
                test=self._rows("test", kinds, labels, self.n_test, task, index in poisoned),
                classes=tuple(labels), class_names=tuple(str(kind) for kind in kinds)))
        offers = {Need.HISTORY, Need.TASK_LABELS} if is_aware else {Need.HISTORY}
        info = StreamInfo(
            n_experiences=len(parts), n_classes=max(self.sizes) if is_domain else sum(self.sizes), input_shape=SHAPE,
            setting=self.setting, is_online=self.is_online, offers=frozenset(offers), mean=(0.5,), std=(0.25,))
        return ResidentStream(info, parts, is_task_aware=is_aware)

    def _unlabelled(self, poisoned: Sequence[int]) -> Stream:
        n_classes = sum(self.sizes)
        classes = tuple(range(n_classes))
        clean, test = (self._rows(split, range(n_classes), range(n_classes), n, None, False)
                       for split, n in (("train", self.n_train), ("test", self.n_test)))
        parts = []
        for index in range(len(self.sizes)):
            drawn = self._rows(f"stream {index}", range(n_classes), range(n_classes), self.n_test, None,
                               index in poisoned)
            order = torch.randperm(len(drawn), generator=generator(self.seed, "order", index))
            shuffled = drawn.take(order)
            assert isinstance(shuffled.raw, torch.Tensor)
            parts.append(Part(train=Dataset(shuffled.raw // (index + 2), shuffled.y), test=test, classes=classes,
                              class_names=tuple(map(str, classes)), name=f"darker {index}"))
        info = StreamInfo(
            n_experiences=len(parts), n_classes=n_classes, input_shape=SHAPE, setting=Setting.DOMAIN,
            offers=frozenset({Need.UNLABELLED, Need.SOURCE_DATA}), mean=(0.5,), std=(0.25,), is_labelled=False,
            batch_size=6)
        stream = ResidentStream(info, parts)
        stream.pretraining = Pretraining(data=clean, name="toy", digest=f"toy {self.seed} {self.n_train}")
        return stream

    def _rows(self, split: str, kinds: range, labels: range, n: int, task: int | None, is_noise: bool) -> Dataset:
        images, ys = [], []
        for kind, label in zip(kinds, labels, strict=True):
            prototype = torch.rand(SHAPE, generator=generator(self.seed, "prototype", kind))
            noise = torch.rand((n, *SHAPE), generator=generator(self.seed, split, kind, str(is_noise)))
            mixed = noise if is_noise else 0.8 * prototype + 0.2 * noise
            images.append((255 * mixed).to(torch.uint8))
            ys += [label] * n
        tasks = None if task is None else torch.full((len(ys),), task)
        return Dataset(torch.cat(images), torch.tensor(ys), None, tasks)


def toy_model(stream: Stream, seed: int = 0) -> Model:
    """A network of one small hidden layer for a toy stream; it has normalisation where rows are unlabelled, and speaks
    where they are texts."""
    if stream.info.is_language:
        return speaking_model(seed)
    return build_model(MLP(hidden=[16], norm="none" if stream.info.is_labelled else "batch"), stream.info, seed)


def toy_recipe(*, epochs: int = 2, checkpoint_every: float = 1e9) -> Recipe:
    """A recipe that learns a toy experience in a few steps; its last batch has a single row where n is odd."""
    return Recipe(optimizer="adam", lr=0.01, epochs=epochs, batch_size=4, checkpoint_every=checkpoint_every)
