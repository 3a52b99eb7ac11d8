"""What a language model reads and writes: texts to token ids and back, and the frame around a question.

A context is the whole text before an answer: the system prompt and the question, in the model's chat template where it
has one, else with the plain separator

    {system}\\nQ: {question}\\nA: {answer}

so that worked examples in a system prompt look like the question itself. Text that comes from a user, a data set or a
model is never markup: a special token that is spelled out in it is broken up in a context and read as letters in an
answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from cl_framework.errors import ConfigError

START, END, PAD = 256, 257, 258
"""Ids of the byte vocabulary that are no bytes."""


class Vocabulary(Protocol):
    """Texts to ids and back.

    Attributes:
        start: id that a passage without a question begins with.
        end: id that ends an answer.
        pad: id that fills a row up; it is masked everywhere.
    """

    start: int
    end: int
    pad: int

    def context(self, system: str, question: str) -> str:
        """The text before an answer."""

    def context_ids(self, context: str) -> list[int]:
        """Ids of a context as `context` made it; never empty."""

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer after a context, without the end token. Nothing in it is markup."""

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text that stands by itself, without start and end. Nothing in it is markup."""

    def answer(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, special tokens left out."""

    def line_breaks(self) -> Sequence[int]:
        """Ids whose text holds a line break."""


_TAG = re.compile(r"<[^ >]+>\Z")
"""An added token that stands for markup, whether the tokenizer calls it special or not."""
Frame = Literal["template", "plain"]
"""What stands around a system prompt and a question: a chat template where there is one, or the plain separator."""


def plain_context(system: str, question: str) -> str:
    """System prompt and question with the plain separator; it ends before the answer's space.

    >>> plain_context("Add.", "1+2")
    'Add.\\nQ: 1+2\\nA:'
    """
    return f"{system}\nQ: {question}\nA:" if system else f"Q: {question}\nA:"


class ByteVocabulary:
    """UTF-8 bytes, three ids for start, end and padding, and whole texts that are one token each: needs no file.

    Args:
        pieces: the texts; where several fit, the longest is taken.

    Attributes:
        n_ids: how many ids there are.

    >>> vocabulary = ByteVocabulary(["</ans>"])
    >>> vocabulary.text_ids("7</ans>")
    [55, 259]
    >>> vocabulary.answer([55, 259, vocabulary.end])
    '7</ans>'
    """

    start, end, pad = START, END, PAD

    def __init__(self, pieces: Sequence[str] = ()) -> None:
        self._pieces = tuple(piece.encode() for piece in pieces)
        self._ids = {piece: PAD + 1 + place for place, piece in enumerate(self._pieces)}
        longest = sorted(self._pieces, key=len, reverse=True)
        self._pattern = re.compile(b"|".join([*map(re.escape, longest), b"."]), re.DOTALL)
        self.n_ids = PAD + 1 + len(self._pieces)

    def context(self, system: str, question: str) -> str:
        """With the plain separator, and the space after it."""
        return plain_context(system, question) + " "

    def context_ids(self, context: str) -> list[int]:
        """The start token, then the text."""
        return [START, *self.text_ids(context)]

    def answer_ids(self, text: str) -> list[int]:
        """As of any text."""
        return self.text_ids(text)

    def text_ids(self, text: str) -> list[int]:
        """Pieces, and bytes between them."""
        return [self._ids.get(found, found[0]) for found in self._pattern.findall(text.encode())]

    def answer(self, ids: Sequence[int]) -> str:
        """The text as UTF-8, what is none replaced by U+FFFD; start, end and padding say nothing."""
        return b"".join(bytes([i]) if i < START else self._pieces[i - PAD - 1] for i in ids
                        if i < START or i > PAD).decode(errors="replace")

    def line_breaks(self) -> Sequence[int]:
        """The byte and the pieces that hold it."""
        return [ord("\n"), *(self._ids[piece] for piece in self._pieces if b"\n" in piece)]


class TokenizerVocabulary:
    """The tokenizer of a Hugging Face model.

    Without a chat template, or where none is wanted, the plain separator is used, and a space belongs to the answer
    that follows. The end token fills rows up, whether there is a padding token or not: padding is masked, and an id
    that only the tokenizer knows has no embedding. A template that knows no system prompt gets it in front of the
    question.

    Args:
        tokenizer: a `transformers.PreTrainedTokenizerBase`.
        name: of the model, for messages.
        is_plain: the plain separator is used, whether there is a chat template or not.

    Raises:
        ConfigError: it has no end token.
    """

    def __init__(self, tokenizer: Any, name: str, *, is_plain: bool = False) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"the tokenizer of {name} has no end token, so no answer would ever end; set eos_token "
                              "in its tokenizer_config.json")
        self._tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        self.start: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.pad: int = self.end
        self._has_template = tokenizer.chat_template is not None and not is_plain
        self._line_breaks: list[int] | None = None
        added = [str(token) for token in tokenizer.added_tokens_decoder.values()
                 if token.special or _TAG.match(str(token))]
        self._markup = sorted({token for token in (*tokenizer.all_special_tokens, *added) if len(token) > 1},
                              key=len, reverse=True)

    def context(self, system: str, question: str) -> str:
        """In the chat template, or with the plain separator."""
        system, question = self._harmless(system), self._harmless(question)
        if not self._has_template:
            return plain_context(system, question)
        asked = [{"role": "user", "content": question}]
        if not system:
            return self._templated(asked)
        try:
            return self._templated([{"role": "system", "content": system}, *asked])
        except ValueError:
            return self._templated([{"role": "user", "content": f"{system}\n\n{question}"}])

    def _templated(self, messages: list[dict[str, str]]) -> str:
        """Raises ValueError where the template refuses the messages."""
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ValueError(str(error)) from None
        return text

    def _harmless(self, text: str) -> str:
        """The text with every special token in it broken up by a space."""
        for token in self._markup:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def context_ids(self, context: str) -> list[int]:
        """Ids with the template's markup; after the start token where there is no template."""
        ids: list[int] = self._tokenizer(context, add_special_tokens=False)["input_ids"]
        return ids if self._has_template and ids else [self.start, *ids]

    def answer_ids(self, text: str) -> list[int]:
        """Ids of the answer; without a chat template it begins with a space."""
        return self.text_ids(text if self._has_template else f" {text}")

    def text_ids(self, text: str) -> list[int]:
        """Ids of the letters alone."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def answer(self, ids: Sequence[int]) -> str:
        """The text, without the space that the plain separator leaves to it."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if self._has_template else text.removeprefix(" ")

    def line_breaks(self) -> Sequence[int]:
        """Looked for once among all ids."""
        if self._line_breaks is None:
            texts = self._tokenizer.batch_decode([[each] for each in range(len(self._tokenizer))])
            self._line_breaks = [each for each, text in enumerate(texts) if "\n" in text]
        return self._line_breaks
