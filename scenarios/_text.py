"""Texts as hashed bags of words: what an MLP can learn from, with nothing fitted on any data set.

The value of word w in a text is (1 + ln n_w) / sqrt(sum_v (1 + ln n_v)^2), n_w being how often it occurs, as a uint8 of
round(255 x). A word's place is its hash modulo 4,096, stop words are left out, and there is no inverse document
frequency: rows depend on their own text alone, so neither later experiences nor another data set of a protocol reach
into them. The price is accuracy. On 20 Newsgroups a linear classifier gets 0.77 in place of 0.85 with the whole
vocabulary and document frequencies; 8,192 places give 0.80 at twice the bytes.

A text whose row also stands for another class is left out; so is a held-out one that equals a training row.

Literature: Weinberger et al., Feature hashing for large scale multitask learning, ICML 2009; Salton and Buckley,
Term-weighting approaches in automatic text retrieval, Information Processing and Management 24, 1988. Corpora:
`_corpora`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework import Source

from ._corpora import BBC_NEWS as BBC_NEWS_TEXTS
from ._corpora import NEWSGROUPS20 as NEWSGROUPS20_TEXTS
from ._corpora import REUTERS_R8 as REUTERS_R8_TEXTS
from ._corpora import REUTERS_R52 as REUTERS_R52_TEXTS
from ._corpora import Corpus
from ._readers import Bytes

N_PLACES = 4096


def bags(texts: Sequence[str], n_places: int = N_PLACES) -> Bytes:
    """Each text as a hashed bag of words, uint8 [N, n_places].

    >>> rows = bags(["trade, trade and the yen", "Yen trade trade"])
    >>> rows.shape, sorted(rows[0])[-2:] == sorted(rows[1])[-2:] == [130, 220]
    ((2, 4096), True)
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    counts = HashingVectorizer(n_features=n_places, alternate_sign=False, norm=None, stop_words="english")
    table = counts.transform(texts)
    table.data = 1 + np.log(table.data)
    table = normalize(table)
    table.data = np.rint(255 * table.data).astype(np.uint8)
    rows: Bytes = table.toarray()
    return rows


def read_bags(folder: Path, *, corpus: Corpus) -> Mapping[str, NDArray[Any]]:
    """A corpus as rows and labels.

    Raises:
        FileNotFoundError: a file is not there.
        DataError: one is damaged.
    """
    texts = corpus.read(folder)
    arrays: dict[str, NDArray[Any]] = {}
    for part in ("train", "test"):
        arrays[f"{part}_x"] = bags([text.text for text in texts[part]])
        arrays[f"{part}_y"] = np.array([text.label for text in texts[part]], np.int64)
    return _unambiguous(arrays)


def _unambiguous(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """The rows that stand for one class, and of the held-out ones those that are not learned."""
    keys = {part: [row.tobytes() for row in arrays[f"{part}_x"]] for part in ("train", "test")}
    labels: dict[bytes, set[int]] = {}
    for part, rows in keys.items():
        for row, label in zip(rows, arrays[f"{part}_y"].tolist(), strict=True):
            labels.setdefault(row, set()).add(label)
    learned = set(keys["train"])
    keep = {"train": [len(labels[row]) == 1 for row in keys["train"]],
            "test": [len(labels[row]) == 1 and row not in learned for row in keys["test"]]}
    return {f"{part}_{column}": arrays[f"{part}_{column}"][keep[part]] for part in keep for column in "xy"}


def _source(corpus: Corpus, *, description: str, mean: float, std: float, sha256: Mapping[str, str]) -> Source:
    return Source(
        name=corpus.name, description=description,
        read=partial(read_bags, corpus=corpus), files=corpus.files, places=corpus.places,
        n_classes=len(corpus.class_names), class_names=corpus.class_names, mean=(mean,), std=(std,), sha256=sha256,
        licence=corpus.licence, hint=corpus.hint)


NEWSGROUPS20 = _source(
    NEWSGROUPS20_TEXTS, description="18,821 messages of 20 newsgroups, bags of 4,096 hashed words",
    mean=0.00202, std=0.01549, sha256={
        "train_x": "658b4f24a12414f7acfdb687e0a340cb479869923437d73b4abe62605d9ce948",
        "train_y": "7238e84b7fe0d66153793ae54e4ebd1f519753bf7e84f73a39f24811dd030087",
        "test_x": "2c6b1d636dcfa6ad86e981fc69c5869c52025d94565af5868361bcc8d53a871b",
        "test_y": "b0448cf60058c3bd66657021f93d54ea36ce84a9cb5811d66c8a61d8d52fd975",
    })

REUTERS_R8 = _source(
    REUTERS_R8_TEXTS, description="7,674 Reuters news of 8 topics, bags of 4,096 hashed words",
    mean=0.00137, std=0.01557, sha256={
        "train_x": "f1127571884ad4dba1d27ff6d3f8c7bdbe162cf59b0325afe93ad4c8f4132cd9",
        "train_y": "f1d99beb8320561d662cb0365ed77a97f940592a609c847896466399fe911c18",
        "test_x": "4bc134c2ff777d892a08ee0856e0ef261b2f97450dac0dddd9586797858d561d",
        "test_y": "f62cc1c0209ad55c2572ee2188ee3fc3ca57838b029571225f465305df178eec",
    })

REUTERS_R52 = _source(
    REUTERS_R52_TEXTS, description="9,100 Reuters news of 52 topics, bags of 4,096 hashed words",
    mean=0.00140, std=0.01556, sha256={
        "train_x": "164e6180e6f25ffcf59406cc1646be338f5d411d47ab9528cb74be6aec61e034",
        "train_y": "36474c0fac14d58926e6dcbe82cf2125e47bd602e1495cc53b2374930a7992b8",
        "test_x": "44e14020d289f57566bade4166a40b932ea7903bc3487d7ca8313ad6760726ed",
        "test_y": "ddfa29326f40345ce85db110933c88d246a4e0bd7f59fc24627f48821a8bdbae",
    })

BBC_NEWS = _source(
    BBC_NEWS_TEXTS, description="2,225 BBC news of 5 topics, bags of 4,096 hashed words",
    mean=0.00267, std=0.01540, sha256={
        "train_x": "6856bb5877fbe5215c364999afbdffbe24b34387a9ff29e92581b6501fc8c1e4",
        "train_y": "36a9ea760a540605083bb63d923ace103ee902da5c9c267afe993e69315f64df",
        "test_x": "5084d12f2cb4d01c2b8de483498f1673c51643ce629b11b8480e0df85ed89041",
        "test_y": "fa9b3ad161f15b8050377e81b300af2da4dd09636f4679a4882d3c08d5bcb6a9",
    })
