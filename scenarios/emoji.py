"""Emoji of two vendors: the same meanings, drawn in another style.

Literature: Unicode Technical Standard 51, Unicode Emoji; Noto Emoji (Google, Apache-2.0); Twemoji (Twitter, CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from cl_framework import ConfigError, Phase

from . import _emoji
from ._cut import Labelled
from ._domains import Domains
from ._pixels import means_of_squares


@dataclass(kw_only=True)
class Emoji(Domains):
    """Google's emoji, then Twitter's: RGB images of one set of emoji under one set of labels.

    An emoji that is held out is held out of both. Mean and deviation are those of the first vendor of the order.

    Literature: pictures from Noto Emoji and Twemoji; domains as in van de Ven and Tolias, arXiv 1904.07734.
    """

    label: Literal["category", "subcategory"] = "category"
    """What is to be told: the category (9), or the subcategory (31, those with at least 20 emoji)."""
    size: int = 64
    """Height and width in pixels: 64, or 32 or 16 as means of squares of pixels."""

    def domains(self, phase: Phase) -> Mapping[str, Labelled]:
        """Google's emoji, then Twitter's."""
        if self.size not in (64, 32, 16):
            raise ConfigError(f"scenario.size={self.size} must be 64, 32 or 16")
        is_fine = self.label == "subcategory"
        sources = {"google": _emoji.EMOJI_GOOGLE_FINE if is_fine else _emoji.EMOJI_GOOGLE,
                   "twitter": _emoji.EMOJI_TWITTER_FINE if is_fine else _emoji.EMOJI_TWITTER}
        views = None if self.size == 64 else means_of_squares(64 // self.size, (64, 64))
        return {vendor: replace(Labelled.of(source), views=views) for vendor, source in sources.items()}
