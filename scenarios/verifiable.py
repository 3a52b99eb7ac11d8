"""Problems whose replies can be checked, one kind after the other: what language models learn by rewards.

A reply y to a prompt x gets a reward r(x, y) of [0, 1] and a feedback in words; a held-out problem is answered n times,
and its accuracy is the mean reward, mean@n. The kinds follow one another without a label that tells which it is
(Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, continual stream). Kinds: `_problems_*.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import ClassVar, Literal

import torch

from cl_framework import (
    ConfigError,
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
from cl_framework.language_tests import ReplyTest
from cl_framework.probed import Probed
from cl_framework.problems import Checked, Problem
from cl_framework.seeding import generator
from cl_framework.text_rows import problem_rows

from ._problems import Kind, drawn
from ._problems_arithmetic import Arithmetic
from ._problems_code import Code
from ._problems_star_graph import StarGraph
from ._problems_topic import Topic
from ._problems_transform import Transform

_KINDS: Mapping[str, type[Kind]] = {kind.name: kind for kind in (Arithmetic, Transform, Code, StarGraph, Topic)}
_N_PROMPT, _N_ANSWER = 512, 64
"""Bytes of a row's two columns."""
_N_PROBES = 8
"""Further held-out problems of a kind that are named to those who learn, for measurements; fewer where there are none
left."""


