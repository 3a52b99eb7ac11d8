"""Emoji as two vendors draw them, 64x64 RGB on white: the same meanings in two styles.

Both packages hold the same table; what either vendor lacks is left out of both, and an emoji is on the same side of
the split for both. Within a class every fifth emoji, in the order of their code points, is held out, unless the vendor
draws it exactly like one that is learned from (the flags of Norway and Svalbard).

Literature: Unicode Technical Standard 51, Unicode Emoji (the categories); pictures: Noto Emoji (Google, Apache-2.0) and
Twemoji (Twitter, CC BY 4.0), collected by Henderson, emoji-data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cl_framework import DataError, Source
from cl_framework.places import NpmPackage
from cl_framework.plain_files import read_json

from ._picture_files import picture
from ._readers import Bytes

CATEGORIES = ("Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
              "Smileys & Emotion", "Symbols", "Travel & Places")
SUBCATEGORIES = (
    "alphanum", "animal-bird", "animal-mammal", "arrow", "av-symbol", "clothing", "country-flag", "drink", "event",
    "face-concerned", "family", "food-fruit", "food-prepared", "game", "geometric", "heart", "household", "office",
    "other-symbol", "person", "person-activity", "person-fantasy", "person-gesture", "person-role", "person-sport",
    "place-building", "sky & weather", "sport", "time", "tool", "transport-ground")
"""Those with at least 20 emoji in version 16."""
_SIDE, _TEST_EVERY = 64, 5
_VENDORS = ("google", "twitter")


def read_emoji(folder: Path, *, vendor: str, key: str, classes: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """One vendor's pictures.

    Args:
        folder: holds emoji.json and img/<vendor>/64.
        vendor: "google" or "twitter".
        key: what of an emoji is its class, "category" or "subcategory".
        classes: the values of `key` that count, in the order of their labels.

    Raises:
        FileNotFoundError: the table or a picture is missing.
        DataError: one of them is damaged.
    """
    try:
        table = read_json(folder / "emoji.json")
        named = [(row[key], row["unified"], row["image"]) for row in table
                 if row[key] in classes and all(row[f"has_img_{each}"] for each in _VENDORS)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'emoji.json'} is no table of emoji, or cut short ({error})") from None
    rows: dict[str, list[tuple[Bytes, int]]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        for position, (_, _, image) in enumerate(sorted(row for row in named if row[0] == name)):
            part = "test" if position % _TEST_EVERY == _TEST_EVERY - 1 else "train"
            rows[part].append((_on_white(folder / "img" / vendor / str(_SIDE) / image), label))
    learned = {pixels.tobytes() for pixels, _ in rows["train"]}
    rows["test"] = [(pixels, label) for pixels, label in rows["test"] if pixels.tobytes() not in learned]
    arrays: dict[str, NDArray[Any]] = {}
    for split, found in rows.items():
        arrays[f"{split}_x"] = np.array([pixels for pixels, _ in found], np.uint8)
        arrays[f"{split}_y"] = np.array([label for _, label in found], np.int64)
    return arrays


def _on_white(path: Path) -> Bytes:
    """A picture without its transparency, [3, 64, 64]."""
    with picture(path, str(path)) as image:
        drawn = image.convert("RGBA")
    if drawn.size != (_SIDE, _SIDE):
        raise DataError(f"{path} has {drawn.size} pixels, expected {_SIDE}x{_SIDE}")
    white = Image.new("RGBA", drawn.size, "white")
    return np.asarray(Image.alpha_composite(white, drawn).convert("RGB")).transpose(2, 0, 1)


def _source(vendor: str, name: str, key: str, classes: tuple[str, ...], licence: str, description: str,
            mean: tuple[float, ...], std: tuple[float, ...]) -> Source:
    package = f"emoji-datasource-{vendor}"
    return Source(
        name=name, description=description, folder=f"emoji_{vendor}", licence=licence, mean=mean, std=std,
        read=partial(read_emoji, vendor=vendor, key=key, classes=classes), files=("emoji.json",),
        places=(NpmPackage(package, "16.0.0", ("emoji.json", f"img/{vendor}/{_SIDE}")),),
        n_classes=len(classes), class_names=classes,
        hint=f"emoji.json and the folder img of the npm package {package} 16.0.0")


_NOTO, _TWEMOJI = "Apache-2.0 (Noto Emoji)", "CC BY 4.0 (Twemoji)"

EMOJI_GOOGLE = _source(
    "google", "emoji_google", "category", CATEGORIES, _NOTO,
    description="Google's 1,906 emoji, 64x64 RGB, 9 categories",
    mean=(0.8222, 0.7691, 0.7072), std=(0.2876, 0.2875, 0.3540))

EMOJI_TWITTER = _source(
    "twitter", "emoji_twitter", "category", CATEGORIES, _TWEMOJI,
    description="Twitter's 1,906 emoji, 64x64 RGB, 9 categories",
    mean=(0.7874, 0.7355, 0.6906), std=(0.3013, 0.2896, 0.3295))

EMOJI_GOOGLE_FINE = _source(
    "google", "emoji_google_fine", "subcategory", SUBCATEGORIES, _NOTO,
    description="Google's emoji of the 31 largest subcategories, 64x64 RGB",
    mean=(0.8128, 0.7594, 0.7068), std=(0.2960, 0.2989, 0.3550))

EMOJI_TWITTER_FINE = _source(
    "twitter", "emoji_twitter_fine", "subcategory", SUBCATEGORIES, _TWEMOJI,
    description="Twitter's emoji of the 31 largest subcategories, 64x64 RGB",
    mean=(0.7791, 0.7272, 0.6898), std=(0.3111, 0.2994, 0.3318))
