"""Pictures from files that somebody else may have made: of known formats, and no larger than memory is meant for.

Pillow opens some forty formats, and one of them (EPS) hands the file to another program; none of the data sets has it.
A few bytes may declare a picture of any size: its pixels are counted before they are unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from cl_framework import DataError

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MOST_PIXELS = 80_000_000
"""Which take 320 MB while they are unpacked."""


@contextmanager
def picture(file: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """An open picture; what goes wrong while it is read is told as damage of the file.

    Args:
        file: of the picture.
        name: for the message.

    Raises:
        FileNotFoundError: it is not there.
        DataError: it is of another format, too large, or damaged.
    """
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, at most {_MOST_PIXELS:,} are read")
            yield image
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's readers fail in dozens of ways
        raise DataError(f"{name} is no readable image ({error})") from None
