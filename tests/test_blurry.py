"""Blurry boundaries, padding and normalisation: options of every split, counted and compared by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cl_framework import ConfigError, DataError, Dataset, Phase, Setting, StreamInfo
from cl_framework.checks import parametrize_with_checks
from cl_framework.models import MLP
from cl_framework.preprocess import Preprocess
from cl_framework.protocol import build_model
from cl_framework.scenarios._cut import Labelled, cut, moments
from cl_framework.scenarios.custom import Custom
from cl_framework.scenarios.split import SplitDigits, SplitLetter
from cl_framework.sources import ImageSet


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    folder = tmp_path_factory.getbasetemp() / "split-data"
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder


def toy(n_classes: int = 6, n: int = 40) -> Labelled:
    """Row r is the number r, of class r mod n_classes."""
    y = torch.arange(n_classes).repeat(n)
    x = torch.arange(n * n_classes, dtype=torch.float32).view(-1, 1)
    names = tuple("abcdefghij"[:n_classes])
    return Labelled(name="toy", images=ImageSet(x, y, x[:18], y[:18], ""), class_names=names)


def numbers(data: Dataset) -> list[int]:
    assert isinstance(data.raw, torch.Tensor)
    return [int(number) for number in data.raw.flatten()]


@parametrize_with_checks([SplitDigits(blurry=0.1), SplitDigits(blurry=0.9, is_online=True),
                          SplitDigits(pad=3), SplitDigits(normalise=False, pad=1, incremental="task")])
def test_every_check(plugin: Any, check: Any) -> None:
    check(plugin)


@pytest.mark.parametrize("order_seed", [None, 0, 5])
def test_shares_are_exact_and_no_row_is_lost_or_doubled(order_seed: int | None) -> None:
    parts = cut(toy(), range(6), [2, 2, 2], order_seed, Setting.CLASS, blurry=0.2)
    plain = cut(toy(), range(6), [2, 2, 2], order_seed, Setting.CLASS)
    for index, part in enumerate(parts):
        counts = part.train.y.bincount(minlength=6).tolist()
        major = range(2 * index, 2 * index + 2)
        assert counts == [32 if label in major else 4 for label in range(6)]
        assert part.classes == tuple(range(6)) and part.test_classes == tuple(major) == plain[index].classes
        assert numbers(part.train) == sorted(numbers(part.train))
        assert numbers(part.test) == numbers(plain[index].test)
        names = dict(zip(part.classes, part.class_names, strict=True))
        assert all("abcdef"[number % 6] == names[label]
                   for number, label in zip(numbers(part.train), part.train.y.tolist(), strict=True))
    assert sorted(number for part in parts for number in numbers(part.train)) == list(range(240))
    assert len({part.train.store_id() for part in parts}) == 1


def test_the_same_seed_moves_the_same_rows() -> None:
    rows = [[numbers(part.train) for part in cut(toy(), range(6), [3, 3], seed, Setting.CLASS, blurry=0.25)]
            for seed in (None, 0, 0, 1)]
    assert rows[1] == rows[2] != rows[3]


def test_few_rows_move_at_least_one_and_keep_at_least_one() -> None:
    for share in (0.01, 0.9):
        parts = cut(toy(n=3), range(6), [2, 2, 2], None, Setting.CLASS, blurry=share)
        majors = [part.train.y.bincount(minlength=6)[2 * index:2 * index + 2].tolist()
                  for index, part in enumerate(parts)]
        assert majors == [[2, 2] if share == 0.01 else [1, 1]] * 3
    with pytest.raises(DataError, match="class 'a' has a single training row, which cannot lie in two experiences"):
        one = toy(n=3)
        one.images.train_y[one.images.train_y == 0] = torch.tensor([0, 1, 1])
        cut(one, range(6), [2, 2, 2], None, Setting.CLASS, blurry=0.1)


def test_the_stream_tests_the_classes_of_the_experience() -> None:
    stream = SplitDigits(blurry=0.1).open(Phase.SINGLE, None)
    plain = SplitDigits().open(Phase.SINGLE, None)
    for experience in stream:
        assert experience.classes == tuple(range(10)) and len(experience.class_names) == 10
        test = stream.test(experience.index)
        assert test.classes == plain[experience.index].classes and set(test.data.y.tolist()) == set(test.classes)
    assert sum(len(experience.train) for experience in stream) == 1442


@pytest.mark.parametrize("fields", [{"incremental": "task"}, {"incremental": "domain"}, {"n_experiences": 1}])
def test_blurry_has_a_meaning_in_the_class_incremental_setting_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"blurry=0\.1 .* scenario\.incremental=class and at least 2 experiences"):
        SplitDigits(blurry=0.1, **fields).open(Phase.SINGLE, None)


def test_one_s_own_data_may_be_blurry(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((60, 3), np.float32), y=np.arange(60) % 3)
    stream = Custom(path=str(tmp_path / "data.npz"), n_experiences=3, blurry=0.5).open(Phase.SINGLE, None)
    assert [experience.train.y.bincount().tolist() for experience in stream] == [[8, 4, 4], [4, 8, 4], [4, 4, 8]]


def test_padding_is_zero_and_its_moments_are_those_of_the_padded_images() -> None:
    plain, padded = (SplitDigits(pad=pad, n_experiences=1).open(Phase.SINGLE, None) for pad in (0, 4))
    assert padded.info.input_shape == (1, 16, 16)
    raw = plain[0].train.raw
    assert isinstance(raw, torch.Tensor)
    assert torch.equal(padded[0].train.raw, F.pad(raw, (4, 4, 4, 4)))  # type: ignore[arg-type]
    mean, std = moments(padded[0].train)
    assert padded.info.mean == pytest.approx(mean, abs=1e-4) and padded.info.std == pytest.approx(std, abs=1e-4)
    assert padded[0].train.store_bytes == plain[0].train.store_bytes
    assert build_model(MLP(), padded.info, seed=0).body is not None


def test_vectors_have_no_border(monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_framework.scenarios import split
    data = toy()
    monkeypatch.setattr(split.Labelled, "of", lambda source: data)
    with pytest.raises(ConfigError, match=r"scenario\.pad=2 needs images, but toy has rows of shape \(1,\)"):
        SplitLetter(pad=2, n_experiences=2).open(Phase.SINGLE, None)


def test_without_normalisation_rows_are_raw_over_255() -> None:
    info: StreamInfo = SplitDigits(normalise=False).open(Phase.SINGLE, None).info
    raw = SplitDigits().open(Phase.SINGLE, None)[0].train.take(torch.arange(9)).raw
    assert isinstance(raw, torch.Tensor)
    assert torch.allclose(Preprocess(info.mean, info.std)(raw), raw / 255)  # type: ignore[arg-type]
