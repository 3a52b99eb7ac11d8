"""One step of the slow half: G answers to each of B problems, drawn under K prompts, become a loss.

For each problem x and each prompt phi_k of the population, G / K answers are drawn; all G are one group, whatever their
prompts were. So a prompt that works better on x gives its answers positive advantages, and each answer is made
likelier under its own prompt. Groups without two different rewards are dropped. With beta the strength of the anchor,

    L = L_slow + beta * D,   D = the same mean over problems and tokens of an estimate of KL(pi_theta || pi_ref)

under the same prompts (`where=loss`), or each token's advantage loses beta (log pi_old - log pi_ref)
(`where=advantage`).

Tiwari et al., "Learning, Fast and Slow", 2026, arXiv 2605.12484, section 3 and equation 4. The paper's "KL coefficient
to the starting weights" does not say where it enters or how it is estimated: k3 in the loss is our choice. So is the
division by the number of groups that are kept, and not by B.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cl_framework.advantages import Advantage, advantages, is_informative
from cl_framework.divergences import Direction, Estimator, estimate
from cl_framework.errors import ConfigError
from cl_framework.kept_replies import Reply
from cl_framework.policy import Policy
from cl_framework.policy_losses import SlowLoss, best_answers, by_token, cispo, grpo, problem_mean, raft
from cl_framework.problems import Judge
from cl_framework.prompt_pool import Prompt
from cl_framework.rollout import Rollout

Claim = Callable[[str, str, int], Sequence[Reply]]
"""Hands out at most n earlier replies to a problem under a prompt, each once."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """How the slow half learns; the fields are those of the strategies."""

    loss: SlowLoss = "cispo"
    advantage: Advantage = "group"
    strength: float = 0.25
    eps: float = 1e-6
    truncation: float = 4.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    divisor: Literal["kept", "all"] = "kept"
    kl: float = 0.001
    estimator: Estimator = "k3"
    direction: Direction = "reverse"
    where: Literal["loss", "advantage"] = "loss"


class Groups(NamedTuple):
    """Answers to B problems, G each.

    Attributes:
        rollouts: B x G of them, those of a problem side by side.
        rewards: [B, G].
        n_failures: new answers that a checker failed on.
        n_reused: answers that were there before.
    """

    rollouts: list[Rollout]
    rewards: Tensor
    n_failures: int = 0
    n_reused: int = 0


class Lesson(NamedTuple):
    """What a step learns from: the answers of the groups that are kept.

    Attributes:
        rollouts: N of them.
        advantages: [N].
        is_best: the best answer of each group, bool [N]; None where all are learned.
        groups: the problem of each, int64 [N].
        n: what sums over problems are divided by.
    """

    rollouts: list[Rollout]
    advantages: Tensor
    is_best: Tensor | None
    groups: Tensor
    n: int


def check_group(size: int, n_prompts: int) -> None:
    """Refuse a population that does not share a group evenly.

    Raises:
        ConfigError: K does not divide G.
    """
    if size % n_prompts:
        raise ConfigError(f"{size} answers to a problem cannot be shared evenly by {n_prompts} prompts; set group_size "
                          f"to a multiple of n_prompts, such as {-(-size // n_prompts) * n_prompts}")


def draw(policy: Policy, judge: Judge, problems: Sequence[str], prompts: Sequence[Prompt], size: int,
         generator: torch.Generator, claim: Claim | None = None) -> Groups:
    """G answers to each problem, G / K under each prompt; a prompt that is there twice has twice as many.

    Args:
        problems: B of them.
        prompts: the population, K of them.
        size: G.
        claim: earlier replies, which count as answers; what they leave open is drawn.

    Raises:
        ConfigError: K does not divide G.
    """
    check_group(size, len(prompts))
    groups = [list[Reply]() for _ in problems]
    n_failures = n_reused = 0
    for prompt, times in Counter(prompts).items():
        share = size // len(prompts) * times
        earlier = [[] if claim is None else claim(problem, prompt.name, share) for problem in problems]
        fresh = _fresh(policy, judge, problems, prompt, [share - len(own) for own in earlier], generator)
        for group, old, new in zip(groups, earlier, fresh, strict=True):
            group += [*old, *new]
            n_reused += len(old)
            n_failures += sum(reply.verdict.is_failure for reply in new)
    rewards = torch.tensor([[reply.verdict.reward for reply in group] for group in groups])
    return Groups([reply.rollout for group in groups for reply in group], rewards, n_failures, n_reused)


def _fresh(policy: Policy, judge: Judge, problems: Sequence[str], prompt: Prompt, missing: Sequence[int],
           generator: torch.Generator) -> list[list[Reply]]:
    """As many new replies to each problem as are missing; problems that miss as many are answered together."""
    found = [list[Reply]() for _ in problems]
    for n in sorted({*missing} - {0}, reverse=True):
        rows = [row for row, each in enumerate(missing) if each == n]
        contexts = [policy.context(prompt.text, problems[row]) for row in rows]
        for row, own in zip(rows, policy.sample(contexts, n, generator, prompt.name), strict=True):
            found[row] = [Reply(problems[row], each, judge.judge(problems[row], each.text)) for each in own]
    return found


def lesson(groups: Groups, slow: Slow, generator: torch.Generator) -> Lesson | None:
    """What is to be learned; None where no group says anything."""
    rewards, size = groups.rewards, groups.rewards.shape[1]
    chosen = best_answers(rewards, generator) if slow.loss == "raft" else None
    is_kept = is_informative(rewards) if chosen is None else chosen.any(1)
    if not bool(is_kept.any()):
        return None
    likelihood = torch.stack([rollout.sampler_log_probs.mean() for rollout in groups.rollouts]).view_as(rewards)
    found = advantages(rewards, slow.advantage, likelihood=likelihood, strength=slow.strength, eps=slow.eps)
    rows = is_kept.repeat_interleave(size).nonzero().squeeze(1)
    kept = torch.arange(int(is_kept.sum())).repeat_interleave(size)
    best = None if chosen is None else chosen.flatten()[rows]
    return Lesson([groups.rollouts[row] for row in rows.tolist()], found.flatten()[rows], best, kept,
                  len(rewards) if slow.divisor == "all" else int(is_kept.sum()))


def slow_loss(log_probs: Tensor, mask: Tensor, old: Tensor, given: Lesson, references: Sequence[tuple[float, Tensor]],
              slow: Slow) -> Tensor:
    """The loss of one step, a scalar.

    Args:
        log_probs: of the policy that learns, [N, L], with gradients.
        mask: where there is a token, bool [N, L].
        old: of the policy that answered, [N, L].
        given: what to learn from.
        references: the weight and the log-probabilities [N, L] of each policy that this one is held to.
        slow: how.
    """
    groups, n = given.groups.to(log_probs.device), given.n
    each = by_token(given.advantages.to(log_probs))
    if slow.where == "advantage":
        for weight, reference in references:
            each = each - slow.kl * weight * (old - reference)
    if slow.loss == "raft":
        assert given.is_best is not None
        total = raft(log_probs, given.is_best.to(mask.device), mask, groups, n)
    elif slow.loss == "grpo":
        total = grpo(log_probs, old, each, mask, groups, n, low=slow.clip_low, high=slow.clip_high)
    else:
        total = cispo(log_probs, old, each, mask, groups, n, truncation=slow.truncation)
    if slow.where == "loss":
        for weight, reference in references:
            distance = estimate(log_probs, reference, slow.estimator, slow.direction)
            total = total + slow.kl * weight * problem_mean(distance, mask, groups, n)
    return total
