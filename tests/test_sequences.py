"""Streams whose experiences are data sets: rows, labels, draws, sizes, phases and orders, on generated data sets."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cl_framework import ConfigError, DataError, Dataset, Need, Phase, Setting, Stream
from cl_framework.checks import parametrize_with_checks
from cl_framework.places import Folder
from cl_framework.scenarios._balanced import balanced, quotas
from cl_framework.scenarios._bytes import byte_rows
from cl_framework.scenarios.text_sequence import TextSequence
from cl_framework.scenarios.vision_sequence import VisionSequence, as_rgb
from cl_framework.sources import Source


def toy(name: str, shape: tuple[int, ...], counts: Sequence[int], n_test: int = 6, names: bool = True) -> Source:
    """A data set with so many training rows of each class, mixed; text rows say which they are."""
    def read(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(len(name))
        arrays: dict[str, Any] = {}
        for part, of_class in (("train", counts), ("test", [n_test] * len(counts))):
            y = rng.permutation(np.repeat(np.arange(len(counts)), of_class))
            arrays[f"{part}_y"] = y
            arrays[f"{part}_x"] = (byte_rows([f"{name} {part} {at}" for at in range(len(y))]) if len(shape) == 1
                                   else rng.integers(0, 256, (len(y), *shape), dtype=np.uint8))
        return arrays

    return Source(name=name, description="", read=read, files=(), places=(Folder("/", ("",)),), n_classes=len(counts),
                  class_names=tuple(f"{name}{label}" for label in range(len(counts))) if names else ())


NEWS, MAIL = toy("news", (512,), [30, 1, 9, 20]), toy("mails", (512,), [25, 40])
GREY, RGB = toy("grey", (1, 6, 6), [12, 12, 12, 12]), toy("rgb", (3, 9, 5), [5, 20, 9], names=False)
VECTORS, EMPTY = toy("vector", (512, 2), [9, 9]), toy("empties", (512,), [9, 0, 9, 9])
AGAIN = toy("news", (512,), [30, 30])


def at(*names: str) -> list[str]:
    return [f"{__name__}:{name}" for name in names]


@dataclass(kw_only=True)
class Texts(TextSequence):
    """A text sequence of which every check holds: no data set has two classes alone, or nothing is told."""

    known_failures: ClassVar[dict[str, str]] = {}


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    folder = tmp_path_factory.getbasetemp() / "sequences-data"
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder


def raw(data: Dataset) -> torch.Tensor:
    assert isinstance(data.raw, torch.Tensor)
    return data.raw


SMALL: list[Any] = [
    Texts(sources=at("NEWS", "MAIL"), incremental="class"), Texts(sources=at("MAIL", "NEWS"), incremental="class",
                                                                  n_train=8, n_test=4, subset_seed=3),
    VisionSequence(sources=at("GREY", "RGB"), size=8, incremental="class"),
    VisionSequence(sources=[*at("GREY"), "digits"], size=8, n_train=40, n_test=20),
]


@parametrize_with_checks(SMALL)
def test_every_check(plugin: Any, check: Any) -> None:
    check(plugin)


def one_by_one(available: Sequence[int], n: int) -> list[int]:
    """Give rows one at a time, to the first of the classes that have got the fewest and have more."""
    given = [0] * len(available)
    while sum(given) < n and given != list(available):
        open_classes = [k for k in range(len(available)) if given[k] < available[k]]
        given[min(open_classes, key=lambda k: (given[k], k))] += 1
    return given


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 80))
def test_quotas_are_those_of_giving_one_by_one(available: list[int], n: int) -> None:
    assert quotas(available, n) == one_by_one(available, n)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_draws_are_balanced_ascending_and_nested(labels: list[int], n: int, seed: int) -> None:
    y, pool = torch.tensor(labels), [0, 2, 3]
    rows = balanced(y, pool, n, seed, "x")
    assert rows.tolist() == sorted(set(rows.tolist())) and set(y[rows].tolist()) <= set(pool)
    assert [int((y[rows] == label).sum()) for label in pool] == quotas([labels.count(label) for label in pool], n)
    assert set(rows.tolist()) <= set(balanced(y, pool, n + 1, seed, "x").tolist())
    assert balanced(y, pool, 0, seed).tolist() == [row for row, label in enumerate(labels) if label in pool]


def test_every_row_is_drawn_equally_often() -> None:
    y = torch.tensor([0] * 5 + [1] * 20)
    times = torch.zeros(25)
    for seed in range(2000):
        times[balanced(y, [0, 1], 8, seed, "x")] += 1
    shares = torch.tensor([4 / 5] * 5 + [4 / 20] * 20)
    deviation = (2000 * shares * (1 - shares)).sqrt()
    assert ((times - 2000 * shares).abs() < 4 * deviation).all()


def test_rows_of_a_stream_are_those_of_its_data_sets() -> None:
    stream = TextSequence(sources=at("NEWS", "MAIL"), n_train=0, n_test=0).open(Phase.SINGLE, None)
    for experience, source, first in zip(stream, (NEWS, MAIL), (0, 4), strict=True):
        images, test = source.load(), stream.test(experience.index)
        assert torch.equal(raw(experience.train), images.train_x) and torch.equal(raw(test.data), images.test_x)
        assert torch.equal(experience.train.y, images.train_y + first)
        assert torch.equal(test.data.y, images.test_y + first)
        assert experience.name == source.name
        assert experience.class_names == tuple(f"{source.name}: {name}" for name in source.class_names)
    assert dict(stream.provenance) == {source.name: source.load().digest for source in (NEWS, MAIL)}
    assert stream.info.mean == (0.0,) and stream.info.std == (1.0,) and stream.info.input_shape == (512,)


def labels_of(stream: Stream) -> list[tuple[object, ...]]:
    return [(e.classes, e.task, set(e.train.y.tolist()), set(stream.test(e.index).data.y.tolist())) for e in stream]


def test_settings() -> None:
    own = [set(range(4)), set(range(4, 6))]
    task = TextSequence(sources=at("NEWS", "MAIL")).open(Phase.SINGLE, None)
    assert labels_of(task) == [((0, 1, 2, 3), 0, own[0], own[0]), ((4, 5), 1, own[1], own[1])]
    assert task.info.setting is Setting.TASK and Need.TASK_LABELS in task.info.offers and task.info.n_classes == 6
    by_class = TextSequence(sources=at("NEWS", "MAIL"), incremental="class").open(Phase.SINGLE, None)
    assert labels_of(by_class) == [((0, 1, 2, 3), None, own[0], own[0]), ((4, 5), None, own[1], own[1])]
    assert by_class.info.setting is Setting.CLASS and Need.TASK_LABELS not in by_class.info.offers


def test_subsets_are_balanced_and_follow_their_seed_alone() -> None:
    def rows(seed: int, *names: str, n_train: int = 20, order_seed: int | None = None) -> set[bytes]:
        stream = TextSequence(sources=at(*names), n_train=n_train, n_test=8, subset_seed=seed)
        opened = stream.open(Phase.SINGLE, order_seed)
        experience = next(each for each in opened if each.name == "news")
        assert experience.train.y.sub(experience.classes[0]).bincount().tolist() == one_by_one([30, 1, 9, 20], n_train)
        assert opened.test(experience.index).data.y.sub(experience.classes[0]).bincount().tolist() == [2] * 4
        return {row.tobytes() for row in raw(experience.train).numpy()}

    assert rows(0, "NEWS") == rows(0, "MAIL", "NEWS") == rows(0, "NEWS", "MAIL", order_seed=5) != rows(1, "NEWS")
    assert rows(0, "NEWS") < rows(0, "NEWS", n_train=30)


def test_order_seed_shuffles_the_data_sets_and_nothing_else() -> None:
    scenario = VisionSequence(sources=[*at("GREY", "RGB"), "digits"], size=8, n_train=20, n_test=20)
    natural = {e.name: raw(e.train) for e in scenario.open(Phase.SINGLE, None)}
    assert list(natural) == ["grey", "rgb", "digits"]
    orders = set()
    for seed in range(30):
        stream = scenario.open(Phase.SINGLE, seed)
        orders.add(tuple(experience.name for experience in stream))
        assert all(torch.equal(raw(experience.train), natural[experience.name]) for experience in stream)
    assert orders == set(itertools.permutations(natural))


def test_phases_are_halves_of_each_data_set() -> None:
    scenario = VisionSequence(sources=at("GREY", "RGB"), size=8, incremental="class")
    names = {phase: [e.class_names for e in scenario.open(phase, None)] for phase in Phase}
    assert names[Phase.TUNING] == [("grey: grey0", "grey: grey1"), ("rgb: 0",)]
    assert names[Phase.EVALUATION] == [("grey: grey2", "grey: grey3"), ("rgb: 1",)]
    upper = scenario.open(Phase.EVALUATION, None)[0].train
    expected = GREY.load().train_x[GREY.load().train_y >= 2]
    assert torch.equal(raw(upper), as_rgb(expected, 8)) and set(upper.y.tolist()) == {0, 1}
    with pytest.raises(ConfigError, match=r"a single class of rgb is in phase=tuning, .*; leave it out of "
                                          r"scenario\.sources, or take scenario\.incremental=class or phase=single"):
        VisionSequence(sources=at("GREY", "RGB")).open(Phase.TUNING, None)


@pytest.mark.parametrize("size", [8, 17, 64])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 10), (1, 8, 8), (3, 64, 64)])
def test_sizes_against_pillow(size: int, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    found = as_rgb(torch.from_numpy(images), size)
    assert found.shape == (3, 3, size, size) and found.dtype == torch.uint8
    for image, seen in zip(images, found, strict=True):
        for channel in range(3):
            grey = Image.fromarray(image[channel % shape[0]])
            expected = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(seen[channel].numpy() - expected).max() <= 1


def test_an_image_of_the_right_size_stays_and_a_ramp_stays_a_ramp() -> None:
    images = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_rgb(images, 8), images)
    ramp = torch.arange(0, 160, 20, dtype=torch.uint8).expand(1, 1, 8, 8)
    inner = as_rgb(ramp, 16)[0, 0, 3, 1:-1]
    assert inner.tolist() == list(range(5, 145, 10))


def test_moments_are_those_of_the_first_data_set() -> None:
    scenario = VisionSequence(sources=at("GREY", "RGB"), size=8)
    for order_seed in range(6):
        stream = scenario.open(Phase.SINGLE, order_seed)
        rows = raw(stream[0].train).double() / 255
        assert stream.info.mean == pytest.approx(rows.mean((0, 2, 3)).tolist(), abs=1e-9)
        assert stream.info.std == pytest.approx(rows.std((0, 2, 3), correction=0).tolist(), abs=1e-9)
    assert stream.info.input_shape == (3, 8, 8)


@pytest.mark.parametrize(("kind", "fields", "message"), [
    (TextSequence, {"sources": ["bbc_news_txt"]}, "unknown dataset 'bbc_news_txt'; did you mean 'bbc_news_text'"),
    (TextSequence, {"sources": [*at("NEWS"), "nothing_at_all"]}, "unknown dataset 'nothing_at_all'; "),
    (TextSequence, {"sources": at("NEWS", "NEWS")}, "must name at least one data set, and none twice"),
    (TextSequence, {"sources": at("NEWS", "AGAIN")}, "must name at least one data set, and none twice"),
    (VisionSequence, {"sources": []}, "must name at least one data set"),
    (TextSequence, {"sources": at("NEWS", "GREY")},
     r"grey holds rows of shape \(1, 6, 6\), not texts as 512 bytes; take such as .*, or scenario=vision_sequence"),
    (VisionSequence, {"sources": at("GREY", "NEWS")},
     r"news holds rows of shape \(512,\), not images of 1 or 3 channels; .*, or scenario=text_sequence"),
    (VisionSequence, {"sources": at("VECTORS")}, r"vector holds rows of shape \(512, 2\), not images"),
    (TextSequence, {"sources": at("MAIL", "NEWS"), "n_train": 3},
     "n_train=3 is fewer than the 4 classes of news in this phase; take at least 4, or 0 for all rows"),
    (TextSequence, {"sources": at("MAIL", "NEWS"), "n_test": 1}, "n_test=1 is fewer than the 4 classes of news"),
])
def test_what_cannot_be_made(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        kind(**fields).open(Phase.SINGLE, None)
    assert len(caught.value.faults) == 1


def test_a_class_without_rows() -> None:
    with pytest.raises(DataError, match="class 'empties1' of empties has no training rows; add some, or leave"):
        TextSequence(sources=at("EMPTY")).open(Phase.SINGLE, None)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ConfigError, match="n_train must be at least 0"):
        TextSequence(n_train=-1)
    with pytest.raises(ConfigError, match="size must be at most 512"):
        VisionSequence(size=1000)


@pytest.mark.parametrize("name", ["text_sequence", "vision_sequence"])
def test_it_is_shown_without_torch(name: str) -> None:
    code = ("import sys; from cl_framework.cli import main; sys.argv = ['clf', 'show', 'scenario=" + name + "']\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "subset_seed" in done.stdout, done.stderr
