"""Streams of corrupted test images for test-time adaptation: no label and no boundary reaches a strategy.

Literature: Wang et al., Continual test-time domain adaptation (CoTTA), CVPR 2022, arXiv 2203.13591 (one corruption
after another, and gradual changes); Hoang et al., Persistent test-time adaptation in recurring testing scenarios,
NeurIPS 2024, arXiv 2311.18193 (rounds); Niu et al., Towards stable test-time adaptation in dynamic wild world, ICLR
2023, arXiv 2302.12400 (mixed corruptions).
"""

from __future__ import annotations

import difflib
import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

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
)
from cl_framework.scenario import Pretraining
from cl_framework.seeding import generator
from cl_framework.weight_files import SOURCE_WEIGHTS, digest_of

from ._cut import Labelled
from ._row_order import arranged, balanced
from ._severities import CORRUPTIONS, HOLD_OUTS, check_name

_RAMP = (1, 2, 3, 4, 5, 4, 3, 2, 1)
_SOURCES = ("train", "model")
_MOST = 3000
"""Experiences of a stream; a run keeps matrices of their number squared."""

Domain = tuple[str, int]
"""A corruption and its severity."""


@dataclass(kw_only=True)
class CorruptionStreams(Scenario):
    """Test images under one corruption after another. Abstract: a final class says whose images."""

    offers: ClassVar[frozenset[Need]] = frozenset({Need.UNLABELLED, Need.SOURCE_DATA})
    known_failures: ClassVar[Mapping[str, str]] = {
        "phases_are_disjoint": "tuning and evaluation have the same images and classes; their corruptions differ"}

    corruptions: list[str] = field(default_factory=list)
    """Which, in their natural order; when empty the 15 standard ones. Tuning takes the four hold-outs, but for those
    that are named here."""
    severity: int = bounded(5, low=1, high=5)
    """Of every corruption, but for `stream=gradual`."""
    stream: Literal["continual", "gradual", "mixed"] = "continual"
    """`continual`: one corruption after another; `gradual`: each at severities 1, 2, 3, 4, 5, 4, 3, 2, 1; `mixed`: all
    at once, their rows shuffled."""
    dirichlet: float = bounded(0.0, low=0.0)
    """Concentration of labels that come in clusters, e.g. 0.1; 0 shuffles the rows."""
    rounds: int = bounded(1, low=1)
    """How often the whole stream is repeated, in the same order."""
    n_images: int = bounded(0, low=0)
    """Test images under each corruption, the same ones and equally many of each class; 0 takes all."""
    batch_size: int = bounded(200, low=1)
    """Rows that arrive together."""
    source: str = "train"
    """`train`: the model learns the clean training rows first, by the recipe; `model`: it is trained already, as
    `model=robustbench` is, and takes pixels in [0, 1]; else a file with its weights."""
    source_seed: int | None = bounded(None, low=0)
    """Seed of that training; null takes the seed of each run."""

    @abstractmethod
    def clean(self) -> Labelled:
        """The data set whose test images are corrupted.

        Raises:
            ConfigError: there is none of that name, or it holds no images.
            DataError: it cannot be had or is damaged.
        """

    @abstractmethod
    def corrupted(self, data: Labelled, name: str, severity: int) -> tuple[Tensor, str]:
        """All test images under one corruption, uint8 [N, C, H, W], and a digest of them.

        Raises:
            DataError: they cannot be had or are damaged.
        """

    @abstractmethod
    def title(self) -> str:
        """What the corrupted images are called."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase; `order_seed` shuffles the corruptions and decides the order of rows."""
        names = self._names(phase)
        if order_seed is not None:
            order = torch.randperm(len(names), generator=generator(order_seed, "corruptions"))
            names = [names[at] for at in order.tolist()]
        experiences = self._experiences(names)
        given = self._given_weights()
        data = self.clean()
        images = data.images
        if self.n_images > len(images.test_y):
            raise ConfigError(f"scenario.n_images={self.n_images} asks for more than the {len(images.test_y)} test "
                              "images; 0 takes all")
        chosen = balanced(images.test_y, self.n_images)
        found = {domain: self.corrupted(data, *domain)
                 for domain in dict.fromkeys(domain for experience in experiences for domain in experience)}
        made = {experience: self._rows([found[domain][0] for domain in experience], experience, images.test_y, chosen,
                                       order_seed or 0) for experience in dict.fromkeys(experiences)}
        test = Dataset(images.test_x, images.test_y[chosen], chosen)
        parts = [Part(train=made[experience], test=test, classes=tuple(range(len(data.class_names))),
                      class_names=data.class_names, name=self._title(experience, number))
                 for number in range(self.rounds) for experience in experiences]
        # a model that brings its weights normalises by itself
        mean, std = ((0.0,), (1.0,)) if self.source == "model" else (data.mean or (0.0,), data.std or (1.0,))
        info = StreamInfo(n_experiences=len(parts), n_classes=len(data.class_names), setting=Setting.DOMAIN,
                          input_shape=tuple(images.test_x.shape[1:]), offers=self.offers, mean=mean, std=std,
                          augment=data.augment, is_labelled=False, n_rounds=self.rounds,
                          batch_size=min(self.batch_size, max(len(part.train) for part in parts)))
        digest = hashlib.sha256(repr([(domain, found[domain][1]) for domain in sorted(found)]).encode()).hexdigest()
        stream = ResidentStream(info, parts, provenance={data.name: images.digest, self.title(): digest, **given})
        stream.pretraining = Pretraining(
            data=Dataset(images.train_x, images.train_y), name=data.name, digest=images.digest, seed=self.source_seed,
            path=None if self.source in _SOURCES else self.source, is_brought=self.source == "model")
        return stream

    def _names(self, phase: Phase) -> list[str]:
        """The corruptions of a phase; a search sees none that is reported."""
        for name in self.corruptions:
            check_name(name)
        if len(set(self.corruptions)) < len(self.corruptions):
            raise ConfigError(f"scenario.corruptions={self.corruptions} names one twice; scenario.rounds=2 repeats "
                              "the whole stream")
        if phase == Phase.TUNING:
            return self._left_for_tuning()
        return list(self.corruptions or CORRUPTIONS)

    def _left_for_tuning(self) -> list[str]:
        """The hold-outs that are not reported."""
        left = [name for name in HOLD_OUTS if name not in self.corruptions]
        if not left:
            raise ConfigError(f"scenario.corruptions={self.corruptions} leaves none of {', '.join(HOLD_OUTS)} to tune "
                              "on; leave one out")
        return left

    def _experiences(self, names: Sequence[str]) -> list[tuple[Domain, ...]]:
        """What each experience of a round is made of.

        Raises:
            ConfigError: there are too many rounds.
        """
        experiences: list[tuple[Domain, ...]]
        if self.stream == "gradual":
            experiences = [((name, severity),) for name in names for severity in _RAMP]
        elif self.stream == "mixed":
            experiences = [tuple((name, self.severity) for name in names)]
        else:
            experiences = [((name, self.severity),) for name in names]
        if self.rounds * len(experiences) > _MOST:
            raise ConfigError(f"scenario.rounds={self.rounds} makes a stream of {self.rounds * len(experiences)} "
                              f"experiences, and {_MOST} are the most; set it to at most {_MOST // len(experiences)}")
        return experiences

    def _given_weights(self) -> dict[str, str]:
        """The digest of the file of weights, by its name in the provenance; empty where there is none.

        Raises:
            ConfigError: the file is not there, or cannot be one of weights.
        """
        if self.source in _SOURCES:
            return {}
        path = Path(self.source).expanduser()
        near = difflib.get_close_matches(self.source.lower(), _SOURCES, n=1)
        if near and not path.exists():
            raise ConfigError(f"there are no weights at {path}; did you mean scenario.source={near[0]}?")
        return {SOURCE_WEIGHTS: digest_of(path)}

    def _rows(self, stores: Sequence[Tensor], experience: tuple[Domain, ...], y: Tensor, chosen: Tensor,
              seed: int) -> Dataset:
        """The chosen rows of one or several corruptions in the order of their arrival."""
        names = sorted({name for name, _ in experience})
        labels = y[chosen].repeat(len(stores))
        order = arranged(labels, self.dirichlet, seed, *names)
        if len(stores) == 1:
            return Dataset(stores[0], labels[order], chosen[order])
        return Dataset(torch.cat([store[chosen] for store in stores]), labels[order], order)

    def _title(self, experience: tuple[Domain, ...], number: int) -> str:
        """E.g. "fashion_mnist_csim snow 5", with the round where there are several."""
        name, severity = experience[0]
        what = f"{self.title()} {'mixed' if self.stream == 'mixed' else name} {severity}"
        return what if self.rounds == 1 else f"{what}, round {number + 1}"
