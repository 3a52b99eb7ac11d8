"""Readers of CIFAR-10-C, CIFAR-100-C and ImageNet-C, on generated files of the published layout."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cl_framework import ConfigError, DataError, Dataset, Need, Phase
from cl_framework.scenarios._cifar_c import CifarC
from cl_framework.scenarios._severities import CORRUPTIONS, HOLD_OUTS
from cl_framework.scenarios.cifar_c import CIFAR10C, CIFAR100C
from cl_framework.scenarios.imagenet_c import ImageNetC

N_TEST = 20


def write_cifar(home: Path, name: str = "cifar10", n_classes: int = 10) -> np.ndarray:
    """A small data set in CIFAR's format and its corrupted files; returns the labels."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(N_TEST) % n_classes)
    inner = home / name / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    inner.mkdir(parents=True, exist_ok=True)
    key = "labels" if name == "cifar10" else "fine_labels"
    train = [f"data_batch_{number}" for number in range(1, 6)] if name == "cifar10" else ["train"]
    for file in (*train, "test_batch" if name == "cifar10" else "test"):
        labels = y.tolist() if "test" in file else (np.arange(n_classes * 2) % n_classes).tolist()
        rows = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (inner / file).write_bytes(pickle.dumps({"data": rows, key: labels}))
    folder = home / f"{name}c" / ("CIFAR-10-C" if name == "cifar10" else "CIFAR-100-C")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", np.tile(y, 5).astype(np.uint8))
    for at, corruption in enumerate((*CORRUPTIONS, *HOLD_OUTS)):
        pixels = rng.integers(0, 256, (5 * N_TEST, 32, 32, 3), dtype=np.uint8)
        pixels[:, 0, 0] = np.stack(
            [np.full(5 * N_TEST, at), np.arange(5).repeat(N_TEST), np.tile(np.arange(N_TEST), 5)], 1)
        np.save(folder / f"{corruption}.npy", pixels)
    return y


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    return tmp_path


def raw(data: Dataset) -> Tensor:
    assert isinstance(data.raw, Tensor)
    return data.raw


@pytest.mark.parametrize(("kind", "name", "n_classes"), [(CIFAR10C, "cifar10", 10), (CIFAR100C, "cifar100", 100)])
def test_cifar_c_in_its_layout(home: Path, kind: type, name: str, n_classes: int) -> None:
    y = write_cifar(home, name, n_classes)
    stream = kind(is_official=False, severity=4).open(Phase.SINGLE, None)
    assert [experience.name for experience in stream] == [f"{name}c-altered {which} 4" for which in CORRUPTIONS]
    for at, experience in enumerate(stream):
        rows = raw(experience.train)
        assert rows.shape == (N_TEST, 3, 32, 32) and rows.dtype == torch.uint8
        assert bool((rows[:, 0, 0, 0] == at).all()) and bool((rows[:, 1, 0, 0] == 3).all())
        image = rows[:, 2, 0, 0].long()
        assert image.unique().numel() == N_TEST and np.array_equal(experience.train.y.numpy(), y[image.numpy()])
        stored = np.load(home / f"{name}c" / ("CIFAR-10-C" if n_classes == 10 else "CIFAR-100-C")
                         / f"{CORRUPTIONS[at]}.npy")[3 * N_TEST:4 * N_TEST]
        assert np.array_equal(rows.permute(0, 2, 3, 1).numpy(), stored[image.numpy()])
    assert stream.info.n_classes == n_classes and len(stream.test(0).data) == N_TEST
    assert set(stream.provenance) == {f"{name}-altered", f"{name}c-altered"}
    tuning = kind(is_official=False).open(Phase.TUNING, None)
    assert [experience.name.split()[1] for experience in tuning] == list(HOLD_OUTS)


def test_cifar_c_that_is_not_there(home: Path) -> None:
    write_cifar(home)
    (home / "cifar10c" / "CIFAR-10-C").rename(home / "cifar10c" / "elsewhere")
    with pytest.raises(DataError, match=r"labels\.npy of CIFAR-10-C is not there; put the official CIFAR-10-C\.tar"):
        CIFAR10C(is_official=False).open(Phase.SINGLE, None)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("fog", np.zeros((4 * N_TEST, 32, 32, 3), np.uint8), "five severities of the 20 test images"),
    ("fog", np.zeros((5 * N_TEST, 3, 32, 32), np.uint8), "five severities of the 20 test images"),
    ("fog", np.zeros((5 * N_TEST, 32, 32, 3), np.float32), "is float32"),
    ("fog", np.array([{}], dtype=object), "no plain array file"),
    ("fog", b"no array", "no plain array file, or cut short"),
    ("labels", np.zeros(5 * N_TEST, np.uint8), "do not belong together"),
    ("labels", np.zeros(5 * N_TEST), "expected one integer a row"),
])
def test_cifar_c_damaged(home: Path, name: str, content: Any, words: str) -> None:
    write_cifar(home)
    path = home / "cifar10c" / "CIFAR-10-C" / f"{name}.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=words):
        CIFAR10C(is_official=False, corruptions=["fog"]).open(Phase.SINGLE, None)


