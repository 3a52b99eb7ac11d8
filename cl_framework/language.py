"""A causal language model on a stream: rows of prompt and answer in, log-probabilities of the answer's tokens out.

    log pi(a | c) = sum_t log softmax(z_t)[a_t],   z_t the logits after c, a_1, ..., a_{t-1}

A row is {"prompt": uint8 [B, n], "answer": uint8 [B, m]}, two texts in UTF-8 padded with 0. Rows of tokens are padded
on the left, so that all answers end in the last column. Bengio et al., "A Neural Probabilistic Language Model", JMLR
2003, section 2, for the loss: the mean cross-entropy over tokens of answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.adapters import Adapter
from cl_framework.errors import ClfError, ConfigError
from cl_framework.models import Head, Model
from cl_framework.sampling import Sampling, sample
from cl_framework.shared_contexts import Packed, packed
from cl_framework.token_rows import ROW_KEYS, answer_log_probs, positions, token_rows
from cl_framework.tokens import decoded
from cl_framework.types import Batch, Inputs, Output
from cl_framework.vocabulary import Vocabulary


class NoHead(Head):
    """Stands where a classifier has its head: it has no weights and only counts the classes met."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.is_growing, self.n_seen = False, 0

    def grow(self, n_seen: int) -> None:
        """Note how many classes were met."""
        self.n_seen = max(self.n_seen, n_seen)

    def forward(self, features: Tensor) -> Tensor:
        """The features as they are."""
        return features


