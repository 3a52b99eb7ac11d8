"""A user's own data: .npz files and folders of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl_framework import ConfigError, DataError, Phase
from cl_framework.scenarios.custom import Custom

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path_factory.getbasetemp() / "custom-data"))


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path / "data.npz", **arrays)  # type: ignore[arg-type]
    return str(path / "data.npz")


def test_vectors_with_string_labels(tmp_path: Path) -> None:
    y = np.array(["cat", "ant", "dog", "bee"] * 10)
    x = RNG.normal(3, 2, (40, 7))
    stream = Custom(path=save(tmp_path, x=x, y=y), n_experiences=2).open(Phase.SINGLE, None)
    assert [experience.class_names for experience in stream] == [("ant", "bee"), ("cat", "dog")]
    assert [len(experience.train) for experience in stream] == [16, 16]
    assert len(stream.test(0).data) == 4
    raw = stream[0].train.raw
    assert isinstance(raw, torch.Tensor) and raw.dtype == torch.float32
    assert list(stream.provenance) == ["data.npz"]
    assert stream.info.input_shape == (7,) and len(stream.info.mean) == 7
    # the first experience alone: later rows are the future
    assert stream.info.mean == pytest.approx(raw.mean(0).tolist(), rel=1e-5)
    assert stream.info.std == pytest.approx(raw.std(0, correction=0).tolist(), rel=1e-5)


@pytest.mark.parametrize(("shape", "expected"), [((6, 5), (1, 6, 5)), ((6, 5, 3), (3, 6, 5)), ((3, 6, 5), (3, 6, 5)),
                                                 ((6, 5, 1), (1, 6, 5))])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_images_of_any_layout(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...],
                              dtype: type[np.generic]) -> None:
    x = RNG.integers(0, 256, (20, *shape)).astype(dtype)
    stream = Custom(path=save(tmp_path, x=x, y=np.arange(20) % 2 * 7), n_experiences=2).open(Phase.SINGLE, None)
    assert stream.info.input_shape == expected
    raw = stream[1].train.take(torch.tensor([0])).raw
    assert isinstance(raw, torch.Tensor)
    first = x[1].transpose(2, 0, 1) if shape[-1] in {1, 3} else x[1].reshape(expected)
    assert np.array_equal(raw[0].numpy(), first.astype(raw.numpy().dtype))
    assert stream[1].class_names == ("7",)


def test_own_test_part(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.zeros((6, 2)), y=np.array([5, 5, 9, 9, -1, -1]), x_test=np.ones((4, 2)),
                y_test=np.array([9, 5, -1, 9]))
    stream = Custom(path=path, n_experiences=3).open(Phase.SINGLE, None)
    assert [experience.class_names for experience in stream] == [("-1",), ("5",), ("9",)]
    assert [len(stream.test(index).data) for index in range(3)] == [1, 1, 2]


def test_hold_out_is_the_same_every_time_and_disjoint(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.arange(30, dtype=np.float32)[:, None], y=np.arange(30) % 3)
    custom = Custom(path=path, n_experiences=3, test_fraction=0.3)
    first, second = (custom.open(Phase.SINGLE, None) for _ in range(2))
    for index in range(3):
        test = first.test(index).data.raw
        again, train = second.test(index).data.raw, first[index].train.raw
        assert isinstance(test, torch.Tensor) and isinstance(again, torch.Tensor) and isinstance(train, torch.Tensor)
        assert torch.equal(test, again) and len(test) == 3
        assert not set(test.flatten().tolist()) & set(train.flatten().tolist())


def test_folder_of_images(tmp_path: Path) -> None:
    for shade, name in ((10, "cat"), (20, "dog"), (30, "eel"), (40, "fox")):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 6), (shade, number, 0)).save(tmp_path / name / f"{number}.png")
    custom = Custom(path=str(tmp_path), n_experiences=2, incremental="task")
    stream = custom.open(Phase.SINGLE, None)
    assert stream.info.input_shape == (3, 6, 8)
    assert stream[0].class_names == ("cat", "dog")
    assert stream.info.mean == pytest.approx((15 / 255, 1.5 / 255, 0))
    assert [custom.open(phase, None)[1].class_names for phase in (Phase.TUNING, Phase.EVALUATION)] == [
        ("dog",), ("fox",)]


@pytest.mark.parametrize(("arrays", "message"), [
    ({"x": np.zeros((4, 2)), "y": np.zeros(3, int)}, "y has 3 labels for 4 rows"),
    ({"x": np.zeros(4), "y": np.zeros(4, int)}, r"x has shape \(4,\); expected vectors"),
    ({"x": np.zeros((4, 2)), "y": np.zeros(4)}, "y is of float64 .*; expected one integer or string per row"),
    ({"x": np.zeros((4, 2), int), "y": np.zeros(4, int)}, r"x is of int64; expected uint8 .* x.astype\('uint8'\)"),
    ({"x": np.full((4, 2), np.nan), "y": np.zeros(4, int)}, "not finite"),
    ({"x": np.zeros((4, 2)), "y": np.array([0, 0, 0, 1])}, "class '1' has 1 row; at least 2 are needed"),
    ({"x": np.zeros((4, 2)), "y": np.array([0, 0, 1, 1]), "x_test": np.zeros((1, 2)), "y_test": np.array([2])},
     "the test part has the class '2', which the training part lacks"),
    ({"x": np.zeros((4, 2)), "y": np.array([0, 0, 1, 1]), "x_test": np.zeros((2, 3)), "y_test": np.array([0, 1])},
     r"test rows are float32 \(3,\), training rows float32 \(2,\)"),
    ({"x": np.zeros((4, 2)), "y": np.array([0, 0, 1, 1]), "x_test": np.zeros((1, 2)), "y_test": np.array([0])},
     "class '1' has no test rows"),
])
def test_data_that_cannot_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Custom(path=save(tmp_path, **arrays), n_experiences=2).open(Phase.SINGLE, None)


def test_path_is_needed_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give scenario.path=data.npz \(arrays x and y\) or scenario.path=FOLDER"):
        Custom().open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match="does not exist"):
        Custom(path=str(tmp_path / "absent.npz")).open(Phase.SINGLE, None)
