"""The slow half: the weights learn from the rewards of replies; the prompts stand still meanwhile.

A batch of B problems becomes B x G replies, drawn by the weights as they are. Those of groups that say something are
what the network then sees, and the loss is of `cl_framework.slow_step`. The old policy's log-probabilities are those of
this very forward pass: replies are fresh, so the ratio is exactly 1 at every step, and there is no pass for it. Replies
of an earlier policy, where a strategy hands some out, bring the log-probabilities of that policy with them.

Dropout is off, as it is when replies are drawn: with it the ratio would not be 1, nor the divergence 0 at the anchor. A
batch that says nothing is no step: no gradient reaches the optimizer, whose state stays as it is to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.data import Dataset
from cl_framework.divergences import base_share, entropy
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded, tunable
from cl_framework.group_figures import group_figures
from cl_framework.kept_replies import Reply
from cl_framework.models import Model
from cl_framework.policy_losses import truncated_share
from cl_framework.probed import probes_of
from cl_framework.prompt_pool import Prompt
from cl_framework.recipe import Recipe
from cl_framework.rollout import Rollout, as_inputs, measured, old_log_probs, padded
from cl_framework.seeding import generator
from cl_framework.slow_step import Lesson, Slow, draw, lesson, slow_loss
from cl_framework.standing_weights import noted, standing_in
from cl_framework.token_rows import answer_log_probs
from cl_framework.types import NOT_YET, Batch, Output, StreamInfo

from ._cycles import Cycles, speaking, texts

_PROBES = 4
"""Replies to each problem that the drift is measured on."""


@dataclass(kw_only=True, eq=False)
class SlowHalf(Cycles):
    """Learns weights from rewards. A strategy says in `_meet` when."""

    slow: Literal["cispo", "grpo", "raft"] = "cispo"
    """The loss: CISPO's truncated and GRPO's clipped policy gradient, or RAFT's likelihood of the best reply."""
    group_size: int = bounded(8, low=1)
    """G: replies to a problem, under all prompts together."""
    advantage: Literal["group", "batch", "unlikely", "beta"] = "group"
    """What a reward counts: against its group's mean, over the deviation of the group or of the batch, with likely
    replies counting less, or weighted by a Beta density."""
    unlikely_strength: float = tunable(0.25, 0.25, 0.5, 1.0, low=0.0, high=1.0)
    """Share of its reward that the likeliest reply loses under advantage=unlikely."""
    eps: float = bounded(1e-6, low=0.0)
    """Added to a deviation of rewards. The paper's value is not known; 1e-6 is an assumption."""
    truncation: float = tunable(4.0, 1.0, 2.0, 4.0, low=0.0)
    """tau: the largest ratio of slow=cispo. It binds only where replies are older than the weights, as with
    `is_reusing`."""
    clip_low: float = bounded(0.2, low=0.0, high=1.0)
    """Of slow=grpo."""
    clip_high: float = bounded(0.28, low=0.0)
    """Of slow=grpo."""
    divisor: Literal["kept", "all"] = "kept"
    """What the sum over problems is divided by: those whose rewards differ, or all of the batch. Not stated by the
    paper; the former is an assumption."""
    kl: float = tunable(0.001, 0.0, 1e-3, 1e-2, 1e-1, low=0.0)
    """Strength of the pull to the anchor."""
    kl_where: Literal["loss", "advantage"] = "loss"
    """Whether the divergence is a term of the loss or is taken from each token's advantage. Not stated by the paper."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """How the divergence is estimated from the replies. Not stated by the paper."""
    kl_direction: Literal["reverse", "forward"] = "reverse"
    """KL(policy || anchor), or the other way round."""
    anchor: Literal["base", "previous", "mixed"] = "base"
    """What the policy is held to: the weights before the stream, those before the experience, or both."""
    base_share: float = bounded(0.5, low=0.0, high=1.0)
    """Share of the former under anchor=mixed."""
    anchor_schedule: Literal["constant", "decay"] = "constant"
    """Whether that share stays, or decays from 1 to 0.5 after 50 steps, as in ReMix."""
    warmup_steps: int = bounded(10, low=0)
    """Steps that learn something over which the learning rate grows to train.lr, once a stream."""
    n_probes: int = bounded(8, low=0)
    """Problems of an experience that the divergence from the base is measured on when it ends, of those learned and of
    those that the scenario names beside them; 0 measures none and keeps no copy of the base for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slow == "raft" and self.kl_where == "advantage" and self.kl > 0:
            raise ConfigError("slow=raft learns no advantages, so kl_where=advantage would hold it to nothing; set "
                              "kl_where=loss or kl=0")

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Note the base, where something needs it."""
        super().setup(model, info)
        without_dropout(model)
        self._slow = Slow(
            loss=self.slow, advantage=self.advantage, strength=self.unlikely_strength, eps=self.eps,
            truncation=self.truncation, clip_low=self.clip_low, clip_high=self.clip_high, divisor=self.divisor,
            kl=self.kl, estimator=self.kl_estimator, direction=self.kl_direction, where=self.kl_where)
        is_held = self.kl > 0 and self.anchor != "previous"
        self._base = self._noted(model) if is_held or self.n_probes else {}
        self._previous: dict[str, Tensor] = {}
        self._n_updates = 0
        self._n_steps = self._n_samples = self._n_replies = self._n_reused = self._n_failed_checks = 0
        self._sums: dict[str, tuple[float, int]] = {}
        self._drift: dict[str, float] = {}
        self._given: Lesson | None = None
        self._references: list[tuple[float, Tensor]] = []
        self._probes: dict[str, Sequence[str]] = {}

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Note the weights before it, where the anchor is there."""
        super().before_experience(model, experience)
        self._sums = {}
        if self.kl > 0 and self.anchor != "base":
            self._previous = self._noted(model)

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """All rows. The drift is measured on the first few, and on problems that are not among them."""
        first = torch.arange(min(self.n_probes, len(data)), device=data.device)
        self._probes = {"": texts(data.take(first).raw, "prompt"),
                        "_held_out": probes_of(experience.judge)[:self.n_probes]}
        return super().train_data(experience, data)

    def _noted(self, model: Model) -> dict[str, Tensor]:
        """The weights that make a policy of this stream."""
        return noted(model)

    def _prompts(self) -> Sequence[Prompt]:
        """The prompts that replies are drawn under."""
        return self._population

    @property
    def _version(self) -> int:
        """Number of the weights as they are."""
        return self._n_steps

    def _claim(self, problem: str, prompt_id: str, n: int) -> Sequence[Reply]:
        """At most n earlier replies to a problem under a prompt, each once. There are none."""
        return ()

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Draw replies, and let the network see those that say something."""
        problems, draws = texts(batch.raw, "prompt"), generator(self._seed, "slow", self._experience, self._n_steps)
        groups = draw(self._policy(model), self._verdicts(), problems, self._prompts(), self.group_size, draws,
                      self._claim)
        self._given = lesson(groups, self._slow, draws)
        self._n_samples += len(problems)
        self._n_replies += len(groups.rollouts) - groups.n_reused
        self._n_reused += groups.n_reused
        self._n_failed_checks += groups.n_failures
        for name, value in group_figures(groups.rewards, [rollout.text for rollout in groups.rollouts]).items():
            self._add(name, value)
        rollouts = groups.rollouts[:1] if self._given is None else self._given.rollouts
        self._references = [] if self._given is None else self._measure(model, rollouts)
        x = as_inputs(rollouts, speaking(model))
        return Batch(x, NOT_YET, torch.zeros(len(rollouts), dtype=torch.int64, device=x["ids"].device))

    def _measure(self, model: Model, rollouts: Sequence[Rollout]) -> list[tuple[float, Tensor]]:
        """The weight of each anchor and its log-probabilities of the replies, [N, S]."""
        if self.kl == 0:
            return []
        share = base_share(self.anchor, self.base_share, self.anchor_schedule, self._n_steps)
        pulls = [(weight, kept) for weight, kept in ((share, self._base), (1 - share, self._previous)) if weight]
        return [(weight, self._under(kept, model, rollouts)) for weight, kept in pulls]

    def _under(self, weights: Mapping[str, Tensor], model: Model, rollouts: Sequence[Rollout]) -> Tensor:
        """Log-probabilities of replies under other weights, [N, S]."""
        with standing_in(model, weights):
            found = [each.trainer_log_probs for each in measured(speaking(model), rollouts)]
        rows = [row for row in found if row is not None]
        return padded(rows, max(map(len, rows))).to(model.device)

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The loss of the slow half."""
        log_probs, mask = answer_log_probs(batch.x, output.logits)
        if self._given is None:
            return 0 * log_probs.sum()
        old = old_log_probs(log_probs, self._given.rollouts)
        with torch.no_grad():
            self._add("entropy", float(entropy(output.logits)[mask].mean()))
        self._add("truncated", truncated_share(log_probs, old, mask, self.truncation))
        return slow_loss(log_probs, mask, old, self._given, self._references, self._slow)

    def after_backward(self, model: Model) -> None:
        """Without a lesson there is no step; of one, note how long its gradient is, before it is clipped."""
        if self._given is None:
            for parameter in model.parameters():
                parameter.grad = None
            return
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        self._add("gradient_norm", float(torch.stack(norms).norm()))

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Count it."""
        self._n_steps += 1
        self._n_updates += self._given is not None
        self._given, self._references = None, []

    def optimizer(self, params: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
        """What `train.*` says, with the warm-up around each of its steps."""
        optimizer = super().optimizer(params, recipe)
        rates: list[float] = []

        def before(optimizer: Optimizer, args: object, kwargs: object) -> None:
            rates[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] *= self._warmth()

        def after(optimizer: Optimizer, args: object, kwargs: object) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        return optimizer

    def _warmth(self) -> float:
        """What the learning rate of the next step is multiplied by."""
        return min((self._n_updates + 1) / max(self.warmup_steps, 1), 1.0)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Measure how far the weights are from the base, under the seed prompt and under the best one."""
        super().after_experience(model, experience)
        named = {"kl_seed": self._lineage[0], "kl_best": self._best}
        self._drift = {}
        for where, problems in self._probes.items():
            if problems:
                found = {prompt: self._divergence(model, prompt, problems) for prompt in dict.fromkeys(named.values())}
                self._drift |= {f"{name}{where}": value for name, prompt in named.items()
                                if (value := found[prompt]) is not None}

    def _divergence(self, model: Model, prompt: Prompt, problems: Sequence[str]) -> float | None:
        """Mean over tokens of log pi - log pi_base of replies that pi draws, under one prompt for both; None where that
        prompt leaves no room for an answer to any of the problems."""
        policy = self._policy(model)
        draws = generator(self._seed, "drift", self._experience)
        contexts = [each for problem in problems if policy.fits([each := policy.context(prompt.text, problem)])]
        if not contexts:
            return None
        rollouts = [each for own in policy.sample(contexts, _PROBES, draws, prompt.name) for each in own]
        own, base = self._under({}, model, rollouts), self._under(self._base, model, rollouts)
        return float((own - base).sum() / sum(len(rollout.response_ids) for rollout in rollouts))

    def _add(self, name: str, value: float) -> None:
        """Count a figure of one step towards its mean over the experience."""
        total, n = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, n + 1)

    def metrics(self) -> Mapping[str, float]:
        """What the steps have cost, and what the last experience's were like."""
        means = {name: total / n for name, (total, n) in self._sums.items()}
        kept, others = [*self._base.values(), *self._previous.values()], super().metrics()
        return {**others, "samples": self._n_samples, "slow_rollouts": self._n_replies,
                "rollouts": self._n_replies + others.get("rollouts", 0),
                "failed_checks": self._n_failed_checks + others.get("failed_checks", 0), **means, **self._drift,
                "memory_bytes": sum(value.numel() * value.element_size() for value in kept)}

    def state_dict(self) -> dict[str, Any]:
        """The weights before the experience, and the counters; the base is what `setup` finds."""
        return {**super().state_dict(), "previous": dict(self._previous), "sums": dict(self._sums),
                "drift": dict(self._drift), "updates": self._n_updates, "counts": [
                    self._n_steps, self._n_samples, self._n_replies, self._n_reused, self._n_failed_checks]}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(model, state)
        self._previous = {name: value.to(model.device) for name, value in state["previous"].items()}
        self._sums, self._drift = dict(state["sums"]), dict(state["drift"])
        self._n_steps, self._n_samples, self._n_replies, self._n_reused, self._n_failed_checks = state["counts"]
        self._n_updates = state["updates"]


def without_dropout(model: Model) -> None:
    """Set every dropout of a network to 0: layers, and the shares that attention modules keep as numbers."""
    for module in model.modules():
        is_layer = isinstance(module, nn.modules.dropout._DropoutNd)
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (is_layer and name == "p")):
                setattr(module, name, 0.0)
