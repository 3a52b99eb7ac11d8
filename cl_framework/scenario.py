"""The scenario contract: a scenario opens a stream; a stream yields experiences and keeps its tests apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ClassVar

from cl_framework.data import Dataset, TestSet
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import check_ranges
from cl_framework.isolation import opening
from cl_framework.problems import Judge
from cl_framework.types import Need, Phase, StreamInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretraining:
    """What a model learns, labelled and all at once, before its stream begins.

    Attributes:
        data: labelled rows, of the shape of the stream's.
        name, digest: what they are, for the record and the cache.
        path: a file with the weights of a model that has learned them; null trains one.
        is_brought: the model brings its weights with it; nothing is loaded and nothing trained.
        seed: of its training; the run's own when None.
    """

    data: Dataset
    name: str
    digest: str
    path: str | None = None
    is_brought: bool = False
    seed: int | None = None


class Stream(ABC):
    """Experiences in their order. Immutable; it can be iterated many times, also nested.

    The held-out rows of an unlabelled stream (`info.is_labelled` is false) are clean rows of what its model was trained
    on before, the same for every experience: they show what adapting costs there.
    """

    info: StreamInfo
    provenance: Mapping[str, str]
    """Name and digest of each data set behind it, for the record."""
    pretraining: Pretraining | None = None
    """What a model must have learned before; None where it begins with fresh weights."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of experiences."""

    @abstractmethod
    def __getitem__(self, index: int) -> Experience:
        """The experience at `index`, with the training rows of the earlier ones as its history.

        Raises:
            IndexError: there is no such experience.
        """

    @abstractmethod
    def test(self, index: int) -> TestSet:
        """Held-out rows of an experience; for the evaluator alone."""

    def __iter__(self) -> Iterator[Experience]:
        for index in range(len(self)):
            yield self[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What one experience of a resident stream is made of.

    Attributes:
        train: training rows.
        test: held-out rows.
        classes: labels that occur in the training rows.
        class_names: their names.
        test_classes: labels that occur in the held-out rows; `classes` when None.
        name: what it is called in tables, e.g. a corruption.
        judge: says how right replies to its training prompts are; None where it has none.
        held_out: measures answers to the held-out rows in a way of its own; None goes by their labels.
    """

    train: Dataset
    test: Dataset
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    test_classes: tuple[int, ...] | None = None
    name: str = ""
    judge: Judge | None = None
    held_out: TestSet | None = None


class ResidentStream(Stream):
    """A stream whose experiences are rows of resident stores.

    Args:
        info: facts about the stream.
        parts: one for each experience.
        is_task_aware: experiences carry their index as task label.
        provenance: name and digest of each data set behind it.
    """

    def __init__(self, info: StreamInfo, parts: Sequence[Part], *, is_task_aware: bool = False,
                 provenance: Mapping[str, str] | None = None) -> None:
        self.info = info
        self.provenance = dict(provenance or {})
        self._parts = tuple(parts)
        self._is_task_aware = is_task_aware

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Experience:
        if not 0 <= index < len(self):
            raise IndexError(f"the stream has experiences 0 to {len(self) - 1}, not {index}")
        part = self._parts[index]
        return Experience(index=index, classes=part.classes, class_names=part.class_names, train=part.train,
                          task=index if self._is_task_aware else None, name=part.name, judge=part.judge,
                          past=tuple(earlier.train for earlier in self._parts[:index]))

    def test(self, index: int) -> TestSet:
        """Held-out rows of the experience at `index`."""
        part = self._parts[index]
        if part.held_out is not None:
            return part.held_out
        classes = part.classes if part.test_classes is None else part.test_classes
        return TestSet(part.test, classes, self.info.setting)


class FirstExperiences(Stream):
    """The beginning of a stream, as if the rest did not exist.

    Args:
        stream: the whole.
        n: how many experiences.

    Raises:
        ConfigError: there are not so many.
    """

    def __init__(self, stream: Stream, n: int) -> None:
        if not 1 <= n <= len(stream):
            raise ConfigError(f"the stream has {len(stream)} experiences, not {n}; take 1 to {len(stream)}")
        self._whole, self._n = stream, n
        self.provenance, self.pretraining = stream.provenance, stream.pretraining
        n_classes = max(max(stream[index].classes) for index in range(n)) + 1
        self.info = replace(stream.info, n_experiences=n, n_classes=n_classes)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Experience:
        if not 0 <= index < self._n:
            raise IndexError(f"the stream has experiences 0 to {self._n - 1}, not {index}")
        return self._whole[index]

    def test(self, index: int) -> TestSet:
        """Held-out rows of the experience at `index`."""
        if not 0 <= index < self._n:
            raise IndexError(f"the stream has experiences 0 to {self._n - 1}, not {index}")
        return self._whole.test(index)


@dataclass(kw_only=True)
class Scenario(ABC):
    """A family of streams: data and the rule that cuts it. Its fields are its configuration."""

    offers: ClassVar[frozenset[Need]] = frozenset({Need.HISTORY})
    """What its streams give beyond labelled rows."""
    known_failures: ClassVar[Mapping[str, str]] = {}
    """Conformance checks that fail, each with its reason."""

    def __init_subclass__(cls) -> None:
        """Ask, wherever a stream is opened, whether it may be: see `isolation`."""
        super().__init_subclass__()
        if "open" in vars(cls):
            cls.open = _asking(cls.open)  # type: ignore[method-assign, assignment]

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase.

        Args:
            phase: `single` takes all classes; `tuning` and `evaluation` take disjoint halves.
            order_seed: shuffles the order of classes or domains; None keeps their natural order.

        Raises:
            ConfigError: the fields ask for a stream that the data cannot give.
            DataError: the data cannot be had or is damaged.
        """

    def recipe(self) -> Mapping[str, object]:
        """`train.*` values that follow from the fields; the user's own values win."""
        return {}


def _asking(method: Callable[[Any, Phase, int | None], Stream]) -> Callable[[Any, Phase, int | None], Stream]:
    @wraps(method)
    def opened(self: Scenario, phase: Phase, order_seed: int | None) -> Stream:
        with opening(self, phase):
            return method(self, phase, order_seed)

    return opened


def phase_classes(n_classes: int, phase: Phase) -> range:
    """The original labels that a phase may use: all, the lower half, or the upper half.

    Both halves have floor(n / 2) classes, so that the two phases are of one shape; with an odd number the last
    class belongs to neither (GTEP, arXiv 2403.09066, section on data splits: halves by label index).

    Raises:
        ConfigError: there are too few classes for two halves.

    >>> phase_classes(10, Phase.TUNING), phase_classes(10, Phase.EVALUATION)
    (range(0, 5), range(5, 10))
    """
    if phase == Phase.SINGLE:  # equal, not identical: "single" is a phase, too
        return range(n_classes)
    half = n_classes // 2
    if half == 0:
        raise ConfigError(f"{n_classes} class cannot be cut into a tuning and an evaluation half; use phase=single")
    return range(half) if phase == Phase.TUNING else range(half, 2 * half)
