"""Rows of tokens: a context and its answer, padded on the left so that all answers end in the last column.

    log pi(a | c) = sum_t log softmax(z_t)[a_t],   z_t the logits after c, a_1, ..., a_{t-1}

Bengio et al., "A Neural Probabilistic Language Model", JMLR 2003, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cl_framework.types import Inputs

ROW_KEYS = ("ids", "is_token", "is_answer")
"""Columns of preprocessed rows: ids int64 [B, L], which are no padding and which are an answer's, bool [B, L]."""


def token_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int,
               device: torch.device) -> dict[str, Tensor]:
    """Rows of tokens, padded on the left: all answers end in the last column.

    Args:
        pairs: ids of a context, at least one, and of its answer.
        pad: fills rows up.
        device: where the rows are put.

    Returns:
        `ROW_KEYS`, each [B, L].
    """
    length = max((len(context) + len(answer) for context, answer in pairs), default=1)
    ids = torch.full((len(pairs), length), pad)
    is_token, is_answer = torch.zeros(2, len(pairs), length, dtype=torch.bool)
    for row, (context, answer) in enumerate(pairs):
        whole = [*context, *answer]
        ids[row, length - len(whole):] = torch.tensor(whole)
        is_token[row, length - len(whole):] = True
        is_answer[row, length - len(answer):] = True
    return {"ids": ids.to(device), "is_token": is_token.to(device), "is_answer": is_answer.to(device)}


def positions(is_token: Tensor) -> Tensor:
    """The place of each token in its own text, int64 [B, L]; 0 for padding.

    >>> positions(torch.tensor([[False, True, True]]))
    tensor([[0, 0, 1]])
    """
    return (is_token.cumsum(1) - 1).clamp(min=0)


def answer_log_probs(x: Inputs, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens of answers.

    Args:
        x: preprocessed rows, L columns.
        logits: [B, S, V], those of the last S columns' tokens.

    Returns:
        Two tensors [B, S]: the log-probability of each token, 0 where it is no answer's, and which are an answer's.
    """
    assert not isinstance(x, Tensor)
    n = logits.shape[1]
    ids, is_answer = x["ids"][:, -n:], x["is_answer"][:, -n:]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.gather(2, ids.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)
    return torch.where(is_answer, chosen, torch.zeros_like(chosen)), is_answer
