"""Emoji on generated packages of the same format: npm, white ground, one set of emoji on each side for both vendors."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cl_framework import ConfigError, DataError, Phase
from cl_framework.places import NpmPackage
from cl_framework.scenarios import _emoji
from cl_framework.scenarios._emoji import CATEGORIES, read_emoji
from cl_framework.scenarios.emoji import Emoji

N = 10
"""Emoji of each category."""


def table() -> list[dict[str, Any]]:
    rows = [{"unified": f"1F{label}{at:02}", "image": f"1f{label}{at:02}.png", "category": category,
             "subcategory": "x", "has_img_google": True, "has_img_twitter": True}
            for label, category in enumerate(CATEGORIES) for at in range(N)]
    rows += [{**rows[0], "unified": "0000", "image": "0000.png", "has_img_twitter": False},
             {**rows[0], "unified": "0001", "image": "0001.png", "category": "Component"}]
    return rows[::-1]


def picture(label: int, at: int, vendor: str, alpha: int = 255) -> Image.Image:
    colour = (label * 20, at * 20, 90 if vendor == "google" else 200, alpha)
    return Image.new("RGBA", (64, 64), colour)


def write(folder: Path, vendor: str) -> Path:
    images = folder / "img" / vendor / "64"
    images.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(table()))
    for label in range(len(CATEGORIES)):
        for at in range(N):
            picture(label, at, vendor).save(images / f"1f{label}{at:02}.png")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    for vendor in ("google", "twitter"):
        write(tmp_path / f"emoji_{vendor}", vendor)
    return tmp_path


def test_rows_of_both_vendors_correspond(tmp_path: Path) -> None:
    found = {vendor: read_emoji(write(tmp_path / vendor, vendor), vendor=vendor, key="category", classes=CATEGORIES)
             for vendor in ("google", "twitter")}
    for arrays in found.values():
        assert arrays["train_x"].shape == (72, 3, 64, 64) and arrays["test_x"].shape == (18, 3, 64, 64)
        assert arrays["test_x"][:, 1, 0, 0].tolist() == [80, 180] * 9  # the fifth and the tenth of each class
        assert arrays["test_y"].tolist() == [label for label in range(9) for _ in range(2)]
    for part in ("train", "test"):
        assert np.array_equal(found["google"][f"{part}_y"], found["twitter"][f"{part}_y"])
        assert np.array_equal(found["google"][f"{part}_x"][:, :2], found["twitter"][f"{part}_x"][:, :2])


def test_transparency_becomes_white(tmp_path: Path) -> None:
    folder = write(tmp_path / "g", "google")
    half = picture(0, 0, "google", alpha=0)
    half.paste((10, 20, 30, 255), (0, 0, 64, 32))
    half.save(folder / "img/google/64/1f000.png")
    found = read_emoji(folder, vendor="google", key="category", classes=CATEGORIES)["train_x"][0]
    assert found[:, 0, 0].tolist() == [10, 20, 30] and found[:, 63, 0].tolist() == [255, 255, 255]


def test_a_picture_that_was_learned_is_not_held_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "g", "google")
    picture(2, 0, "google").save(folder / "img/google/64/1f204.png")
    found = read_emoji(folder, vendor="google", key="category", classes=CATEGORIES)
    assert len(found["train_x"]) == 72 and found["test_y"].tolist().count(2) == 1


def test_damage(tmp_path: Path) -> None:
    def read() -> None:
        read_emoji(tmp_path / "g", vendor="google", key="category", classes=CATEGORIES)

    with pytest.raises(FileNotFoundError):
        read()
    image = write(tmp_path / "g", "google") / "img/google/64/1f000.png"
    Image.new("RGBA", (32, 64)).save(image)
    with pytest.raises(DataError, match=r"1f000\.png has \(32, 64\) pixels, expected 64x64"):
        read()
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1f000\.png is no readable image"):
        read()
    image.unlink()
    with pytest.raises(FileNotFoundError):
        read()
    (tmp_path / "g" / "emoji.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"emoji\.json is no table of emoji"):
        read()


def test_the_stream(home: Path) -> None:
    stream = Emoji().open(Phase.SINGLE, None)
    assert [experience.classes for experience in stream] == [tuple(range(9))] * 2
    assert stream[0].class_names == CATEGORIES and stream.info.input_shape == (3, 64, 64)
    blue = [stream[index].train.raw[0, 2, 0, 0].item() for index in range(2)]  # type: ignore[index]
    assert blue == [90, 200] and set(stream.provenance) == {"emoji_google", "emoji_twitter"}
    assert stream.info.mean == _emoji.EMOJI_GOOGLE.mean
    swapped = [Emoji().open(Phase.SINGLE, seed).info.mean for seed in range(6)]
    assert set(swapped) == {_emoji.EMOJI_GOOGLE.mean, _emoji.EMOJI_TWITTER.mean}
    halves = [set(Emoji().open(phase, None)[0].class_names) for phase in (Phase.TUNING, Phase.EVALUATION)]
    assert halves == [set(CATEGORIES[:4]), set(CATEGORIES[4:8])]


def test_smaller_pictures(home: Path) -> None:
    large, small = (Emoji(size=size).open(Phase.SINGLE, None)[1].train for size in (64, 16))
    assert isinstance(large.raw, torch.Tensor)
    assert torch.equal(small.raw, F.avg_pool2d(large.raw.float(), 4).round().to(torch.uint8))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scenario\.size=48 must be 64, 32 or 16"):
        Emoji(size=48).open(Phase.SINGLE, None)


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool of that name on the PATH."""
    folder.mkdir(exist_ok=True)
    tool = folder / "npm"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_npm_package_is_read_and_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "toy-1.2.tgz", "w:gz") as archive:
        for name in ("package/emoji.json", "package/img/64/a.png", "package/other.txt", "elsewhere/emoji.json"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/toy-1.2.tgz .', monkeypatch)
    place, scratch = NpmPackage("toy", "1.2", ("emoji.json", "img/64")), tmp_path / "scratch"
    scratch.mkdir()
    assert place.is_there() and place.is_download and str(place) == "npm package toy@1.2"
    found = place.fetch(scratch)
    assert sorted(path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()) == [
        "emoji.json", "img/64/a.png"]
    assert (tmp_path / "asked").read_text().split() == ["pack", "--ignore-scripts", "--silent", "toy@1.2"]


def test_npm_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = NpmPackage("toy", "1.2", ("emoji.json",))
    npm(tmp_path / "bin", "echo 404 Not Found >&2; exit 1", monkeypatch)
    with pytest.raises(ConnectionError, match="404 Not Found"):
        place.fetch(tmp_path)
    npm(tmp_path / "bin", "echo broken > toy-1.2.tgz", monkeypatch)
    with pytest.raises(DataError, match=r"toy-1\.2\.tgz is no npm package, or cut short"):
        place.fetch(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not place.is_there()
