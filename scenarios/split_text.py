"""Split scenarios of texts: hashed bags of words, cut into experiences by their classes.

Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734 (class-, task- and
domain-incremental). Corpora: `_corpora`; rows: `_text`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from cl_framework import ConfigError, Phase, Source, Stream, bounded
from cl_framework.scenario import FirstExperiences

from . import _text
from ._cut import Labelled
from ._sizes import experience_sizes
from ._split import Split


@dataclass(kw_only=True)
class SplitText(Split):
    """A split of a corpus as bags of 4,096 hashed words. Abstract: a final class names the source."""

    n_classes: int = bounded(0, low=0)
    """How many classes of the phase occur, the first of its order; 0 for all. So corpora with different numbers of
    classes give streams of one shape."""
    is_official: bool = True
    """Take the published files alone; false takes altered or generated ones of the same format from the data set's
    folder in CLF_DATA, unverified and cached apart. The digest of what was used is in environment.json."""

    @abstractmethod
    def source(self) -> Source:
        """Where the data set comes from."""

    def read(self) -> Labelled:
        """The data set, memory-mapped from the cache."""
        return Labelled.of(self.source() if self.is_official else self.source().altered())

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase; with `n_classes` the beginning of the stream that all its classes make."""
        n_all = len(self._pools(self.source().n_classes, phase)[1])
        if self.n_classes in (0, n_all):
            return super().open(phase, order_seed)
        rest = n_all - self.n_classes
        if rest < 0:
            raise ConfigError(f"scenario.n_classes={self.n_classes}, but this phase has {n_all} classes; take at most "
                              f"{n_all}{self._taken}")
        if self.blurry:
            raise ConfigError(f"scenario.blurry={self.blurry} spreads classes over the whole stream, of which "
                              f"scenario.n_classes={self.n_classes} takes the beginning; leave one of them out")
        if rest == 1 and self.incremental == "domain":
            raise ConfigError(f"scenario.n_classes={self.n_classes} leaves a single class out, which "
                              f"scenario.incremental=domain cannot set apart; take {n_all} or at most {n_all - 2}")
        sizes = experience_sizes(self.n_classes, n_experiences=self.n_experiences, default=type(self).n_experiences,
                                 first=self.first, step=self.step, sizes=self.sizes)
        whole = replace(self, n_classes=0, n_experiences=len(sizes) + 1, first=0, step=0, sizes=[*sizes, rest])
        return FirstExperiences(whole.open(phase, order_seed), len(sizes))


@dataclass(kw_only=True)
class SplitNewsgroups(SplitText):
    """20 Newsgroups in 10 experiences of 2. Goes with model=mlp.

    Literature: Lang, NewsWeeder: learning to filter netnews, ICML 1995; cut by date by Cardoso-Cachopo, 2007.
    """

    n_experiences: int = bounded(10, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """20 Newsgroups."""
        return _text.NEWSGROUPS20


@dataclass(kw_only=True)
class SplitReuters8(SplitText):
    """Reuters-21578's R8, the 8 largest topics, in 4 experiences of 2. Goes with model=mlp.

    Half of the news is of one topic (earn), half a percent of another (grain).

    Literature: Lewis, Reuters-21578, 1997; R8 by Cardoso-Cachopo, 2007.
    """

    n_experiences: int = bounded(4, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """Reuters R8."""
        return _text.REUTERS_R8


@dataclass(kw_only=True)
class SplitReuters52(SplitText):
    """Reuters-21578's R52 in 13 experiences of 4. Goes with model=mlp.

    A long tail: topics have from 1 to 2,840 training news. It contains R8.

    Literature: Lewis, Reuters-21578, 1997; R52 by Cardoso-Cachopo, 2007.
    """

    n_experiences: int = bounded(13, low=1)
    """Number of experiences of an even split."""

    def source(self) -> Source:
        """Reuters R52."""
        return _text.REUTERS_R52


@dataclass(kw_only=True)
class SplitBBC(SplitText):
    """BBC News, 5 topics, a topic in each experience. Goes with model=mlp.

    Every fifth news of a topic is held out.

    Literature: Greene and Cunningham, Practical solutions to the problem of diagonal dominance in kernel document
    clustering, ICML 2006.
    """

    known_failures: ClassVar[Mapping[str, str]] = {
        "phases_are_disjoint": "a phase has 2 of the 5 topics, so it takes n_experiences=2 or 1"}

    def source(self) -> Source:
        """BBC News."""
        return _text.BBC_NEWS
