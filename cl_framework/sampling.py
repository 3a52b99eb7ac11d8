"""Answers of a language model, many at a time, with what their contexts have in common computed once.

    y_t ~ softmax(z_t / temperature),   log pi(y_t) kept from softmax(z_t)

- The tokens that all contexts begin with (a system prompt) go through the network once.
- Each context goes through it once for its n answers. While answers grow, the n newest tokens of a context are one
  call's queries: each attends to the context and to the earlier tokens of its own answer, and to nothing of the
  others. The cache holds a context once and not n times (Juravsky et al., "Hydragen", 2024, arXiv 2402.05099).
- Answers that have ended leave the batch.

Randomness is drawn before the first token, one uniform number for every token of every answer, and turned into tokens
by the inverse of the distribution function: how answers are batched changes no draw. Top-p: Holtzman et al., "The
Curious Case of Neural Text Degeneration", ICLR 2020, arXiv 1904.09751, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, check_ranges
from cl_framework.prefix_cache import PrefixCache
from cl_framework.rollout import Rollout

if TYPE_CHECKING:
    from cl_framework.language import LanguageModel

Stop = Literal["end", "line"]
"""What ends an answer."""
_MOST_TOKENS = 1 << 14
"""Tokens of contexts and answers that are held at once."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = bounded(1.0, low=0.0)
    """Divides the logits; 0 takes the likeliest token."""
    max_new_tokens: int = bounded(16, low=1)
    """The longest answer, with its end token."""
    top_p: float = bounded(1.0, low=0.0, high=1.0)
    """Draw among the likeliest tokens that hold this share of the probability; 1 draws among all."""
    stop: Stop = "end"
    """What ends an answer: the end token alone, or a line break, too."""

    def __post_init__(self) -> None:
        check_ranges(self)


def sample(model: LanguageModel, contexts: Sequence[str], n: int, settings: Sampling, generator: torch.Generator,
           version: int, prompt_ids: Sequence[str] = ()) -> list[list[Rollout]]:
    """n answers to each context; the model and its mode are left as they were.

    Args:
        contexts: the whole text before an answer, from `model.context`.
        n: answers to each.
        settings: how they are drawn.
        generator: a CPU generator; as many numbers are drawn from it whatever the answers are.
        version: number of the policy.
        prompt_ids: the system prompt of each context; empty texts where none are given.

    Returns:
        For each context its n rollouts.

    Raises:
        ConfigError: a context and its longest answer do not fit into the model.
    """
    ids = [model.vocabulary.context_ids(context) for context in contexts]
    check_length(model, ids, settings)
    draws = torch.rand(len(ids), n, settings.max_new_tokens, dtype=torch.float64, generator=generator)
    names = prompt_ids or [""] * len(ids)
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = [rollouts for part in _parts(ids, n * settings.max_new_tokens)
                     for rollouts in _answers(model, ids[part], draws[part], settings, version, names[part])]
    finally:
        model.train(mode)
    return found


def check_length(model: LanguageModel, ids: Sequence[Sequence[int]], settings: Sampling) -> None:
    """Refuse contexts that leave no room for an answer.

    Raises:
        ConfigError: says how long the longest is, and what to set.
    """
    longest = max(map(len, ids), default=0)
    if longest + settings.max_new_tokens > model.max_tokens:
        raise ConfigError(f"a context of {longest} tokens and an answer of up to {settings.max_new_tokens} do not fit "
                          f"into the {model.max_tokens} tokens of the model; shorten the prompt, lower "
                          f"max_new_tokens, or raise model.max_tokens (this network takes {model.n_context})")


def _parts(ids: Sequence[Sequence[int]], n_new: int) -> Iterator[slice]:
    """Contexts that are held at once, in order."""
    start, longest = 0, 0
    for stop, own in enumerate(ids):
        longest = max(longest, len(own))
        if stop > start and (stop + 1 - start) * (longest + n_new) > _MOST_TOKENS:
            yield slice(start, stop)
            start, longest = stop, len(own)
    if start < len(ids):
        yield slice(start, len(ids))


def _answers(model: LanguageModel, ids: Sequence[Sequence[int]], draws: Tensor, settings: Sampling, version: int,
             names: Sequence[str]) -> list[list[Rollout]]:
    """The rollouts of some contexts; `draws` are uniform numbers [C, n, T]."""
    n_contexts, n, n_new = draws.shape
    pad = model.vocabulary.pad
    ends = torch.tensor([model.vocabulary.end, *(model.vocabulary.line_breaks() if settings.stop == "line" else ())])
    tokens = torch.full(draws.shape, pad)
    log_probs = torch.zeros(draws.shape)
    is_alive = torch.ones(n_contexts, n, dtype=torch.bool)
    cache = PrefixCache(model.body, ids, pad, model.device)
    rows, slots = torch.arange(n_contexts).repeat_interleave(n), torch.arange(n).repeat(n_contexts)
    logits = cache.first.repeat_interleave(n, 0)
    for step in range(n_new):
        drawn, own = pick(logits, draws[rows, slots, step], settings)
        tokens[rows, slots, step], log_probs[rows, slots, step] = drawn, own
        is_alive[rows, slots] = ~torch.isin(drawn, ends)
        if step + 1 == n_new or not bool(is_alive.any()):
            break
        rows, slots = is_alive.nonzero(as_tuple=True)
        logits = cache.advance(rows, slots, tokens[rows, slots, step])
    ended = torch.isin(tokens, ends).int()
    lengths = torch.where(ended.any(2), ended.argmax(2) + 1, n_new)
    rollouts = []
    for row, context in enumerate(ids):
        asked = torch.tensor(context)
        rollouts.append([_rollout(model, asked, tokens[row, k, :m], log_probs[row, k, :m], version, names[row],
                                  not bool(ended[row, k].any()), settings.stop)
                         for k, m in enumerate(lengths[row].tolist())])
    return rollouts


def _rollout(model: LanguageModel, asked: Tensor, tokens: Tensor, log_probs: Tensor, version: int, name: str,
             is_cut: bool, stop: Stop) -> Rollout:
    text = model.vocabulary.answer([token for token in tokens.tolist() if token != model.vocabulary.end])
    if stop == "line":
        text = text.partition("\n")[0]
    return Rollout(asked, tokens.clone(), log_probs.clone(), None, version, name, text, is_cut)


def pick(logits: Tensor, draws: Tensor, settings: Sampling) -> tuple[Tensor, Tensor]:
    """A token for each row and its log-probability under the logits as they are.

    Args:
        logits: [R, V].
        draws: uniform on [0, 1), float64 [R].
        settings: how.

    Returns:
        int64 [R] and float32 [R], on the CPU.
    """
    if settings.temperature == 0:
        tokens = logits.argmax(1)
    else:
        shares = (logits / settings.temperature).softmax(1)
        if settings.top_p < 1:
            shares = _nucleus(shares, settings.top_p)
        reached = shares.cumsum(1, dtype=torch.float64)
        level = draws.to(reached.device).unsqueeze(1) * reached[:, -1:]
        tokens = torch.searchsorted(reached, level, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
    log_probs = logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)
    return tokens.cpu(), log_probs.float().cpu()


def _nucleus(shares: Tensor, top_p: float) -> Tensor:
    """The shares of the likeliest tokens that together reach `top_p`, the others 0; the likeliest one always stays."""
    ordered, order = shares.sort(dim=1, descending=True, stable=True)
    is_kept = ordered.cumsum(1, dtype=torch.float64) - ordered < top_p
    is_kept[:, 0] = True
    return torch.zeros_like(shares).scatter(1, order, ordered * is_kept)
