"""Keys and values of contexts and of the answers that grow after them, each context held once.

A call's queries are the newest tokens of the answers of every context. The columns of the cache are the context's
tokens and then those of its answers in the order in which they came; a mask lets a query see

    column j   if   j is a token of the context, or j belongs to the query's own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.extras import load_extra
from cl_framework.token_rows import positions, token_rows

_CONTEXT, _NOBODY = -1, -2
"""Owners of columns that are no answer's."""


class PrefixCache:
    """The cache of C contexts.

    Args:
        network: a causal network of transformers, in evaluation mode.
        ids: of each context.
        pad: fills rows up.
        device: of the network.

    Attributes:
        first: logits of the first token of an answer, [C, V].
    """

    def __init__(self, network: nn.Module, ids: Sequence[Sequence[int]], pad: int, device: torch.device) -> None:
        self._network, self._device = network, device
        transformers = load_extra("transformers", model="causal_lm", extra="llm")
        self._cache = transformers.DynamicCache()
        shared = _shared(ids)
        if shared:
            network(input_ids=torch.tensor([list(ids[0][:shared])], device=device), past_key_values=self._cache,
                    use_cache=True, logits_to_keep=1)
            self._cache.batch_repeat_interleave(len(ids))
        x = token_rows([(own[shared:], ()) for own in ids], pad, device)
        before = torch.ones(len(ids), shared, dtype=torch.bool, device=device)
        is_token = torch.cat([before, x["is_token"]], 1)
        answer = network(input_ids=x["ids"], attention_mask=is_token, position_ids=positions(is_token)[:, shared:],
                         past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.first: Tensor = answer.logits[:, -1]
        self._owner = torch.where(is_token, _CONTEXT, _NOBODY)
        self._lengths = is_token.sum(1)
        self._rows = torch.arange(len(ids))
        self._n_steps = 0

    def advance(self, rows: Tensor, slots: Tensor, tokens: Tensor) -> Tensor:
        """Append one token to some answers.

        Args:
            rows: number of the context of each of R answers, ascending.
            slots: number of the answer within its context.
            tokens: what is appended.

        Returns:
            Logits of the token that comes next, [R, V].
        """
        self._drop(rows)
        local = torch.searchsorted(self._rows, rows)
        place = torch.arange(len(rows)) - torch.searchsorted(rows, rows)
        width = int(place.max()) + 1
        owner = torch.full((len(self._rows), width), _NOBODY)
        queries = torch.zeros(len(self._rows), width, dtype=torch.int64)
        owner[local, place], queries[local, place] = slots, tokens
        owner, queries = owner.to(self._device), queries.to(self._device)
        self._owner = torch.cat([self._owner, owner], 1)
        is_seen = (self._owner.unsqueeze(1) == owner.unsqueeze(2)) & (owner >= 0).unsqueeze(2)
        is_seen |= (self._owner == _CONTEXT).unsqueeze(1)
        kind = self.first.dtype
        mask = torch.zeros(is_seen.shape, dtype=kind, device=self._device).masked_fill_(~is_seen, torch.finfo(kind).min)
        where = (self._lengths + self._n_steps).unsqueeze(1).expand_as(queries)
        self._n_steps += 1
        logits: Tensor = self._network(input_ids=queries, attention_mask=mask.unsqueeze(1), position_ids=where,
                                       past_key_values=self._cache, use_cache=True).logits
        return logits[local.to(self._device), place.to(self._device)]

    def _drop(self, rows: Tensor) -> None:
        """Let go of contexts all of whose answers have ended."""
        kept = torch.isin(self._rows, rows)
        if bool(kept.all()):
            return
        self._rows, there = self._rows[kept], kept.nonzero().squeeze(1).to(self._device)
        self._owner, self._lengths = self._owner[there], self._lengths[there]
        self._cache.batch_select_indices(there)


@torch.no_grad()
def check_packing(network: nn.Module, name: str) -> None:
    """Refuse a network that does not heed a mask for each pair of tokens, or positions that are given: answers that
    share a context would then see each other.

    Raises:
        ConfigError: names the network.
    """
    mode, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        contexts, rows, slots, tokens = [[1, 2, 3], [1, 4]], [0, 0, 1], [0, 1, 0], [5, 6, 5]
        cache = PrefixCache(network, contexts, 0, device)
        packed = cache.advance(torch.tensor(rows), torch.tensor(slots), torch.tensor(tokens))
        alone = torch.stack([network(input_ids=torch.tensor([[*contexts[row], token]], device=device),
                                     use_cache=False).logits[0, -1] for row, token in zip(rows, tokens, strict=True)])
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise ConfigError(f"{name} does not answer through the cache that answers share ({type(error).__name__}: "
                          f"{error}); take another model") from error
    finally:
        network.train(mode)
    if not torch.allclose(packed, alone, rtol=1e-2, atol=1e-2):
        raise ConfigError(f"{name} pays no heed to masks and positions that it is given, so that answers of one "
                          "context cannot be drawn together; take a model of the family of Llama, Qwen or GPT-2")


def _shared(ids: Sequence[Sequence[int]]) -> int:
    """How many tokens all contexts begin with; each keeps at least one of its own.

    >>> _shared([[5, 6, 7], [5, 6, 8, 9]]), _shared([[5, 6]])
    (2, 1)
    """
    shortest = min(map(len, ids))
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False))
    return min(sum(1 for _ in alike), shortest - 1)