class Rows(nn.Module):
    """Rows of prompt and answer to rows of tokens.

    Args:
        vocabulary: texts to ids.
        seed_prompt: the system prompt in front of every prompt.
        max_tokens: the longest row. Of a longer one the answer loses its end, and then the prompt its beginning.
    """

    def __init__(self, vocabulary: Vocabulary, seed_prompt: str, max_tokens: int) -> None:
        super().__init__()
        self.vocabulary, self.seed_prompt, self.max_tokens = vocabulary, seed_prompt, max_tokens

    def forward(self, raw: Inputs) -> Inputs:
        """`ROW_KEYS`, each [B, L]; rows that are tokens already pass as they are.

        Raises:
            ConfigError: the rows are neither.
        """
        if isinstance(raw, Mapping) and set(ROW_KEYS) <= set(raw):
            return raw
        if isinstance(raw, Tensor) or not {"prompt", "answer"} <= set(raw):
            raise ConfigError("a language model takes rows of a prompt and an answer, and the scenario's rows are "
                              "others; take scenario=verifiable or scenario=text_domains, or model=mlp")
        pairs = [self._pair(prompt, answer) for prompt, answer in
                 zip(decoded(raw["prompt"]), decoded(raw["answer"]), strict=True)]
        return token_rows(pairs, self.vocabulary.pad, raw["answer"].device)

    def _pair(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of its answer; a row without a prompt is a passage."""
        vocabulary = self.vocabulary
        if prompt:
            context = vocabulary.context_ids(vocabulary.context(self.seed_prompt, prompt))
            ids = [*vocabulary.answer_ids(answer), vocabulary.end]
        else:
            context, ids = [vocabulary.start], [*vocabulary.text_ids(answer), vocabulary.end]
        ids = ids[: self.max_tokens - 1]
        return context[-(self.max_tokens - len(ids)):], ids


class LanguageModel(Model):
    """A causal language model.

    Its logits cover the columns that hold answers, and each is the prediction *of* its column: `Output(logits
    [B, S, V], features [B, L, D])`, where logits[:, k] score the token ids[:, L - S + k]. Rows that share a context
    read it once, where that saves a quarter of the tokens or more.

    Args:
        rows: rows of prompt and answer to tokens.
        body: a causal network of transformers, its output layer inside; what is merged, adapted and given importance.
        n_context: the longest row that the network takes.
        sampling: how `respond` draws.
        adapter: what is trained beside its weights; None where the weights themselves are.

    Attributes:
        n_context, sampling, adapter: see above.
        vocabulary: texts to ids.
        seed_prompt: the system prompt of rows.
        max_tokens: the longest row that is learned or sampled.
    """

    def __init__(self, rows: Rows, body: nn.Module, n_context: int, sampling: Sampling,
                 adapter: Adapter | None = None) -> None:
        if rows.max_tokens > n_context:
            raise ConfigError(f"model.max_tokens={rows.max_tokens} is more than the {n_context} tokens that the "
                              f"network takes; set model.max_tokens={n_context}")
        super().__init__(rows, body, NoHead())
        self.n_context, self.sampling, self.adapter = n_context, sampling, adapter
        self._is_folded, self._digest = False, ""
        nn.Module.register_state_dict_post_hook(self, _leave_out)
        self.vocabulary, self.seed_prompt, self.max_tokens = rows.vocabulary, rows.seed_prompt, rows.max_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.body.parameters()).device

    def context(self, system: str, prompt: str) -> str:
        """The text before an answer: system prompt and question in the model's chat template or the plain frame."""
        return self.vocabulary.context(system, prompt)

    def forward(self, x: Inputs) -> Output:
        """Logits [B, S, V] of the columns with answers, and features [B, L, D], of B rows of tokens."""
        assert not isinstance(x, Tensor)
        length = x["ids"].shape[1]
        is_scored = x["is_answer"].any(0)
        n = length - int(is_scored.int().argmax()) if bool(is_scored.any()) else 1
        shared = packed(x, n, self.n_context) if n > 1 else None
        if shared is not None:
            return self._forward_packed(shared)
        columns = torch.arange(length - n - 1, length - 1, device=self.device)
        answer = self.body(input_ids=x["ids"], attention_mask=x["is_token"], position_ids=positions(x["is_token"]),
                           use_cache=False, output_hidden_states=True, logits_to_keep=columns)
        return Output(answer.logits, answer.hidden_states[-1])

    def _forward_packed(self, shared: Packed) -> Output:
        """The same of rows that share contexts; the logits of columns without an answer's token mean nothing."""
        answer = self.body(input_ids=shared.ids, attention_mask=shared.mask(next(self.body.parameters()).dtype),
                           position_ids=shared.positions, use_cache=False, output_hidden_states=True,
                           logits_to_keep=shared.scoring)
        return Output(answer.logits[shared.row, shared.scored_by], answer.hidden_states[-1][shared.row, shared.place])

    def loss(self, batch: Batch, output: Output, allowed: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the tokens of answers; there are no classes to restrict."""
        log_probs, is_answer = answer_log_probs(batch.x, output.logits)
        return -log_probs.sum() / is_answer.sum().clamp(min=1)

    def respond(self, prompts: Sequence[str]) -> list[str]:
        """One answer to each prompt after the seed prompt, drawn by `sampling` with torch's global generator. A prompt
        that is given several times is answered as often, and read once.

        Raises:
            ConfigError: a prompt and its answer do not fit into the model.
        """
        times = Counter(prompts)
        contexts = [self.context(self.seed_prompt, prompt) for prompt in times]
        found = sample(self, contexts, max(times.values(), default=0), self.sampling, torch.default_generator, 0)
        answers = {prompt: iter(rollouts) for prompt, rollouts in zip(times, found, strict=True)}
        return [next(answers[prompt]).text for prompt in prompts]

    def fold(self) -> None:
        """Add the adapter's update to the weights; it begins anew."""
        if self.adapter is not None:
            self.adapter.fold()
            self._is_folded = True

    # Beside an adapter the weights are as they were given, until something is folded into them: a checkpoint holds the
    # adapter and a digest of the weights, a hundredth of the whole.

    def _left_out(self) -> dict[str, nn.Parameter]:
        """The weights that a checkpoint leaves out, by every name that they have."""
        adapter = self.adapter
        if adapter is None or self._is_folded:
            return {}
        return {name: value for name, value in self.named_parameters(remove_duplicate=False) if not adapter.owns(name)}

    def _given_digest(self) -> str:
        """SHA-256 of the weights beside the adapter; computed once, they stand still."""
        if not self._digest:
            whole = hashlib.sha256()
            for name, value in self._left_out().items():
                whole.update(name.encode() + b"\0")
                whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._digest = whole.hexdigest()
        return self._digest

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; those that were left out are the model's own.

        Raises:
            ClfError: they are others than the ones that the state was made beside.
        """
        given = str(state_dict["_extra_state"]["given"])
        if given and (self._is_folded or self._given_digest() != given):
            raise ClfError("the state of an adapter was made beside other weights than this model has; give the same "
                           "model files again, or choose another out=DIR")
        return super().load_state_dict({**(self._left_out() if given else {}), **state_dict}, strict, assign)

    def get_extra_state(self) -> dict[str, Any]:
        """How many classes were met, and the digest of weights that are left out; empty where none are."""
        is_whole = self.adapter is None or self._is_folded
        return {**super().get_extra_state(), "given": "" if is_whole else self._given_digest()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` returned."""
        super().set_extra_state(state)
        self._is_folded = self.adapter is not None and not state["given"]


def _leave_out(model: LanguageModel, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    """Take out of a state dict the weights beside an adapter that was never folded."""
    for name in model._left_out():
        state.pop(f"{prefix}{name}", None)
