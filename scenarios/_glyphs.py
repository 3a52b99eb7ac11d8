"""Letters and digits of decorative fonts, rendered to 28x28 grey images in the manner of notMNIST.

Literature: Bulatov, notMNIST dataset, 2011 (glyphs of fonts in the shape of MNIST); fonts by Brian Kent (AEnigma).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cl_framework import DataError, Source
from cl_framework.places import DebianPackage, Folder

from ._readers import Bytes

_SIDE, _INNER, _POINTS = 28, 24, 80
_FILES = ("1015sn.ttf", "18holes.ttf", "zurklezo.ttf")
"""Some of the fonts: where one is, all are."""
_TEST_EVERY = 5


def family(font: ImageFont.FreeTypeFont) -> str:
    """The first word of a font's family name: its variants ("Zirconia", "Zirconia Cubic") share it."""
    return (font.getname()[0] or "").casefold().split(" ")[0]


def glyph(font: ImageFont.FreeTypeFont, character: str) -> Bytes | None:
    """One character, white on black, its longer side 24 of 28 pixels, in the middle; None where the font lacks it."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    if right <= left or bottom <= top or _mask(font, character) == _mask(font, "\uffff"):
        return None
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), character, font=font, fill=255)
    scale = _INNER / max(drawn.size)
    width, height = (max(round(side * scale), 1) for side in drawn.size)
    image = Image.new("L", (_SIDE, _SIDE))
    image.paste(drawn.resize((width, height), Image.Resampling.LANCZOS), ((_SIDE - width) // 2, (_SIDE - height) // 2))
    pixels = np.asarray(image)
    return pixels if pixels.any() else None


def _mask(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    return bytes(font.getmask(character))


def read_glyphs(folder: Path, *, classes: str) -> Mapping[str, NDArray[Any]]:
    """Render the .ttf files of a folder.

    Upper and lower case are one class. A glyph that a font has twice counts once; an image that stands for two classes
    (the letter O and the digit 0 of many fonts) is left out. Every fifth family, in the order of their names, is held
    out: no family is on both sides.

    Args:
        folder: holds the fonts.
        classes: the character of each class, letters in upper case.

    Raises:
        FileNotFoundError: there is no font.
        DataError: one cannot be read, or they are too few for two parts.
    """
    paths = sorted(folder.glob("*.ttf"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .ttf files")
    families: dict[str, list[ImageFont.FreeTypeFont]] = {}
    for path in paths:
        try:
            font = ImageFont.truetype(str(path), _POINTS)
        except OSError as error:
            raise DataError(f"{path} is no readable font ({error})") from None
        families.setdefault(family(font), []).append(font)
    rows: dict[str, list[tuple[Bytes, int]]] = {"train": [], "test": []}
    for position, name in enumerate(sorted(families)):
        part = rows["test" if position % _TEST_EVERY == _TEST_EVERY - 1 else "train"]
        part += [row for font in families[name] for row in _font_rows(font, classes)]
    if not rows["test"]:
        raise DataError(f"{folder} holds fonts of {len(families)} families; at least {_TEST_EVERY} are needed")
    labels_of: dict[bytes, set[int]] = {}
    for pixels, label in (row for found in rows.values() for row in found):
        labels_of.setdefault(pixels.tobytes(), set()).add(label)
    arrays: dict[str, NDArray[Any]] = {}
    for split, found in rows.items():
        clear = [(pixels, label) for pixels, label in found if len(labels_of[pixels.tobytes()]) == 1]
        arrays[f"{split}_x"] = np.stack([pixels for pixels, _ in clear])[:, None]
        arrays[f"{split}_y"] = np.array([label for _, label in clear], np.int64)
    return arrays


def _font_rows(font: ImageFont.FreeTypeFont, classes: str) -> list[tuple[Bytes, int]]:
    rows = []
    for label, character in enumerate(classes):
        seen: set[bytes] = set()
        for variant in dict.fromkeys((character, character.lower())):
            pixels = glyph(font, variant)
            if pixels is not None and pixels.tobytes() not in seen:
                seen.add(pixels.tobytes())
                rows.append((pixels, label))
    return rows


_PLACES = (Folder("/usr/share/fonts/truetype/aenigma", _FILES),
           DebianPackage("fonts-aenigma", "usr/share/fonts/truetype/aenigma"))
_LICENCE = "the font author's: redistribution and derivatives with attribution"
_HINT = "the .ttf files of Debian's fonts-aenigma"
_ALL = string.ascii_uppercase + string.digits

GLYPHS = Source(
    name="glyphs", description="letters and digits of 465 fonts, 28x28 grey, 36 classes",
    read=partial(read_glyphs, classes=_ALL), files=_FILES, places=_PLACES, folder="glyphs",
    n_classes=36, class_names=tuple(_ALL), mean=(0.2279,), std=(0.3808,), licence=_LICENCE, hint=_HINT)

GLYPHS_LETTERS = Source(
    name="glyphs_letters", description="A to J of 465 fonts, 28x28 grey, 10 classes in the shape of MNIST",
    read=partial(read_glyphs, classes=_ALL[:10]), files=_FILES, places=_PLACES, folder="glyphs",
    n_classes=10, class_names=tuple(_ALL[:10]), mean=(0.2223,), std=(0.3778,), licence=_LICENCE, hint=_HINT)

GLYPHS_DIGITS = Source(
    name="glyphs_digits", description="0 to 9 of 465 fonts, 28x28 grey, 10 classes in the shape of MNIST",
    read=partial(read_glyphs, classes=string.digits), files=_FILES, places=_PLACES, folder="glyphs",
    n_classes=10, class_names=tuple(string.digits), mean=(0.2184,), std=(0.3745,), licence=_LICENCE, hint=_HINT)
