"""Two ways to improve contexts on the rows of a fast phase, while the weights stand still.

Evolution, without derivatives: a parent is drawn from the Pareto frontier over single rows; its child is

    parent + sigma * standard normal noise,    or each of the D features' scale and shift from the parent or a mate,

and is accepted if and only if its scores on a minibatch sum to more than the parent's (strictly). An accepted child is
scored on all rows and joins the pool. An iteration begins as long as fewer than N scores were taken, so the last one
may go beyond: GEPA's loop (Agrawal et al. 2025, arXiv 2507.19457, algorithm 1), with noise where a model that reads
replies would propose a text. This is the analogue's own: no text, and no reflection.

Gradient: K contexts take turns at one step of SGD on the cross-entropy of a minibatch,

    c <- c - eta_fast grad_c CE(z(x; c), y),

until N rows were seen; then they are scored on all A rows and join the pool of those that they began as.

In both, contexts that were carried over are scored anew first, as the weights have moved; that is counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_framework import pareto
from cl_framework.prompt_evolution import Minibatches

from ._contexts import Anchors


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How contexts improve.

    Attributes:
        n_kept: K, contexts that are kept.
        budget: N, scores after which no iteration or step begins.
        minibatch: rows that parent and child are compared on, or that a step of SGD has.
        sigma: deviation of the noise.
        crossover: probability of a mate, where the pool has one.
        lr: eta_fast.
    """

    n_kept: int
    budget: int
    minibatch: int
    sigma: float
    crossover: float
    lr: float


@dataclass
class Pool:
    """Contexts [2, D] each, their scores on all rows, and what they have cost.

    Attributes:
        contexts: in the order in which they came.
        scores: one row a context, one column an anchor.
        calls: scores that the budget counts.
        carried: scores of the contexts that were there at the beginning.
        accepted, rejected: children, or tuned contexts, that joined and that did not.
    """

    contexts: list[Tensor]
    scores: list[list[float]]
    calls: int = 0
    carried: int = 0
    accepted: int = 0
    rejected: int = 0

    def top(self, k: int) -> list[int]:
        """The k that are kept: the frontier by mean score, then the others, then the same again."""
        return pareto.top(self.scores, k)


def evolved(seeds: Tensor, anchors: Anchors, rules: Rules, generator: torch.Generator) -> Pool:
    """Evolution from some contexts, [n, 2, D]."""
    pool = _begun(seeds, anchors)
    minibatches = Minibatches(len(anchors), min(rules.minibatch, len(anchors)), generator)
    while pool.calls < rules.budget:
        parent = pareto.draw_parent(pool.scores, generator)
        child = _child(pool.contexts, parent, rules, generator)
        rows = minibatches.next()
        pool.calls += 2 * len(rows)
        is_new = not any(torch.equal(child, other) for other in pool.contexts)
        is_better = sum(anchors.scores(child, rows)) > sum(anchors.scores(pool.contexts[parent], rows))
        if is_new and is_better:
            pool.contexts.append(child)
            pool.scores.append(anchors.scores(child))
            pool.calls += len(anchors)
            pool.accepted += 1
        else:
            pool.rejected += 1
    return pool


def tuned(seeds: Tensor, anchors: Anchors, rules: Rules, generator: torch.Generator) -> Pool:
    """SGD from some contexts, [n, 2, D]; where there are fewer than K, from the same again with noise."""
    pool = _begun(seeds, anchors)
    starts = [seeds[place % len(seeds)] + (_noise(seeds[0], rules, generator) if place >= len(seeds) else 0.0)
              for place in range(rules.n_kept)]
    minibatches = Minibatches(len(anchors), min(rules.minibatch, len(anchors)), generator)
    step = 0
    while pool.calls < rules.budget:
        rows, place = minibatches.next(), step % rules.n_kept
        context = starts[place].detach().requires_grad_()
        slope, = torch.autograd.grad(-anchors.log_right(context, rows).mean(), context)
        starts[place] = (context - rules.lr * slope).detach()
        pool.calls += len(rows)
        step += 1
    for context in starts:
        pool.contexts.append(context)
        pool.scores.append(anchors.scores(context))
        pool.calls += len(anchors)
    kept = pool.top(rules.n_kept)
    pool.accepted = len({row for row in kept if row >= len(seeds)})
    pool.rejected = len(starts) - pool.accepted
    return pool


def _begun(seeds: Tensor, anchors: Anchors) -> Pool:
    return Pool([*seeds], [anchors.scores(context) for context in seeds], carried=len(seeds) * len(anchors))


def _child(contexts: Sequence[Tensor], parent: int, rules: Rules, generator: torch.Generator) -> Tensor:
    """A child of one context, or of it and a mate."""
    own = contexts[parent]
    is_crossed = float(torch.rand((), generator=generator)) < rules.crossover
    if not is_crossed or len(contexts) < 2:
        return own + _noise(own, rules, generator)
    others = [row for row in range(len(contexts)) if row != parent]
    mate = contexts[others[int(torch.randint(len(others), (), generator=generator))]]
    is_own = torch.rand(own.shape[1], generator=generator).to(own.device) < 0.5
    return torch.where(is_own, own, mate)


def _noise(like: Tensor, rules: Rules, generator: torch.Generator) -> Tensor:
    return rules.sigma * torch.randn(like.shape, generator=generator).to(like)
