"""The fast half: prompts evolve by reflection on their replies while the policy stands still.

One iteration of GEPA: a parent is drawn from the frontier and tried on a few problems; a reflector reads its replies
and proposes a child; the child is tried on the same problems, and if its rewards sum to more (strictly), it is tried on
all problems of the anchor set and joins the pool. An iteration begins as long as fewer than `budget` replies were
drawn, so the last one may go beyond. Agrawal et al., GEPA, 2025, arXiv 2507.19457, algorithm 1, without its merging of
two prompts, which is off by default there.

FST begins with several prompts, those that the last cycle kept (Tiwari et al. 2026, arXiv 2605.12484, section 3). Their
old rewards are of an older policy, so they are tried anew on the whole anchor set. Whether that belongs to the budget
is not stated: by default it does not, and it is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import torch

from cl_framework import pareto
from cl_framework.prompt_pool import Pool, Prompt, Selection
from cl_framework.reflectors import Reflector, Trial

Try = Callable[[Prompt, Sequence[int]], list[Trial]]
"""Draws one reply to each of some problems of the anchor set under a prompt."""
_PERFECT = 1.0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How prompts evolve.

    Attributes:
        n_kept: K, prompts that are kept.
        budget: N, replies after which no iteration begins.
        minibatch: problems that parent and child are compared on.
        selection: who is kept and has children.
        is_carried_charged: trying carried prompts anew is part of the budget.
        is_skipping_perfect: a parent without a fault on its problems has no child.
        max_length: characters of the longest prompt.
    """

    n_kept: int
    budget: int
    minibatch: int = 3
    selection: Selection = "pareto"
    is_carried_charged: bool = False
    is_skipping_perfect: bool = True
    max_length: int = 2000


@dataclass
class Counts:
    """What fast phases have cost and led to.

    Attributes:
        metric_calls: replies that the budget counts.
        carried_calls: replies for trying carried prompts anew, where the budget does not count them.
        reflector_calls: prompts that a reflector was asked for.
        accepted, rejected: children that joined a pool, and that did not.
    """

    metric_calls: int = 0
    carried_calls: int = 0
    reflector_calls: int = 0
    accepted: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(own + more for own, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Evolved:
    """What a fast phase leaves: K prompts, the whole pool, the prompts that are new, and the cost."""

    population: list[Prompt]
    pool: Pool
    born: list[Prompt]
    counts: Counts


class Minibatches:
    """Problems for comparisons: shuffled anew in each epoch, every one once; the last minibatch of an epoch is filled
    up with those that were used least.

    >>> draw = Minibatches(4, 3, torch.Generator())
    >>> sorted({*draw.next(), *draw.next()})
    [0, 1, 2, 3]
    """

    def __init__(self, n: int, size: int, generator: torch.Generator) -> None:
        self._n, self._size, self._generator = n, size, generator
        self._rest: list[int] = []

    def next(self) -> list[int]:
        """The next few problems."""
        if not self._rest:
            self._rest = torch.randperm(self._n, generator=self._generator).tolist()
            used = Counter(self._rest)
            while len(self._rest) % self._size:
                least = min(used, key=lambda problem: used[problem])
                self._rest.append(least)
                used[least] += 1
        drawn, self._rest = self._rest[:self._size], self._rest[self._size:]
        return drawn


def evolve(seeds: Sequence[Prompt], n_anchors: int, attempt: Try, reflector: Reflector, rules: Rules,
           generator: torch.Generator, *, n_known: int, is_carried: bool = False, experience: int = 0, cycle: int = 0,
           fits: Callable[[str], bool] = lambda text: True) -> Evolved:
    """One fast phase.

    Args:
        seeds: the prompts to begin with, each once.
        n_anchors: problems of the anchor set.
        attempt: draws replies.
        n_known: prompts that have a name already.
        is_carried: an earlier phase kept the seeds.
        experience, cycle: where in the stream this happens, for the lineage.
        fits: whether a prompt leaves room for a problem and its answer.
    """
    pool, born = Pool(), list[Prompt]()
    for prompt in seeds:
        pool.add(prompt, _rewards(attempt(prompt, range(n_anchors))))
    n_first = len(seeds) * n_anchors
    is_free = is_carried and not rules.is_carried_charged
    counts = Counts(carried_calls=n_first) if is_free else Counts(metric_calls=n_first)
    minibatches = Minibatches(n_anchors, min(rules.minibatch, n_anchors), generator)
    while counts.metric_calls < rules.budget:
        row = _parent(pool, rules.selection, generator)
        parent, problems = pool.prompts[row], minibatches.next()
        trials = attempt(parent, problems)
        counts.metric_calls += len(problems)
        if rules.is_skipping_perfect and all(trial.reward >= _PERFECT for trial in trials):
            continue
        counts.reflector_calls += 1
        offered = reflector.reflect(parent.text, trials, generator)
        is_new = offered is not None and not pool.has(offered.text)
        if offered is None or not is_new or len(offered.text) > rules.max_length or not fits(offered.text):
            counts.rejected += 1
            continue
        child = Prompt(name=f"p{n_known + len(born)}", text=offered.text, parent=parent.name, note=offered.note,
                       experience=experience, cycle=cycle)
        counts.metric_calls += len(problems)
        if sum(_rewards(attempt(child, problems))) <= sum(_rewards(trials)):
            counts.rejected += 1
            continue
        rewards = _rewards(attempt(child, range(n_anchors)))
        counts.metric_calls += n_anchors
        counts.accepted += 1
        child = replace(child, score=sum(rewards) / n_anchors)
        pool.add(child, rewards)
        born.append(child)
    return Evolved(pool.top(rules.n_kept, rules.selection), pool, born, counts)


def _parent(pool: Pool, selection: Selection, generator: torch.Generator) -> int:
    if selection == "best":
        return pareto.best(pool.scores, 1)[0]
    return pareto.draw_parent(pool.scores, generator)


def _rewards(trials: Sequence[Trial]) -> list[float]:
    return [trial.reward for trial in trials]

