"""What a run hands out of its stream: rows on the device, what a strategy may see, and which held-out rows are due."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from cl_framework.data import Dataset, TestSet
from cl_framework.experience import Experience
from cl_framework.recipe import Recipe
from cl_framework.scenario import Stream
from cl_framework.types import Need, Setting, StreamInfo


class StreamView:
    """A stream as one run sees it.

    Args:
        stream: the stream.
        info: what is known of it, with the run's own seed and batch size.
        needs: what the strategy asks for.
        recipe: how often held-out rows are answered.
        device: where rows are learned.
    """

    def __init__(self, stream: Stream, info: StreamInfo, needs: frozenset[Need], recipe: Recipe,
                 device: torch.device) -> None:
        self._stream, self._info, self._needs, self._recipe, self._device = stream, info, needs, recipe, device
        self._stores: dict[int, tuple[Dataset, Dataset]] = {}

    def given(self, experience: Experience) -> Experience:
        """The experience with what the strategy may see of it, on the device."""
        past = None
        if Need.HISTORY in self._needs:
            past = tuple(self._resident(data) for data in experience.history)
        elif Need.SOURCE_DATA in self._needs and self._stream.pretraining is not None:
            past = (self._resident(self._stream.pretraining.data),)
        return dataclasses.replace(experience, train=self._resident(experience.train), past=past)

    def told(self, experience: Experience) -> Experience:
        """What a strategy is told of an experience; of an unlabelled stream neither rows nor labels nor a name, and
        that it begins and ends only where the stream does."""
        if self._info.is_labelled:
            return experience
        nothing = experience.train.subset(torch.arange(0))
        return dataclasses.replace(experience, index=0, train=nothing, name="")

    def due(self, index: int) -> Iterator[tuple[int, TestSet]]:
        """The held-out rows that are answered after experience `index`; -1 is before the first.

        Those of what was learned, or of all of a stream of domains; of the newest alone where all are not due; of an
        unlabelled stream they are the same rows.
        """
        is_due = (index + 1) % self._recipe.evaluate_every == 0 or index == len(self._stream) - 1
        if not self._info.is_labelled or not is_due:
            return self.tests(range(max(index, 0), max(index, 0) + 1))
        return self.tests(range(len(self._stream) if self._info.setting is Setting.DOMAIN else index + 1))

    def tests(self, indices: range) -> Iterator[tuple[int, TestSet]]:
        """The held-out rows of some experiences, on the device."""
        for index in indices:
            test = self._stream.test(index)
            yield index, dataclasses.replace(test, data=self._resident(test.data))

    def _resident(self, data: Dataset) -> Dataset:
        """The rows with their store on the device, if it fits into half of what is free; moved once.

        The original is held beside the copy, so that its identity stays its own.
        """
        if data.device == self._device or self._device.type != "cuda":
            return data
        if data.store_id() not in self._stores:
            if data.store_bytes > torch.cuda.mem_get_info(self._device)[0] // 2:
                return data
            self._stores[data.store_id()] = data, data.to(self._device)
        return data.sharing(self._stores[data.store_id()][1])
