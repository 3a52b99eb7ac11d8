"""Passages of one domain after the other: what a language model is fine-tuned on, and forgets.

Each topic of a corpus is a domain. The loss is -log p of each token given those before it; its mean over held-out
passages of each domain is measured after every experience, as is the share of tokens that are the likeliest. So the
forgetting of domains is seen (Gururangan et al., "Don't Stop Pretraining", ACL 2020, arXiv 2004.10964, adapts to
domains; Ke et al., "Continual Pre-training of Language Models", ICLR 2023, arXiv 2302.03241, to a sequence of them).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    TestSet,
    bounded,
    phase_classes,
)
from cl_framework.language_tests import ChoiceTest, PassageTest
from cl_framework.seeding import derive, generator
from cl_framework.text_rows import text_rows
from cl_framework.tokens import decoded

from ._domains import registered

_SOURCES = {"bbc_news": "bbc_news_text", "newsgroups20": "newsgroups20_text"}
_N_PROMPT = 1
"""Bytes of the prompt column; a passage has none."""


@dataclass(kw_only=True)
class TextDomains(Scenario):
    """Topics of a corpus as domains. Goes with a language model.

    Literature: Greene and Cunningham, ICML 2006 (BBC News); Lang, NewsWeeder, ICML 1995 (20 Newsgroups).
    """

    offers: ClassVar[frozenset[Need]] = frozenset({Need.HISTORY, Need.TEXT})

    source: Literal["bbc_news", "newsgroups20"] = "bbc_news"
    """The corpus: BBC News with 5 topics, or 20 Newsgroups, which is in lower-case letters."""
    topics: list[str] = field(default_factory=list)
    """Topics that are domains, in their natural order; empty for all. A phase takes its half of them."""
    n_train: int = bounded(256, low=1)
    """Passages of a domain that are learned, at most."""
    n_test: int = bounded(32, low=1)
    """Held-out passages of a domain, at most."""
    n_bytes: int = bounded(256, low=32, high=512)
    """The longest passage: the first bytes of an article. A token of English is about four."""
    score: Literal["tokens", "choice"] = "tokens"
    """What the accuracy counts: tokens that are the likeliest of all, or passages whose second half is the likeliest of
    `n_choices` second halves of the domain."""
    n_choices: int = bounded(4, low=2)
    """Second halves that a choice is among."""
    is_online: bool = False
    """Every passage is seen once; sets train.epochs=1."""
    problem_seed: int = bounded(0, low=0)
    """Which passages are taken, and which lend their second halves."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase: its half of the topics; `order_seed` shuffles them."""
        data = registered(_SOURCES[self.source])
        names = self._chosen(data.class_names, phase)
        if order_seed is not None:
            order = torch.randperm(len(names), generator=generator(order_seed, "topics")).tolist()
            names = [names[at] for at in order]
        parts = []
        for name in names:
            label = data.class_names.index(name)
            learned = self._passages(data.images.train_x[data.images.train_y == label], self.n_train, name, set())
            held_out = self._passages(data.images.test_x[data.images.test_y == label], self.n_test, name, set(learned))
            parts.append(Part(train=self._rows(learned), test=self._rows(held_out), classes=(0,), class_names=(name,),
                              name=name, held_out=self._test(held_out, name)))
        info = StreamInfo(n_experiences=len(parts), n_classes=1, input_shape=(_N_PROMPT, self.n_bytes),
                          setting=Setting.DOMAIN, is_online=self.is_online, offers=self.offers, is_language=True)
        return ResidentStream(info, parts, provenance={data.name: data.images.digest})

    def recipe(self) -> dict[str, object]:
        """One epoch when every passage may be seen once only."""
        return {"epochs": 1} if self.is_online else {}

    def _chosen(self, class_names: Sequence[str], phase: Phase) -> list[str]:
        """The topics of a phase, in their natural order."""
        names = self.topics or list(class_names)
        unknown = [name for name in names if name not in class_names]
        if unknown or len(set(names)) < len(names):
            raise ConfigError(f"scenario.topics={names} must be topics of {self.source}, none twice; take some of "
                              f"{', '.join(class_names)}")
        return [names[at] for at in phase_classes(len(names), phase)]

    def _passages(self, x: Tensor, n: int, name: str, taken: set[str]) -> list[str]:
        """At most n different passages of a topic, none of those that are taken."""
        texts = [text.strip() for text in decoded(x[:, : self.n_bytes])]
        distinct = [text for text in dict.fromkeys(texts) if len(text.split()) > 1 and text not in taken]
        chosen = random.Random(derive(self.problem_seed, "passages", name, len(taken)))
        return [distinct[at] for at in sorted(chosen.sample(range(len(distinct)), min(n, len(distinct))))]

    def _rows(self, passages: Sequence[str], n_bytes: int = 0) -> Dataset:
        raw = text_rows([""] * len(passages), passages, _N_PROMPT, n_bytes or self.n_bytes)
        return Dataset(raw, torch.zeros(len(passages), dtype=torch.int64))

    def _test(self, passages: Sequence[str], name: str) -> TestSet:
        """How the held-out passages of a topic are measured."""
        if self.score == "tokens":
            return PassageTest(self._rows(passages), (0,), Setting.DOMAIN)
        if len(passages) < self.n_choices:
            raise ConfigError(f"scenario.n_choices={self.n_choices}, but topic {name} has {len(passages)} held-out "
                              "passages; raise scenario.n_test or lower scenario.n_choices")
        drawn = random.Random(derive(self.problem_seed, "choices", name))
        halves = [_halves(passage) for passage in passages]
        choices: list[str] = []
        for at, (beginning, end) in enumerate(halves):
            others = [other for other in range(len(halves)) if not _is_beginning(halves[other][1], end)]
            if len(others) < self.n_choices - 1:
                raise ConfigError(f"the held-out passages of topic {name} have too few different second halves; raise "
                                  "scenario.n_bytes or lower scenario.n_choices")
            lent = [halves[other][1] for other in drawn.sample(others, self.n_choices - 1)]
            choices += [passages[at], *(f"{beginning} {other}" for other in lent)]
        return ChoiceTest(self._rows(passages), (0,), Setting.DOMAIN, choices=self._rows(choices, 2 * self.n_bytes + 1),
                          n_choices=self.n_choices)


def _is_beginning(a: str, b: str) -> bool:
    """Whether one text is the other, or its beginning, so that no token tells them apart."""
    return a.startswith(b) or b.startswith(a)


def _halves(passage: str) -> tuple[str, str]:
    """The words of a passage up to its middle, and those behind it; neither is empty.

    >>> _halves("one two three four")
    ('one two', 'three four')
    """
    words = passage.split(" ")
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])
