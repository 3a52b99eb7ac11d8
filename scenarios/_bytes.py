"""Texts as bytes: what a model that brings its own tokenizer learns from, with nothing fitted on any data set.

A row is the UTF-8 of a text, uint8 [512]: runs of white space are one blank, a longer text is cut after the last whole
character, a shorter one is filled up with zeros. No text holds a zero of its own, so that the row gives the text back.

A text whose row also stands for another class is left out; so is a held-out one that equals a training row.

Literature: Yergeau, UTF-8, a transformation format of ISO 10646, RFC 3629, 2003. Corpora: `_corpora`, `_mail`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework import Source

from . import _corpora, _text
from ._corpora import Corpus, Texts
from ._mail import SPAM as SPAM_MAILS
from ._readers import Bytes

N_BYTES = 512


def byte_rows(texts: Sequence[str], n_bytes: int = N_BYTES) -> Bytes:
    """Each text as its first bytes, uint8 [N, n_bytes].

    >>> byte_rows(["caf\u00e9  au lait", "a"], 4).tolist()
    [[99, 97, 102, 0], [97, 0, 0, 0]]
    """
    rows = np.zeros((len(texts), n_bytes), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        start = " ".join(text.replace("\0", " ").split())[:n_bytes].encode()[:n_bytes]
        whole = start.decode(errors="ignore").encode()
        row[:len(whole)] = np.frombuffer(whole, np.uint8)
    return rows


def read_byte_rows(folder: Path, *, texts: Callable[[Path], Texts]) -> Mapping[str, NDArray[Any]]:
    """The texts that `texts` reads from a folder, as rows and labels.

    Raises:
        FileNotFoundError: a file is not there.
        DataError: one is damaged.
    """
    found = texts(folder)
    arrays: dict[str, NDArray[Any]] = {}
    for part in ("train", "test"):
        arrays[f"{part}_x"] = byte_rows([text.text for text in found[part]])
        arrays[f"{part}_y"] = np.array([text.label for text in found[part]], np.int64)
    return _text._unambiguous(arrays)


def _source(name: str, corpus: Corpus, description: str, sha256: Mapping[str, str]) -> Source:
    return Source(
        name=name, description=description, folder=corpus.name, sha256=sha256,
        read=partial(read_byte_rows, texts=corpus.read), files=corpus.files, places=corpus.places,
        n_classes=len(corpus.class_names), class_names=corpus.class_names, licence=corpus.licence, hint=corpus.hint)


NEWSGROUPS20_TEXT = _source(
    "newsgroups20_text", _corpora.NEWSGROUPS20, "18,821 messages of 20 newsgroups, 512 bytes each", sha256={
        "train_x": "ef0bc2ee66cde5288e71280202ad959cbe429e3a8c1e301a38452971dab98db9",
        "train_y": "14773472c1a257affa18d6a9a4867cddf48ee5ba6d1ee47cb1513301543f769a",
        "test_x": "3682db10ceea362ae5287ed218866511da58729b13e01ebe281cf60806cf7f0f",
        "test_y": "16279c74a4c9dbbd774907fa61edb24001deef3569178ef72e57ed9bac297acd",
    })

REUTERS_R52_TEXT = _source(
    "reuters_r52_text", _corpora.REUTERS_R52, "9,100 Reuters news of 52 topics, 512 bytes each", sha256={
        "train_x": "c9fa489735c8b4038eada509434b58b4ea17a6427afa9e5f97b7281b37fbdd2d",
        "train_y": "9815bdb630aedef8ad1941ae0a5c2cdf385849201d2ebb2d2bc690bf8f38f6d5",
        "test_x": "7f6009b19a6d72af3f74e697b141236cb14cda70ce5a15ccd755456251c81b1f",
        "test_y": "10454e6833225dcc8bf5d84537fb1dd8d6119cfddd3a3a41bda2fd771cef5423",
    })

BBC_NEWS_TEXT = _source(
    "bbc_news_text", _corpora.BBC_NEWS, "2,225 BBC news of 5 topics, 512 bytes each", sha256={
        "train_x": "9fcb9fecf52a84902390eb77833bc3d3fbaf42709dd694b42a781182f3093e7d",
        "train_y": "36a9ea760a540605083bb63d923ace103ee902da5c9c267afe993e69315f64df",
        "test_x": "7b18d112571c08d7fee7aff456b1d512e56ad67a14ee7b4e837a031f463248d0",
        "test_y": "d64c7b0878163fafb097def8f2b83356ff33be0fbd5bbcc8945540b1df0d6dad",
    })

SPAM = _source(
    "spam", SPAM_MAILS, "6,046 mails of SpamAssassin, ham and spam, 512 bytes each", sha256={
        "train_x": "04080d5b288497da97bad1af1b77a9eb2c99a2b9385d9afb68851321802af54a",
        "train_y": "1d9dc5d90ec54dcda51e3054570bba8c97776f2a8ea439f76e87d0b4937de9ef",
        "test_x": "68e375becd77c20e3f72c0167c3e9821d49d616334f29e1d2f6a0a2dff50c93c",
        "test_y": "1d97fd2bcef459ac2d00c3607234d68887dce48e21ef3907cd8aae54265a5513",
    })
