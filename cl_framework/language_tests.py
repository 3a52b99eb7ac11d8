"""Held-out texts, and how answers to them are measured: replies by a judge, passages by their likelihood.

- Replies: each prompt is answered n times, and a hit is the mean reward, mean@n.
- Passages: a hit is a token that is the likeliest of all, given the true text before it. The loss of a token is
  -log p in nats; exp of its mean is the perplexity (Jelinek et al., "Perplexity: a measure of the difficulty of speech
  recognition tasks", JASA 62, 1977).
- Choices: a hit is a passage whose true end is likelier than the ends of others, by the mean log p of its tokens
  (Zellers et al., "HellaSwag", ACL 2019, arXiv 1905.07830, asks for one end of four).

The last token of a passage counts nowhere. It is the one that ends the text, and a passage that was cut off has no end
there: a model that was not trained on such rows finds it so unlikely that it would outweigh the text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cl_framework.data import Asked, Dataset, Measured, TestSet
from cl_framework.errors import DataError
from cl_framework.problems import Judge
from cl_framework.text_rows import PROMPT
from cl_framework.token_rows import answer_log_probs
from cl_framework.tokens import decoded
from cl_framework.types import Batch, Inputs

_LOG = logging.getLogger(__name__)
_ROWS = 8
"""Rows whose logits are held at once: those of 8 rows of 256 tokens are 400 MB for a vocabulary of 50,000; of replies,
which have one token at a time, a stand-in for their keys and values."""
_REPLIES = 64
"""Replies that are asked for at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplyTest(TestSet):
    """Held-out problems: a strategy replies to their prompts, and a judge says how right it is.

    Attributes:
        judge: of these problems.
        n_samples: replies to each.
    """

    n_at_once: ClassVar[int] = _ROWS

    judge: Judge
    n_samples: int = 1

    @property
    def chance(self) -> float:
        """Whoever guesses words is right never."""
        return 0.0

    def prompts(self) -> list[str]:
        """What is asked, a prompt for each row."""
        raw = self.data.raw
        assert not isinstance(raw, Tensor)
        return decoded(raw[PROMPT])

    def measure(self, asked: Asked) -> Iterator[Measured]:
        """Ask for replies to all prompts, some at a time; a hit is a prompt's mean reward, float64."""
        prompts, n = self.prompts(), self.n_samples
        n_failed, reasons = 0, set[str]()
        at_once = max(_REPLIES // n, 1)
        for start in range(0, len(prompts), at_once):
            repeated = [prompt for prompt in prompts[start:start + at_once] for _ in range(n)]
            verdicts = [self.judge.judge(prompt, text) for prompt, text in
                        zip(repeated, asked.replies(repeated), strict=True)]
            failures = [verdict.feedback for verdict in verdicts if verdict.is_failure]
            n_failed, reasons = n_failed + len(failures), reasons | set(failures)
            rewards = torch.tensor([verdict.reward for verdict in verdicts], dtype=torch.float64).view(-1, n).mean(1)
            yield Measured(rewards, rewards, torch.tensor(True))
        if n_failed:
            _LOG.warning("%d of %d replies could not be checked and count as reward 0: %s", n_failed, n * len(prompts),
                         sorted(reasons)[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class PassageTest(TestSet):
    """Held-out passages: how likely a strategy finds their tokens, given the true text before each."""

    n_at_once: ClassVar[int] = _ROWS

    @property
    def chance(self) -> float:
        """Whoever guesses among tens of thousands of tokens is right never."""
        return 0.0

    def measure(self, asked: Asked) -> Iterator[Measured]:
        """Read all passages, some at a time; a hit is a token that is the likeliest."""
        for batch in self.data.batches(self.n_at_once):
            x, logits, log_probs, is_answer = _read(asked, batch)
            assert not isinstance(x, Tensor)
            hits = (logits.argmax(2) == x["ids"][:, -logits.shape[1]:])[is_answer]
            yield Measured(hits, hits, log_probs.isfinite().all(), -log_probs[is_answer])


@dataclass(frozen=True, eq=False, kw_only=True)
class ChoiceTest(TestSet):
    """Held-out passages, each with ends of others: which end a strategy finds the likeliest.

    Attributes:
        choices: for each passage itself, and then its beginning with ends of others, `n_choices` rows.
        n_choices: k.
    """

    n_at_once: ClassVar[int] = _ROWS

    choices: Dataset
    n_choices: int

    @property
    def chance(self) -> float:
        """One of all ends."""
        return 1 / self.n_choices

    def measure(self, asked: Asked) -> Iterator[Measured]:
        """Read every passage with each end. A hit is a passage whose own end has the highest mean log-probability, and
        no equal; an end begins at the first token in which some of the k texts differ. Losses are those of all tokens
        of the true passages."""
        for batch in self.choices.batches(self.n_choices):
            x, _, log_probs, is_answer = _read(asked, batch)
            assert not isinstance(x, Tensor)
            ids = [row[kept] for row, kept in zip(x["ids"][:, -is_answer.shape[1]:], is_answer, strict=True)]
            texts = [row[kept] for row, kept in zip(log_probs, is_answer, strict=True)]
            start = min(_n_shared(ids[0], other) for other in ids[1:])
            if start >= min(map(len, ids)):
                raise DataError("two ends of a held-out passage look alike to the model, which cuts them off; raise "
                                "model.max_tokens or lower scenario.n_bytes")
            means = torch.stack([text[start:].mean() for text in texts])
            hits = (means[:1] > means[1:]).all().unsqueeze(0)
            yield Measured(hits, hits, means.isfinite().all(), -texts[0])


def _n_shared(first: Tensor, second: Tensor) -> int:
    """How many tokens two texts begin with alike."""
    n = min(len(first), len(second))
    differs = (first[:n] != second[:n]).nonzero()
    return int(differs[0]) if len(differs) else n


def _read(asked: Asked, batch: Batch) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    """Rows as the model sees them, logits, log-probabilities of their answers' tokens, and which of these count: all
    but the last.

    Raises:
        DataError: a row has no token to be read.
    """
    ready = asked.prepared(batch)
    logits = asked.logits(ready)
    log_probs, is_answer = answer_log_probs(ready.x, logits.float())
    is_answer = is_answer.clone()
    is_answer[:, -1] = False
    if not bool(is_answer.any(1).all()):
        raise DataError("a held-out passage has no token that could be read; raise model.max_tokens, or leave empty "
                        "texts out")
    return ready.x, logits, log_probs, is_answer
