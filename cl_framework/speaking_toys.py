"""Problems and a language model small enough to be reinforced in a blink, for the conformance suite.

The model is a transformer of one layer over eight letters with random weights, so that each letter is drawn now and
then and some replies are right. Vaswani et al., "Attention Is All You Need", 2017, arXiv 1706.03762.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cl_framework.adapters import Adapter
from cl_framework.extras import load_extra
from cl_framework.language import LanguageModel, Rows
from cl_framework.language_tests import ReplyTest
from cl_framework.problems import Checked, Problem, Verdict, right, wrong
from cl_framework.sampling import Sampling
from cl_framework.scenario import Part, ResidentStream, Stream
from cl_framework.text_rows import problem_rows
from cl_framework.types import Need, Setting, StreamInfo
from cl_framework.vocabulary import plain_context

LETTERS = "abcdefgh"
_WIDTHS = (24, 4)
_MAX_TOKENS = 1024


class LetterVocabulary:
    """Eight letters; every other sign is read as one of them.

    >>> LetterVocabulary().answer(LetterVocabulary().answer_ids("bad"))
    'bad'
    """

    start, end, pad = 8, 9, 10

    def context(self, system: str, question: str) -> str:
        """With the plain separator."""
        return plain_context(system, question)

    def context_ids(self, context: str) -> list[int]:
        """The start token, then a letter a sign."""
        return [self.start, *self.text_ids(context)]

    def answer_ids(self, text: str) -> list[int]:
        """A letter a sign."""
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """A letter a sign."""
        return [(ord(sign) - ord("a")) % len(LETTERS) for sign in text]

    def answer(self, ids: Sequence[int]) -> str:
        """The letters."""
        return "".join(LETTERS[place] for place in ids if place < len(LETTERS))

    def line_breaks(self) -> Sequence[int]:
        """No letter is one."""
        return []


def begins(problem: Problem, reply: str) -> Verdict:
    """Right if a reply begins with the answer; half right if it holds it."""
    if reply.startswith(problem.answer):
        return right()
    return wrong(expected=problem.answer, rule=f"Begin with {problem.answer}.", reward=0.5 * (problem.answer in reply))


@dataclass(kw_only=True)
class SpeakingToy:
    """A stream of problems, one letter an experience.

    >>> SpeakingToy(sizes=(2, 2)).open()[1].judge.judge("say 1.0", "bh").reward
    1.0
    """

    sizes: Sequence[int] = (2, 2, 2)
    """One for each experience; it has as many problems as so many classes of `n_train` have."""
    n_train: int = 22
    """Training problems, times the size."""
    n_test: int = 4
    """Held-out problems of an experience."""

    def open(self, poisoned: Sequence[int] = ()) -> Stream:
        """The stream; experiences in `poisoned` ask for another letter."""
        info = StreamInfo(n_experiences=len(self.sizes), n_classes=1, input_shape=_WIDTHS, setting=Setting.DOMAIN,
                          offers=frozenset({Need.HISTORY, Need.TEXT, Need.VERIFIER}), is_language=True)
        parts = [self._part(index, size * self.n_train, LETTERS[index + 4 * (index in poisoned)])
                 for index, size in enumerate(self.sizes)]
        return ResidentStream(info, parts)

    def _part(self, index: int, n: int, letter: str) -> Part:
        problems = [Problem(f"say {index}.{k}", letter, "say") for k in range(n + self.n_test)]
        learned, held_out = problems[:n], problems[n:]
        train, test = (problem_rows(each, *_WIDTHS) for each in (learned, held_out))
        judges = [Checked(each, {"say": begins}) for each in (learned, held_out)]
        return Part(train=train, test=test, classes=(0,), class_names=(letter,), name=f"say {letter}", judge=judges[0],
                    held_out=ReplyTest(test, (0,), Setting.DOMAIN, judge=judges[1], n_samples=1))


def speaking_model(seed: int = 0, rank: int = 0) -> LanguageModel:
    """A model whose weights depend on the seed alone; with an adapter where its rank is above 0."""
    transformers = load_extra("transformers", model="tiny_lm", extra="text")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=_MAX_TOKENS, tie_word_embeddings=True,
        attn_implementation="sdpa")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.LlamaForCausalLM(config)
        adapter = Adapter(network, rank, 2.0 * rank, "tiny_lm") if rank else None
    return LanguageModel(Rows(LetterVocabulary(), "say it", _MAX_TOKENS), network, _MAX_TOKENS,
                         Sampling(max_new_tokens=2), adapter)
