"""From texts to token ids: rows of UTF-8 bytes are decoded and cut into word pieces, a batch at a time.

A text is stored as its bytes, uint8 [n], padded with 0; that is what a scenario gives, a buffer keeps, and every text
model takes. Word pieces: Wu et al., "Google's Neural Machine Translation System", 2016, arXiv 1609.08144, section 4.1.
"""

from __future__ import annotations

import codecs
import re
import string
from typing import Any

import torch
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.types import Inputs

PAD = 0
"""The id that fills a row up, in BERT's vocabulary and in that of single characters."""


class Tokens(nn.Module):
    """Token ids of a batch of texts, in training and evaluation mode alike.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; it is cut to `max_tokens` and pads nothing.
        max_tokens: the longest text, in tokens, with those that a tokenizer puts around it.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        super().__init__()
        tokenizer.enable_truncation(max_tokens)
        tokenizer.no_padding()
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self._words = re.compile(rf"[ \t\r\n]*(?:[^ \t\r\n]+[ \t\r\n]+){{{max_tokens}}}")

    def forward(self, raw: Inputs) -> Tensor:
        """Ids, int64 [B, L], of B texts, uint8 [B, n]; L is the longest text's length, at most `max_tokens`.

        Raises:
            ConfigError: the rows are no texts.
        """
        rows = [self._ids(text) for text in decoded(raw)]
        ids = torch.full((len(rows), max(map(len, rows), default=0)), PAD)
        for row, own in zip(ids, rows, strict=True):
            row[: len(own)] = torch.tensor(own)
        assert isinstance(raw, Tensor)
        return ids.to(raw.device)

    def _ids(self, text: str) -> list[int]:
        """Ids of one text. Where its first words fill the row, the rest is not read: pieces do not cross words."""
        if (words := self._words.match(text)) is not None:
            ids: list[int] = self.tokenizer.encode(words.group()).ids
            if len(ids) == self.max_tokens:
                return ids
        whole: list[int] = self.tokenizer.encode(text).ids
        return whole


def decoded(raw: Inputs) -> list[str]:
    """The texts of some rows. A last character that was cut through is left out.

    Raises:
        ConfigError: the rows are no texts.

    >>> decoded(torch.tensor([[104, 105, 0, 0], [195, 188, 195, 0]], dtype=torch.uint8))
    ['hi', 'ü']
    """
    if not isinstance(raw, Tensor) or raw.dtype != torch.uint8 or raw.dim() != 2:
        what = f"{str(raw.dtype).removeprefix('torch.')} {tuple(raw.shape)}" if isinstance(raw, Tensor) else "a mapping"
        raise _no_texts(f"they are {what}")
    texts = []
    for row in raw.numpy(force=True):
        content = row.tobytes().rstrip(b"\0")
        if b"\0" in content:
            raise _no_texts("a row has zeros between other bytes")
        try:
            texts.append(codecs.getincrementaldecoder("utf-8")().decode(content))
        except UnicodeDecodeError as error:
            raise _no_texts(f"a row is not UTF-8, {error.reason} at byte {error.start}") from None
    return texts


def _no_texts(why: str) -> ConfigError:
    return ConfigError(f"the model takes texts as rows of UTF-8 bytes, uint8 [B, n] padded with 0, and the scenario's "
                       f"rows are no texts ({why}); take scenario=text_sequence, or model=mlp")


def character_pieces() -> list[str]:
    """What `characters` knows; a piece's place is its id.

    >>> len(character_pieces())
    140
    """
    signs = sorted(set(string.printable.lower()) - set(string.whitespace))
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *signs, *(f"##{sign}" for sign in signs)]


def characters(package: Any) -> Any:
    """A tokenizer that needs no file: each printable ASCII character is a piece, letters in lower case.

    Args:
        package: `tokenizers`.
    """
    ids = {piece: index for index, piece in enumerate(character_pieces())}
    tokenizer = package.Tokenizer(package.models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = package.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = package.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")])
    return tokenizer
