"""Fast-slow contexts: an analogue of FST for labelled rows such as images. It is not FST.

    for each cycle:
        the next T batches of B rows are looked at
        Phi <- top K of the frontier of search(Phi, on these T x B rows, weights theta standing still)
        T steps on the same rows:  L(theta) = 1/K sum_k CE(z(x; c_k), y),  c_k in Phi

The slow weights are body and head; the fast weights are K context vectors, each a scale and a shift of the features
(`_contexts`, where it is said why there). Analogue of Tiwari et al., "Learning, Fast and Slow: Towards LLMs That Adapt
Continually", 2026, arXiv 2605.12484, algorithm 1. What it keeps: look ahead, fast phase first and on the rows that the
steps learn, a population carried on, a frontier over single rows, no sign that the task has changed. What it does not
have: text, a model that reflects in words, a network that was trained to follow instructions. Labels are dense, so
reinforcement would be a handicap: the slow loss is cross-entropy, and `slow=cispo` on an answer of one token (a label)
is there as an ablation.

Validity: weights must react to contexts. Logits are affine in a context, so they do from the beginning; so that they
work with and without, `dropout` learns some rows under the seed context, and `jitter` disturbs contexts in each step.
`reaction` in the metrics is the mean total variation distance between answers under the best context and under none:
at 0 the fast weights are inert.

Held-out rows are all answered under one context, the best on the last rows that were looked at; nothing tells the task.
Rows of an online stream are answered under the one that was best before they were looked at; but weights have taken
steps meanwhile under contexts that know the labels of rows to come, up to T batches ahead. Rows are put into a random
order before they are cut into cycles, since an experience may hold its classes one after the other. Each cycle is a
`train` call: `train.epochs` above 1 learns a cycle's rows several times, and `train.reset_optimizer=false` carries
moments from cycle to cycle. Penalties of other strategies in a chain see the logits without a context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_framework import pareto
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.seeding import generator
from cl_framework.strategy import Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo, n_bytes

from ._context_search import Rules, evolved, tuned
from ._contexts import Anchors, different, modulated, seed_context
from ._label_rewards import reinforced

_NAME = "fast_slow_context"
_COUNTS = ("samples", "metric_calls", "carried_calls", "accepted", "rejected", "reaction")


@dataclass(kw_only=True, eq=False)
class FastSlowContext(Strategy):
    """Weights and context vectors in turns: an analogue of FST, not FST."""

    neutral: ClassVar[Mapping[str, object]] = {"passes": 0.0, "jitter": 0.0, "slow": "cross_entropy"}

    fast: Literal["evolution", "gradient"] = "evolution"
    """How contexts improve: noise and crossover, accepted where strictly better, or a few steps of SGD at a high rate
    (further from FST, whose fast half has no gradient)."""
    slow: Literal["cross_entropy", "cispo"] = "cross_entropy"
    """How weights learn: by cross-entropy averaged over the contexts, or, as an ablation, by CISPO on labels drawn from
    the softmax."""
    n_contexts: int = tunable(4, 1, 2, 4, 8, low=1)
    """K: contexts that are kept."""
    steps_per_cycle: int = tunable(6, 3, 6, 12, low=1)
    """T: batches of a cycle, each of `train.batch_size` rows."""
    passes: float = tunable(5.0, 2.0, 5.0, 20.0, low=0.0)
    """Scores that a fast phase may take, as passes over its rows: N = passes x T x B. 0 is no fast phase and no
    cycles."""
    minibatch: int = bounded(16, low=1)
    """Rows that parent and child are compared on, or of a step on a context."""
    sigma: float = tunable(0.1, 0.03, 0.1, 0.3, low=0.0)
    """Deviation of the noise on a child."""
    crossover: float = bounded(0.25, low=0.0, high=1.0)
    """Probability that a child is made of two contexts instead of noise."""
    fast_lr: float = tunable(1.0, 0.1, 1.0, 10.0, low=0.0)
    """Learning rate of fast=gradient."""
    dropout: float = tunable(0.1, 0.0, 0.1, 0.5, low=0.0, high=1.0)
    """Probability that a row is learned under the seed context in the place of one of the population's."""
    jitter: float = tunable(0.1, 0.0, 0.1, 0.3, low=0.0)
    """Deviation of the noise on contexts in each step."""
    evaluation_context: Literal["best", "seed"] = "best"
    """What rows are answered under: the best context on the last rows that were looked at, or none."""
    group_size: int = bounded(8, low=1)
    """G, of slow=cispo: labels that are drawn for a row, G / K under each context."""
    truncation: float = bounded(4.0, low=0.0)
    """tau, of slow=cispo: the largest ratio of probabilities. Labels are fresh, so the ratio is 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slow == "cispo" and self.group_size % self.n_contexts:
            raise ConfigError(f"{self.group_size} labels for a row cannot be shared evenly by {self.n_contexts} "
                              "contexts; set group_size to a multiple of n_contexts, such as "
                              f"{2 * self.n_contexts}")

    def setup(self, model: Model, info: StreamInfo) -> None:
        """The population is the seed context."""
        self._seed, self._batch_size = info.seed, max(info.batch_size, 1)
        self._seed_context = seed_context(model)
        self._population = self._best = self._before = self._seed_context
        self._experience, self._cycle, self._n_steps = 0, -1, 0
        self._counts: dict[str, float] = dict.fromkeys(_COUNTS, 0)
        self._is_idle = False

    def before_experience(self, model: Model, experience: Experience) -> None:
        """No cycle of it has begun."""
        self._experience, self._cycle = experience.index, -1

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Cycle after cycle: the fast phase, then T steps on the same rows."""
        if self.passes == 0:
            train(data)
            return
        for cycle, rows in enumerate(self._cut(data)):
            if cycle > self._cycle:
                self._improve(model, rows, cycle)
                self._cycle = cycle
            train(rows)

    def _cut(self, data: Dataset) -> list[Dataset]:
        """The rows of each cycle; the last may have fewer."""
        order = torch.randperm(len(data), generator=generator(self._seed, _NAME, "rows", self._experience))
        return [data.subset(rows) for rows in order.to(data.device).split(self.steps_per_cycle * self._batch_size)]

    def _improve(self, model: Model, rows: Dataset, cycle: int) -> None:
        """One fast phase. Of the model, its mode and the global generators nothing changes."""
        anchors = Anchors(model, rows)
        rules = Rules(n_kept=self.n_contexts, budget=round(self.passes * len(anchors)), minibatch=self.minibatch,
                      sigma=self.sigma, crossover=self.crossover, lr=self.fast_lr)
        search = evolved if self.fast == "evolution" else tuned
        draws = generator(self._seed, _NAME, "fast", self._experience, cycle)
        pool = search(different(self._population), anchors, rules, draws)
        kept, means = pool.top(self.n_contexts), pareto.means(pool.scores)
        best = pool.contexts[max(range(len(means)), key=lambda row: means[row])]
        self._before = self._best
        self._population = torch.stack([pool.contexts[row] for row in kept])
        if self.evaluation_context == "best":
            self._best = best.unsqueeze(0)
        found = {"metric_calls": pool.calls, "carried_calls": pool.carried, "accepted": pool.accepted,
                 "rejected": pool.rejected}
        self._counts = {**self._counts, **{name: self._counts[name] + n for name, n in found.items()},
                        "reaction": anchors.distance(best, self._seed_context[0])}

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The slow loss: every row under every context of the population."""
        draws = generator(self._seed, _NAME, "step", self._n_steps)
        features = self._learned_under(output.features, draws)
        k = len(features)
        flat = features.flatten(0, 1)
        task = None if batch.task is None else batch.task.repeat(k)
        every = Batch(batch.raw, batch.x, batch.y.repeat(k), task)
        if self.slow == "cross_entropy":
            return model.loss(every, Output(model.head(flat), flat))
        logits, allowed = model.head(flat), model.allowed(task)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        found = reinforced(logits.log_softmax(1).unflatten(0, (k, -1)), batch.y, self.group_size, self.truncation,
                           draws)
        self._is_idle = found is None
        return 0 * flat.sum() if found is None else found

    def _learned_under(self, features: Tensor, draws: torch.Generator) -> Tensor:
        """Features [B, D] under the population, jittered, and here and there under the seed context, [K, B, D]."""
        contexts = self._population
        noise = torch.randn(contexts.shape, generator=draws).to(contexts)
        is_dropped = torch.rand(len(contexts), len(features), 1, generator=draws).to(features.device) < self.dropout
        return torch.where(is_dropped, features, modulated(features, contexts + self.jitter * noise))

    def after_backward(self, model: Model) -> None:
        """Where no group of labels says anything there is no step."""
        if self._is_idle:
            for parameter in model.parameters():
                parameter.grad = None

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Count it."""
        self._n_steps += 1
        self._counts["samples"] += len(batch.y)
        self._is_idle = False

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The logits under the best context."""
        return self._answer(model, x, self._best)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The logits under the context that was best before these rows were looked at."""
        with torch.no_grad():
            return self._answer(model, x, self._before)

    def _answer(self, model: Model, x: Inputs, context: Tensor) -> Tensor:
        logits: Tensor = model.head(modulated(model(x).features, context).squeeze(0))
        return logits

    def metrics(self) -> Mapping[str, float]:
        """What the phases have cost, whether contexts matter, and the bytes of the contexts."""
        kept = {"population": self._population, "best": self._best, "before": self._before}
        return {**self._counts, "contexts": len(different(self._population)), "memory_bytes": n_bytes(kept)}

    def state_dict(self) -> dict[str, Any]:
        """The contexts, where the stream is, and the counters."""
        return {"population": self._population, "best": self._best, "before": self._before,
                "place": [self._experience, self._cycle, self._n_steps], "counts": dict(self._counts)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._population, self._best, self._before = (state[name].to(model.device)
                                                      for name in ("population", "best", "before"))
        self._experience, self._cycle, self._n_steps = state["place"]
        self._counts = dict(state["counts"])