def test_cifar_c_cut_short(home: Path) -> None:
    write_cifar(home)
    path = home / "cifar10c" / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut short"):
        CIFAR10C(is_official=False, corruptions=["fog"]).open(Phase.SINGLE, None)


def test_the_archive_is_read_in_place_and_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(home)
    folder = home / "cifar10c"
    expected = np.load(folder / "CIFAR-10-C" / "snow.npy")
    with tarfile.open(folder / "CIFAR-10-C.tar", "w") as tar:
        tar.add(folder / "CIFAR-10-C", "CIFAR-10-C")
    (folder / "CIFAR-10-C").rename(folder / "unpacked")
    md5 = hashlib.md5((folder / "CIFAR-10-C.tar").read_bytes(), usedforsecurity=False).hexdigest()
    files = CifarC(folder, "CIFAR-10-C", "CIFAR-10-C.tar", md5)
    assert np.array_equal(files.images("snow", 2, N_TEST), expected[N_TEST:2 * N_TEST])
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert len(files.labels()) == 5 * N_TEST
    monkeypatch.undo()
    monkeypatch.setenv("CLF_DATA", str(home))
    with pytest.raises(DataError, match=f"has MD5 {md5}, expected 56bf5dcef84df0e2308c6dcbcbbd8499"):
        CifarC(folder, "CIFAR-10-C", "CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499").labels()
    with pytest.raises(DataError, match="lacks CIFAR-10-C/rain"):
        files.images("rain", 1, N_TEST)
    assert len(CIFAR10C(is_official=False).open(Phase.SINGLE, None)) == 15


def write_imagenet(home: Path) -> None:
    rng = np.random.default_rng(0)
    for label, wnid in enumerate(("n01440764", "n01443537", "n01484850")):
        for number in range(3):
            name = f"ILSVRC2012_val_{label}{number}.JPEG"
            for folder, size in (("val", (300, 260)), ("noise/gaussian_noise/3", (224, 224)), ("snow/3", (224, 224))):
                (home / "imagenetc" / folder / wnid).mkdir(parents=True, exist_ok=True)
                pixels = np.full((size[1], size[0], 3), rng.integers(0, 60) + 60 * label, np.uint8)
                Image.fromarray(pixels).save(home / "imagenetc" / folder / wnid / name, "JPEG", quality=95)


def test_imagenet_c_in_its_layout(home: Path) -> None:
    write_imagenet(home)
    torch.save({"w": torch.zeros(1)}, file := home / "weights.pt")
    scenario = ImageNetC(corruptions=["gaussian_noise", "snow"], severity=3, n_images=6, source=str(file))
    for _ in range(2):
        stream = scenario.open(Phase.SINGLE, None)
        assert [experience.name for experience in stream] == ["imagenetc gaussian_noise 3", "imagenetc snow 3"]
        for experience in stream:
            rows = raw(experience.train)
            assert rows.shape == (6, 3, 224, 224) and experience.train.y.bincount().tolist() == [2, 2, 2]
            assert torch.equal(rows.float().mean((1, 2, 3)).div(60, rounding_mode="floor").long(), experience.train.y)
        test = stream.test(0).data
        assert raw(test).shape == (6, 3, 224, 224) and test.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert stream.info.offers == {Need.UNLABELLED} and stream[0].class_names[1] == "n01443537"
    assert len(list((home / "corrupted").glob("imagenetc-*-6-by-rank.safetensors"))) == 3


def test_imagenet_c_that_is_not_there(home: Path) -> None:
    with pytest.raises(ConfigError, match="scenario=imagenetc has no training rows; give the weights"):
        ImageNetC().open(Phase.SINGLE, None)
    with pytest.raises(DataError, match=r"validation images are not there; put them into .*imagenetc/val"):
        ImageNetC(source="model").open(Phase.SINGLE, None)
    write_imagenet(home)
    with pytest.raises(DataError, match="fog/3 is not there; unpack the official archives"):
        ImageNetC(source="model", n_images=9, corruptions=["fog"], severity=3).open(Phase.SINGLE, None)
    (home / "imagenetc/snow/3/n01440764/ILSVRC2012_val_00.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match="is no readable image"):
        ImageNetC(source="model", n_images=9, corruptions=["snow"], severity=3).open(Phase.SINGLE, None)
    (home / "imagenetc/snow/3/n01440764/ILSVRC2012_val_00.JPEG").unlink()
    with pytest.raises(DataError, match=r"lacks n01440764/ILSVRC2012_val_00\.JPEG and 0 more of the 9 chosen"):
        ImageNetC(source="model", n_images=9, corruptions=["snow"], severity=3).open(Phase.SINGLE, None)
