"""Corpora of texts one after the other, as bytes: what a pretrained text encoder meets.

Literature: de Masson d'Autume et al., Episodic memory in lifelong language learning, NeurIPS 2019, section 4 (a
sequence of five text classification data sets). Rows: `_bytes`; Debian's sections: `_debian`; mails: `_mail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from cl_framework import ConfigError

from ._bytes import N_BYTES
from ._cut import Labelled
from ._whole import WholeSets


@dataclass(kw_only=True)
class TextSequence(WholeSets):
    """Each corpus is an experience; a row is the first 512 bytes of a text in UTF-8.

    Goes with a model that brings a tokenizer; an mlp learns little from bytes.

    Literature: de Masson d'Autume et al., NeurIPS 2019, section 4.
    """

    known_failures: ClassVar[Mapping[str, str]] = {
        "phases_are_disjoint": "a phase has one of the 2 classes of spam, so it takes incremental=class, or no spam"}

    sources: list[str] = field(default_factory=lambda: [
        "newsgroups20_text", "reuters_r52_text", "bbc_news_text", "debian_sections", "spam"])
    """Data sets of texts as bytes that `clf data` lists, in their natural order; each is an experience."""

    def refuse(self, name: str, shape: tuple[int, ...]) -> None:
        """Rows must be texts as bytes."""
        if shape != (N_BYTES,):
            raise ConfigError(f"scenario.sources: {name} holds rows of shape {shape}, not texts as {N_BYTES} bytes; "
                              "take such as newsgroups20_text, or scenario=vision_sequence for images")

    def shown(self, data: Labelled) -> Labelled:
        """As they are."""
        return data

    def moments(self, first: Labelled) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those that leave byte/255, as bytes are codes and no quantities."""
        return (0.0,), (1.0,)
