"""One answer that a policy gave: its tokens, their log-probabilities, and which policy and prompt it came from.

    rho_t = pi_theta(y_t | phi, x, y_<t) / pi_old(y_t | phi, x, y_<t)

needs the log-probabilities of the policy that drew the answer. Both are kept: those that the sampler computed, with
its cache, and those that the trainer's forward pass gives for the same weights; they differ by rounding. They are of
the policy itself, before temperature and top-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_framework.token_rows import answer_log_probs, token_rows

if TYPE_CHECKING:
    from cl_framework.language import LanguageModel

_ROWS = 32
"""Rollouts that are measured at once."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """An answer and where it came from.

    Attributes:
        context_ids: what was asked, int64 [n].
        response_ids: the answer, int64 [m], with the token that ended it unless it was cut.
        sampler_log_probs: of each token of the answer when it was drawn, float32 [m].
        trainer_log_probs: the same by the trainer's forward pass; None until it is measured.
        version: number of the policy that drew it.
        prompt_id: the system prompt that it was asked with.
        text: the answer without its end token, or before its line break where that ended it.
        is_cut: it had not ended when the budget of tokens did.
    """

    context_ids: Tensor
    response_ids: Tensor
    sampler_log_probs: Tensor
    trainer_log_probs: Tensor | None
    version: int
    prompt_id: str
    text: str
    is_cut: bool

    def state_dict(self) -> dict[str, Any]:
        """As tensors and plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> Rollout:
        """What `state_dict` returned as a rollout."""
        return Rollout(**state)


def as_inputs(rollouts: Sequence[Rollout], model: LanguageModel) -> dict[str, Tensor]:
    """Rollouts as rows of tokens on the model's device; `preprocess` passes them, so they may be a batch's `raw`."""
    return token_rows([(rollout.context_ids.tolist(), rollout.response_ids.tolist()) for rollout in rollouts],
                      model.vocabulary.pad, model.device)


def response_log_probs(model: LanguageModel, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the answers under the model as it is, with gradients where they are on.

    Returns:
        Two tensors [N, S], the answers' ends in the last column: the log-probability of each token, 0 where there is
        none, and where there is one.
    """
    x = as_inputs(rollouts, model)
    return answer_log_probs(x, model(x).logits)


def measured(model: LanguageModel, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with the trainer's log-probabilities under the model as it is; its mode is left as it was."""
    found: list[Rollout] = []
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(rollouts), _ROWS):
                some = rollouts[start: start + _ROWS]
                log_probs = response_log_probs(model, some)[0].float().cpu()
                found += [replace(rollout, trainer_log_probs=row[len(row) - len(rollout.response_ids):].clone())
                          for rollout, row in zip(some, log_probs, strict=True)]
    finally:
        model.train(mode)
    return found


def old_log_probs(now: Tensor, rollouts: Sequence[Rollout]) -> Tensor:
    """Log-probabilities of the answers under the policies that drew them, [N, S].

    Args:
        now: under the model as it is, [N, S]; of a rollout that carries none of its own, as it is fresh.
        rollouts: N of them; `trainer_log_probs` are of the policy that drew it.
    """
    kept = [(row, each.trainer_log_probs) for row, each in enumerate(rollouts) if each.trainer_log_probs is not None]
    found = now.detach().clone() if kept else now.detach()
    for row, own in kept:
        found[row, found.shape[1] - len(own):] = own.to(found)
    return found


def padded(values: Sequence[Tensor], width: int) -> Tensor:
    """One vector a rollout as rows [N, width] that end in the last column, 0 before, as in `response_log_probs`.

    >>> padded([torch.tensor([1.0]), torch.tensor([2.0, 3.0])], 2)
    tensor([[0., 1.],
            [2., 3.]])
    """
    rows = torch.zeros(len(values), width, dtype=values[0].dtype)
    for row, value in zip(rows, values, strict=True):
        row[width - len(value):] = value
    return rows
