"""The smallest policy there is: a table of logits, for tests of what does not depend on a network.

    pi(y_t = v | phi, x) = softmax(theta[phi, x])_v,   t = 1 ... L,

independent tokens of a vocabulary of letters, one row of theta a pair of prompt and problem that was announced. Its
divergences, gradients and success rates are sums that can be written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cl_framework.rollout import Rollout


class TabularPolicy(nn.Module):
    """A table of logits.

    Args:
        logits: of each pair of a prompt's text and a problem, a tensor [V].
        letters: what the tokens are written as, V characters.
        length: L, tokens of an answer.

    >>> policy = TabularPolicy({("p", "x"): torch.tensor([0.0, 9.0])}, "ab", 3)
    >>> policy.sample([policy.context("p", "x")], 1, torch.Generator().manual_seed(0), "p0")[0][0].text
    'bbb'
    """

    def __init__(self, logits: Mapping[tuple[str, str], Tensor], letters: str, length: int = 1) -> None:
        super().__init__()
        self._rows = {self.context(*pair): row for row, pair in enumerate(logits)}
        self.table = nn.Parameter(torch.stack([*logits.values()]))
        self._letters, self._length = letters, length

    def context(self, system: str, problem: str) -> str:
        """Prompt and problem on two lines."""
        return f"{system}\n{problem}"

    def fits(self, contexts: Sequence[str]) -> bool:
        """Those that were announced."""
        return all(context in self._rows for context in contexts)

    @torch.no_grad()
    def sample(self, contexts: Sequence[str], n: int, generator: torch.Generator,
               prompt_id: str) -> list[list[Rollout]]:
        """n answers to each context."""
        found = []
        for context in contexts:
            row = torch.tensor([self._rows[context]])
            log_probs = self.table[row[0]].log_softmax(0)
            drawn = torch.multinomial(log_probs.exp(), n * self._length, True, generator=generator).view(n, -1)
            found.append([Rollout(row, ids, log_probs[ids], None, 0, prompt_id,
                                  "".join(self._letters[place] for place in ids.tolist()), False) for ids in drawn])
        return found

    def log_probs(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """From the table as it is."""
        rows = torch.cat([rollout.context_ids for rollout in rollouts])
        ids = torch.stack([rollout.response_ids for rollout in rollouts])
        log_probs = self.table[rows].log_softmax(1).gather(1, ids)
        return log_probs, torch.ones_like(ids, dtype=torch.bool)
