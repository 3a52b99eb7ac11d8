"""Classification as text: the beginning of an article, the topics it may have, and the word for the right one.

BBC News (Greene and Cunningham, ICML 2006) and five groups of 20 Newsgroups (Lang, NewsWeeder, ICML 1995). Both parts
of a corpus are drawn from; which problems are held out follows from their prompts, as for every kind.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch

from cl_framework.problems import Problem, Verdict, first_line, quoted, right, wrong
from cl_framework.tokens import decoded

from ._domains import registered
from ._problems import Kind

_TOPICS: Mapping[str, Mapping[str, str]] = {
    "bbc_news_text": {name: name for name in ("business", "entertainment", "politics", "sports", "tech")},
    "newsgroups20_text": {"comp.graphics": "graphics", "rec.autos": "cars", "sci.med": "medicine",
                          "talk.politics.guns": "guns", "soc.religion.christian": "religion"}}
_WORDS = {1: 40, 2: 20, 3: 10}
_N_BYTES = 320


class _Articles(NamedTuple):
    by_topic: Mapping[str, Sequence[str]]
    digest: str


@dataclass(frozen=True, kw_only=True)
class Topic(Kind):
    """The first 40, 20 or 10 words of an article, by difficulty."""

    name: ClassVar[str] = "topic"
    variants: ClassVar[tuple[str, ...]] = tuple(_TOPICS)

    @property
    def _source(self) -> str:
        return self.variants[self.variant]

    @property
    def provenance(self) -> Mapping[str, str]:
        """The corpus."""
        return {self._source: _articles(self._source).digest}

    def draw(self, numbers: random.Random) -> Problem:
        """An article; all topics are equally likely."""
        topic = numbers.choice(list(_TOPICS[self._source].values()))
        article = numbers.choice(_articles(self._source).by_topic[topic])
        words = article.encode()[:_N_BYTES].decode(errors="ignore").split()[:_WORDS[self.difficulty]]
        *some, last = _TOPICS[self._source].values()
        return Problem(f"{' '.join(words)}\nWhat is this about: {', '.join(some)} or {last}?", topic, self.name)

    def check(self, problem: Problem, reply: str) -> Verdict:
        """The first line must be the topic, in whatever case."""
        if first_line(reply).casefold() == problem.answer:
            return right()
        return wrong(f"Wrong: {quoted(first_line(reply))} is not its topic.", expected=problem.answer,
                     rule="answer with the topic alone")


@lru_cache(maxsize=2)
def _articles(source: str) -> _Articles:
    """The articles of a corpus that have one of the topics.

    Raises:
        DataError: the corpus cannot be had.
    """
    data = registered(source)
    parts = ((data.images.train_x, data.images.train_y), (data.images.test_x, data.images.test_y))
    by_topic = {topic: [text for x, y in parts
                        for text in decoded(x[torch.nonzero(y == data.class_names.index(name)).flatten()])]
                for name, topic in _TOPICS[source].items()}
    return _Articles(by_topic, data.images.digest)
