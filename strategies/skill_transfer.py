"""PaST: what reinforcement adds to supervised learning, learned once and added to every later task.

On the first experience, the source, the weights learn its answers and then its rewards; the difference is the skill v.
Each later experience teaches answers alone, and the skill is added:

    v_0 = 0;   for k = 1 ... K:  theta_sft^k <- answers of part k,  theta_rl^k <- rewards, from theta_sft^k + v_{k-1},
                                 v_k = theta_rl^k - theta_sft^k
    later:     theta = theta_sft + mu v_K

Tang, Wang and Zhang, "Parametric Skill Transfer", 2026, arXiv 2601.11258; mu = 1 there, K = 2 rounds over disjoint
parts of the source beat one. Rewards are learned as by strategy=rl, under the model's seed prompt.

Choices: experiences follow one another, and each one's supervised learning begins where the last one's ended, without
the skill, so that it is added once and not once an experience; so do the parts of the source. With an adapter the skill
is its dense update, and lies on the weights beside it. `cosine` is that of the source's supervised update and its
skill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cl_framework.adapters import dense_weights
from cl_framework.data import Dataset
from cl_framework.errors import PluginError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.models import Model
from cl_framework.types import Batch, Output, StreamInfo

from ._slow_half import SlowHalf

Weights = dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class SkillTransfer(SlowHalf):
    """Learns a skill on the first experience, and adds it on every later one."""

    strength: float = tunable(1.0, 0.3, 0.5, 1.0)
    """mu."""
    rounds: int = bounded(1, low=1)
    """K: parts of the source."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """There is no skill yet."""
        super().setup(model, info)
        self._is_rewarded = self._is_on = False
        self._source: Weights = {}
        self._supervised: Weights = {}
        self._skill: Weights = {}
        self._cosine = math.nan

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Take the skill off, so that answers are learned where the last ones' ended."""
        super().before_experience(model, experience)
        if experience.index == 0:
            self._source = dense(model)
        self._put(model, is_on=False)

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Answers, and on the source rewards; then the skill on top."""
        if self._experience > 0:
            train(data)
        else:
            for part in torch.arange(len(data), device=data.device).tensor_split(min(self.rounds, len(data))):
                self._learn_skill(model, data.subset(part), train)
            self._cosine = cosine(difference(self._supervised, self._source), self._skill)
            self._source, self._supervised = {}, {}
        self._put(model, is_on=True)

    def _learn_skill(self, model: Model, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """One round; the model ends as supervised learning left it."""
        train(rows)
        self._supervised = dense(model)
        add(model, self._skill, 1.0)
        self._is_rewarded = True
        for cycle in self._cut(rows):
            train(cycle)
        self._is_rewarded = False
        self._skill = difference(dense(model), self._supervised)
        add(model, self._skill, -1.0)

    def _put(self, model: Model, *, is_on: bool) -> None:
        """Put the skill on the weights, or take it off."""
        if is_on != self._is_on:
            add(model, self._skill, self.strength if is_on else -self.strength)
            self._is_on = is_on

    def _noted(self, model: Model) -> Weights:
        """Those beside an adapter too: the skill lies there."""
        beside = {} if model.adapter is None else model.adapter.weights
        return {**super()._noted(model), **{name: value.detach().clone() for name, value in beside.items()}}

    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """Not by cycles; see `fit`."""

    # one step: the slow half's while rewards are learned

    def _warmth(self) -> float:
        """Supervised learning begins warm."""
        return super()._warmth() if self._is_rewarded else 1.0

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Rows as they are, or replies."""
        return super().prepare_batch(model, batch) if self._is_rewarded else batch

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """Of the answers, or of the slow half."""
        return super().loss(model, batch, output) if self._is_rewarded else model.loss(batch, output)

    def after_backward(self, model: Model) -> None:
        """Without a lesson there is no step."""
        if self._is_rewarded:
            super().after_backward(model)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Count the steps that learn from rewards."""
        if self._is_rewarded:
            super().after_step(model, batch, output)

    def metrics(self) -> Mapping[str, float]:
        """The slow half's figures, and how supervised update and skill lie to each other."""
        others = super().metrics()
        held = sum(value.numel() * value.element_size() for value in self._held())
        angle = {"cosine": self._cosine} if math.isfinite(self._cosine) else {}
        return {**others, **angle, "memory_bytes": others["memory_bytes"] + held}

    def _held(self) -> list[Tensor]:
        return [value for weights in (self._source, self._supervised, self._skill) for value in weights.values()]

    def state_dict(self) -> dict[str, Any]:
        """The skill, and what it is made of while it is learned."""
        return {**super().state_dict(), "source": dict(self._source), "supervised": dict(self._supervised),
                "skill": dict(self._skill), "is_rewarded": self._is_rewarded, "is_on": self._is_on,
                "cosine": self._cosine}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(model, state)
        self._source, self._supervised, self._skill = (
            {name: value.to(model.device) for name, value in state[key].items()}
            for key in ("source", "supervised", "skill"))
        self._is_rewarded, self._is_on, self._cosine = state["is_rewarded"], state["is_on"], state["cosine"]


def dense(model: Model) -> Weights:
    """Copies of the weights as they act, an adapter's update included."""
    return {name: value.clone() for name, value in dense_weights(model)}


def difference(after: Weights, before: Weights) -> Weights:
    """What changed, by name; weights that did not are left out.

    Raises:
        PluginError: both are not of one network.
    """
    if {name: value.shape for name, value in after.items()} != {name: value.shape for name, value in before.items()}:
        raise PluginError("a skill is the difference of two states of one network, and these have other names or "
                          "shapes; take both from one model")
    moved = {name: value - before[name] for name, value in after.items()}
    return {name: value for name, value in moved.items() if bool(value.any())}


@torch.no_grad()
def add(model: Model, skill: Weights, strength: float) -> None:
    """Add an update to the weights; beside an adapter to the weights there, after its own update was."""
    if not skill:
        return
    own: dict[str, Tensor] = dict(model.named_parameters())
    if model.adapter is not None:
        model.fold()
        own |= {name.replace(".base_layer.", "."): value for name, value in model.adapter.weights.items()}
    for name, value in skill.items():
        own[name].add_(value, alpha=strength)


def cosine(first: Weights, second: Weights) -> float:
    """The cosine of two updates; NaN where one is nothing."""
    inner = sum(float((first[name].double() * second[name].double()).sum()) for name in first.keys() & second.keys())
    norm = math.prod(math.sqrt(sum(float(value.double().square().sum()) for value in each.values()))
                     for each in (first, second))
    return inner / norm if norm else math.nan
