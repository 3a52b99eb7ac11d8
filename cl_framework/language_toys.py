"""Texts small enough to learn in a blink, and a language model that knows one byte back, for tests.

    p(next byte | text) = softmax(W[last byte])

A bigram model (Shannon, "A mathematical theory of communication", 1948, section 3) cannot tell prompts apart, so a toy
problem has the same answer whatever is asked: each experience has a letter of its own, and forgets the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from cl_framework.language import LanguageModel, Rows
from cl_framework.language_tests import PassageTest, ReplyTest
from cl_framework.problems import Checked, Problem, exactly
from cl_framework.sampling import Sampling
from cl_framework.scenario import Part, ResidentStream, Stream
from cl_framework.text_rows import problem_rows
from cl_framework.types import Need, Setting, StreamInfo
from cl_framework.vocabulary import ByteVocabulary

_WIDTHS = (16, 4)


@dataclass(kw_only=True)
class ToyProblems:
    """A stream of problems with one answer each experience.

    >>> stream = ToyProblems(letters="ab").open()
    >>> stream[1].judge.judge("say 1.0", "b").reward
    1.0
    """

    letters: str = "abc"
    """The answer of each experience."""
    n_train: int = 8
    """Training problems of an experience."""
    n_test: int = 4
    """Held-out problems of an experience."""
    n_samples: int = 2
    """Replies to each."""
    is_judged: bool = True
    """False: rows are passages, and what counts is their likelihood."""

    def open(self) -> Stream:
        """The stream."""
        kinds = {Need.HISTORY, Need.TEXT, *({Need.VERIFIER} if self.is_judged else ())}
        info = StreamInfo(n_experiences=len(self.letters), n_classes=1, input_shape=_WIDTHS, setting=Setting.DOMAIN,
                          offers=frozenset(kinds), is_language=True)
        return ResidentStream(info, [self._part(index, letter) for index, letter in enumerate(self.letters)])

    def _part(self, index: int, letter: str) -> Part:
        learned, held_out = ([Problem(f"say {index}.{k}", letter, "say") for k in numbers] for numbers in
                             (range(self.n_train), range(self.n_train, self.n_train + self.n_test)))
        train, test = (problem_rows(problems, *_WIDTHS) for problems in (learned, held_out))
        judges = [Checked(problems, {"say": exactly}) for problems in (learned, held_out)]
        held = ReplyTest(test, (0,), Setting.DOMAIN, judge=judges[1], n_samples=self.n_samples) if self.is_judged \
            else PassageTest(test, (0,), Setting.DOMAIN)
        return Part(train=train, test=test, classes=(0,), class_names=(letter,), name=f"say {letter}",
                    judge=judges[0] if self.is_judged else None, held_out=held)


class Bigram(nn.Module):
    """A row of logits for each byte, called as a network of transformers is; float64."""

    def __init__(self) -> None:
        super().__init__()
        n_ids = ByteVocabulary().n_ids
        self.table = nn.Embedding(n_ids, n_ids, dtype=torch.float64)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, use_cache: bool,
                output_hidden_states: bool, logits_to_keep: Tensor) -> SimpleNamespace:
        """Logits [B, S, V] of the columns that are kept, and the rows of all columns as hidden states."""
        rows = self.table(input_ids)
        return SimpleNamespace(logits=rows[:, logits_to_keep], hidden_states=(rows,))


class BigramModel(LanguageModel):
    """A bigram model of bytes."""

    def respond(self, prompts: Sequence[str]) -> list[str]:
        """An answer to each prompt, a byte at a time from torch's global generator."""
        texts = []
        for prompt in prompts:
            ids = self.vocabulary.context_ids(self.context(self.seed_prompt, prompt))
            answer: list[int] = []
            while len(answer) < self.sampling.max_new_tokens and self.vocabulary.end not in answer:
                last = torch.tensor([*ids, *answer][-1])
                weights = self.body.get_parameter("table.weight")[last]
                answer.append(int(torch.multinomial(weights.softmax(0), 1)))
            texts.append(self.vocabulary.answer(answer))
        return texts


def bigram_model(seed: int = 0, max_tokens: int = 64) -> BigramModel:
    """A bigram model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = Rows(ByteVocabulary(), "", max_tokens)
        return BigramModel(rows, Bigram(), max_tokens, Sampling(max_new_tokens=4))
