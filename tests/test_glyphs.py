"""Glyphs rendered from fonts, and UCI's letters: classes, held-out families and rows, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from cl_framework import DataError
from cl_framework.scenarios import _glyphs
from cl_framework.scenarios._glyphs import GLYPHS, family, glyph, read_glyphs
from cl_framework.scenarios._letter import LETTER, read_letter

FONTS = Path("/usr/share/fonts/truetype/aenigma")


@pytest.fixture
def fonts() -> list[Path]:
    paths = sorted(FONTS.glob("*.ttf"))
    if not paths:
        pytest.skip("Debian's fonts-aenigma is not installed")
    return paths


def test_a_glyph_fills_24_of_28_pixels_in_the_middle(fonts: list[Path]) -> None:
    for path in fonts[:3]:
        for character in "AIz3":
            pixels = glyph(ImageFont.truetype(str(path), 80), character)
            assert pixels is not None and pixels.shape == (28, 28) and pixels.dtype == np.uint8
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            box = (rows[0], 27 - rows[-1], columns[0], 27 - columns[-1])
            assert min(box) >= 2 and pixels.max() > 128
            assert max(rows[-1] - rows[0], columns[-1] - columns[0]) >= 20


def test_a_glyph_that_the_font_lacks_is_left_out(fonts: list[Path]) -> None:
    assert glyph(ImageFont.truetype(str(fonts[0]), 80), "\u4e00") is None


def test_families_are_on_one_side(fonts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in fonts[:40]:
        shutil.copy(path, tmp_path)
    seen: list[tuple[str, bytes]] = []
    render = _glyphs._font_rows

    def watched(font: ImageFont.FreeTypeFont, classes: str) -> list[tuple[np.ndarray, int]]:
        rows = render(font, classes)
        seen.extend((family(font), pixels.tobytes()) for pixels, _ in rows)
        return rows

    monkeypatch.setattr(_glyphs, "_font_rows", watched)
    found = read_glyphs(tmp_path, classes="ABC0O")
    assert found["train_x"].shape[1:] == (1, 28, 28) and set(found["test_y"]) == set(found["train_y"]) == set(range(5))
    sides = {}
    for part in ("train", "test"):
        contents = {row.tobytes() for row in found[f"{part}_x"]}
        sides[part] = {name for name, content in seen if content in contents}
    order = sorted({name for name, _ in seen})
    assert sides["test"] == set(order[4::5]) and not sides["train"] & sides["test"]
    labels: dict[bytes, set[int]] = {}
    for part in ("train", "test"):
        for row, label in zip(found[f"{part}_x"], found[f"{part}_y"], strict=True):
            labels.setdefault(row.tobytes(), set()).add(int(label))
    assert all(len(each) == 1 for each in labels.values()), "one image has two labels"


def test_variants_share_a_family(fonts: list[Path]) -> None:
    names = {path.name: family(ImageFont.truetype(str(path), 80)) for path in fonts}
    assert names["zurklezo.ttf"] == names["zurklezs.ttf"] == "zurklez"
    assert set(GLYPHS.files) <= set(names)


def test_folders_without_enough_fonts(fonts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \.ttf files"):
        read_glyphs(tmp_path, classes="AB")
    shutil.copy(fonts[0], tmp_path)
    with pytest.raises(DataError, match="fonts of 1 families; at least 5 are needed"):
        read_glyphs(tmp_path, classes="AB")
    (tmp_path / "a.ttf").write_bytes(b"no font")
    with pytest.raises(DataError, match=r"a\.ttf is no readable font"):
        read_glyphs(tmp_path, classes="AB")


def test_a_drawn_letter_looks_like_pillow_s(fonts: list[Path]) -> None:
    """Against drawing the whole letter into a large image, cutting it out and shrinking it."""
    from PIL import ImageDraw
    font = ImageFont.truetype(str(FONTS / "18holes.ttf"), 80)
    large = Image.new("L", (300, 300))
    ImageDraw.Draw(large).text((100, 100), "R", font=font, fill=255)
    cut = large.crop(large.getbbox())
    scale = 24 / max(cut.size)
    small = np.asarray(cut.resize((round(cut.width * scale), round(cut.height * scale)), Image.Resampling.LANCZOS))
    pixels = glyph(font, "R")
    assert pixels is not None
    top, left = ((28 - side) // 2 for side in small.shape)
    part = pixels[top:top + small.shape[0], left:left + small.shape[1]]
    assert np.abs(part.astype(int) - small).mean() < 8


def write_letters(folder: Path, lines: list[str]) -> None:
    (folder / "letter.dat").write_text("\n".join(lines) + "\n")


def row(number: int, letter: str) -> str:
    return ",".join([*(str((number >> bit) % 16) for bit in range(16)), letter])


def test_letters_hold_out_every_fifth_distinct_row_with_its_copies(tmp_path: Path) -> None:
    order = [7, 3, 7, 9, 1, 3, 4, 4, 8, 6, 5, 2, 0, 4]
    write_letters(tmp_path, [*(row(number, "ABCDEFGHIJ"[number]) for number in order), ""])
    found = read_letter(tmp_path)
    distinct = list(dict.fromkeys(order))
    assert distinct == [7, 3, 9, 1, 4, 8, 6, 5, 2, 0]
    assert found["test_y"].tolist() == [4, 4, 0, 4] and found["train_y"].tolist() == [7, 3, 7, 9, 1, 3, 8, 6, 5, 2]
    assert found["test_x"][0].tolist() == [4, 2, 1, *[0] * 13] and found["train_x"].dtype == np.uint8


@pytest.mark.parametrize("line", ["1,2,A", row(3, "a"), row(3, "A").replace("3", "16", 1), row(1, "A") + ",B", "x"])
def test_damaged_letters(tmp_path: Path, line: str) -> None:
    write_letters(tmp_path, ["@relation letter", row(1, "Z"), line])
    with pytest.raises(DataError, match=r"line 3 of .*letter\.dat is .*; expected 16 numbers from 0 to 15 and"):
        read_letter(tmp_path)


def test_no_letters(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_letter(tmp_path)
    write_letters(tmp_path, [""])
    with pytest.raises(DataError, match=r"letter\.dat is empty"):
        read_letter(tmp_path)


def test_real_letters(no_downloads: None) -> None:
    try:
        images = LETTER.load()
    except DataError as error:
        pytest.skip(f"UCI's letters are not here: {str(error).splitlines()[0]}")
    assert (len(images.train_x), len(images.test_x), images.train_x.shape[1]) == (16_026, 3_974, 16)
    assert images.train_y.unique().tolist() == list(range(26)) and int(images.train_x.max()) == 15