@dataclass(kw_only=True)
class Verifiable(Scenario):
    """Kinds of problems in their order, each an experience or several. Goes with a language model.

    `experience.judge` says how right a reply to one of its training prompts is, and names a few problems more that a
    policy may be measured on. The answers of its rows are there for supervised fine-tuning.

    Literature: Tiwari et al., arXiv 2605.12484.
    """

    offers: ClassVar[frozenset[Need]] = frozenset({Need.HISTORY, Need.TEXT, Need.VERIFIER})

    kinds: list[str] = field(default_factory=lambda: ["arithmetic", "transform", "code", "star_graph"])
    """Kinds in their natural order, of arithmetic, transform, code, star_graph and topic (which needs data). A number
    behind a name takes another variant, such as transform:2, among those of the phase; a kind that is named twice comes
    back with other problems."""
    n_train: int = bounded(192, low=1)
    """Training problems of a kind, each time that it is named."""
    n_test: int = bounded(32, low=1)
    """Held-out problems of a kind, each time that it is named."""
    n_samples: int = bounded(4, low=1)
    """Replies to a held-out problem; its accuracy is their mean reward."""
    difficulty: int = bounded(1, low=0, high=3)
    """How large numbers, words, programs and graphs are, and how short articles. 0 are the hundred sums of two digits,
    for model=tiny_lm; only arithmetic has them."""
    n_pieces: int = bounded(1, low=1)
    """Experiences that a kind is cut into. With several, no boundary between experiences tells that the kind changes,
    and held-out rows, which are cut, too, are answered more often."""
    is_online: bool = False
    """Every problem is seen once; sets train.epochs=1."""
    problem_seed: int = bounded(0, low=0)
    """Which problems are drawn."""
    on_error: Literal["zero", "stop"] = "zero"
    """A checker that raises: `zero` gives reward 0, names the error in the feedback and counts it; `stop` ends the
    run."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of one phase: its half of the variants of each kind, and its own problems; `order_seed` shuffles
        the kinds."""
        self._check_pieces()
        named = self._named(phase)
        order = range(len(named)) if order_seed is None else torch.randperm(
            len(named), generator=generator(order_seed, "kinds")).tolist()
        times = Counter(named)
        problems = {kind: (drawn(kind, n * self.n_train, "train", phase, self.problem_seed),
                           drawn(kind, n * self.n_test, "test", phase, self.problem_seed, n_more=_N_PROBES))
                    for kind, n in times.items()}
        visits = Counter[Kind]()
        parts: list[Part] = []
        for kind in (named[at] for at in order):
            visit = visits[kind]
            visits[kind] += 1
            learned, held_out = (every[visit * n:(visit + 1) * n] for every, n in
                                 zip(problems[kind], (self.n_train, self.n_test), strict=True))
            probes = [problem.prompt for problem in problems[kind][1][times[kind] * self.n_test:]]
            pieces = [self._part(kind, learned[piece::self.n_pieces], held_out[piece::self.n_pieces],
                                 ", again" * bool(visit) + f", piece {piece + 1}" * (self.n_pieces > 1))
                      for piece in range(self.n_pieces)]
            parts += [_probed(part, probes) for part in pieces]
        info = StreamInfo(n_experiences=len(parts), n_classes=1, input_shape=(_N_PROMPT, _N_ANSWER),
                          setting=Setting.DOMAIN, is_online=self.is_online, offers=self.offers, is_language=True)
        provenance = {name: digest for kind in times for name, digest in kind.provenance.items()}
        return ResidentStream(info, parts, provenance=provenance)

    def recipe(self) -> dict[str, object]:
        """One epoch when every problem may be seen once only."""
        return {"epochs": 1} if self.is_online else {}

    def _check_pieces(self) -> None:
        faults = [f"scenario.n_pieces={self.n_pieces} leaves pieces without a problem, as scenario.{key} is {n}; take "
                  f"at most {n} pieces" for key, n in (("n_train", self.n_train), ("n_test", self.n_test))
                  if n < self.n_pieces]
        if faults:
            raise ConfigError(faults)

    def _named(self, phase: Phase) -> list[Kind]:
        """The kinds of a phase, with their variants.

        Raises:
            ConfigError: there is no such kind, or it has no such variant.
        """
        if not self.kinds:
            raise ConfigError(f"scenario.kinds is empty; name at least one of {', '.join(_KINDS)}")
        return [self._kind(text, phase) for text in self.kinds]

    def _kind(self, text: str, phase: Phase) -> Kind:
        name, _, number = text.partition(":")
        if name not in _KINDS:
            near = get_close_matches(name, _KINDS, 1)
            raise ConfigError(f"scenario.kinds names '{text}', which is no kind of problem; "
                              + (f"did you mean '{near[0]}'?" if near else f"take some of {', '.join(_KINDS)}"))
        pool = phase_classes(len(_KINDS[name].variants), phase)
        if number and not (number.isdecimal() and len(number) < 4 and int(number) < len(pool)):
            raise ConfigError(f"scenario.kinds names '{text}', but {name} has {len(pool)} variants in phase="
                              f"{Phase(phase)}; put a number from 0 to {len(pool) - 1} behind it, or none")
        if self.difficulty < _KINDS[name].easiest:
            raise ConfigError(f"scenario.difficulty={self.difficulty} is for arithmetic alone, and scenario.kinds "
                              f"names '{text}'; take scenario.difficulty={_KINDS[name].easiest}, or arithmetic alone")
        return _KINDS[name](variant=pool[int(number or 0)], difficulty=self.difficulty)

    def _part(self, kind: Kind, learned: list[Problem], held_out: list[Problem], note: str) -> Part:
        """An experience: rows, and a judge for either side, of which neither knows the problems of the other."""
        checkers, variant = {kind.name: kind.check}, kind.variants[kind.variant]
        train, test = (problem_rows(problems, _N_PROMPT, _N_ANSWER) for problems in (learned, held_out))
        return Part(train=train, test=test, classes=(0,), class_names=(f"{kind.name} ({variant})",),
                    name=f"{kind.name} ({variant}){note}", judge=Checked(learned, checkers, self.on_error),
                    held_out=ReplyTest(test, (0,), Setting.DOMAIN, n_samples=self.n_samples,
                                       judge=Checked(held_out, checkers, self.on_error)))


def _probed(part: Part, probes: list[str]) -> Part:
    """The part with a judge that names further problems."""
    assert part.judge is not None
    return replace(part, judge=Probed(part.judge, probes))
