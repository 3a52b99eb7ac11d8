"""Readers of on-disk formats, on files generated in those formats: right, cut short, wrong, malicious."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from cl_framework import DataError
from cl_framework.scenarios._folders import read_image_folder, read_npz, read_tiny_imagenet
from cl_framework.scenarios._images import CIFAR10, CIFAR100
from cl_framework.scenarios._readers import read_cifar, read_digits, read_idx, read_mnist

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    arrays = {}
    for prefix, n in (("train", 6), ("t10k", 3)):
        images = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = RNG.integers(0, 10, n, dtype=np.uint8)
        arrays |= {f"{prefix}-images-idx3-ubyte": images, f"{prefix}-labels-idx1-ubyte": labels}
    for name, array in arrays.items():
        content = idx(array)
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path: Path, suffix: str) -> None:
    written = write_mnist(tmp_path, suffix)
    found = read_mnist(tmp_path)
    assert found["train_x"].shape == (6, 1, 28, 28)
    assert np.array_equal(found["train_x"][:, 0], written["train-images-idx3-ubyte"])
    assert np.array_equal(found["test_y"], written["t10k-labels-idx1-ubyte"])
    assert found["test_y"].dtype == np.int64


def test_damaged_idx(tmp_path: Path) -> None:
    content = idx(np.zeros((4, 3, 3), np.uint8))
    path = tmp_path / "a"
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="cut short: 51 bytes, its header says 52"):
        read_idx(path)
    path.write_bytes(b"\x89PNG" + content)
    with pytest.raises(DataError, match="is no idx file of unsigned bytes: it starts with 89504e47"):
        read_idx(path)
    (tmp_path / "a.gz").write_bytes(gzip.compress(content)[:-12])
    with pytest.raises(DataError, match=r"a\.gz is damaged or cut short"):
        read_idx(path)
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"a\.gz is damaged"):
        read_idx(path)
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "b")


def test_digits_hold_out_every_fifth_of_a_class(tmp_path: Path) -> None:
    labels = np.arange(30) % 2
    pixels = np.tile(np.arange(30)[:, None] % 17, (1, 64))
    text = "\n".join(",".join(str(value) for value in row) for row in np.column_stack([pixels, labels]))
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text.encode()))
    found = read_digits(tmp_path)
    rows = [8, 9, 18, 19, 28, 29]
    assert found["test_x"][:, 0, 0, 0].tolist() == [round(row % 17 * 255 / 16) for row in rows]
    assert found["test_y"].tolist() == [row % 2 for row in rows]
    assert len(found["train_x"]) == 24
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(text[:-40].encode()))
    with pytest.raises(DataError, match=r"digits\.csv\.gz is damaged or cut short"):
        read_digits(tmp_path)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes text and bytes as Python 2 wrote its `str`, as in CIFAR's files."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str2(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_str2


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2, fix_imports=True).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def batch(n: int, key: str, n_classes: int) -> dict[str, Any]:
    return {"batch_label": "testing batch", key: [int(label) for label in RNG.integers(0, n_classes, n)],
            "data": RNG.integers(0, 256, (n, 3072), dtype=np.uint8),
            "filenames": [f"image_{row}.png" for row in range(n)]}


TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
BATCHES = {name: batch(4, "labels", 10) for name in (*TRAIN, "test_batch")}


def write_cifar(folder: Path, *, is_packed: bool, **changes: bytes) -> dict[str, bytes]:
    contents = {name: python2(value) for name, value in BATCHES.items()} | changes
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    for name, content in contents.items():
        (inner / name).write_bytes(content)
    if is_packed:
        with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
            tar.add(inner, arcname=inner.name)
        for path in inner.iterdir():
            path.unlink()
        inner.rmdir()
    return contents


def cifar10(folder: Path, md5: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    return read_cifar(folder, archive="cifar-10-python.tar.gz", inner="cifar-10-batches-py", train=TRAIN,
                      test=("test_batch",), labels="labels", md5=md5 or {})


@pytest.mark.parametrize("is_packed", [False, True])
def test_cifar10_in_its_own_format(tmp_path: Path, is_packed: bool) -> None:
    contents = write_cifar(tmp_path, is_packed=is_packed)
    found = cifar10(tmp_path, {name: hashlib.md5(content).hexdigest() for name, content in contents.items()})
    expected = np.concatenate([BATCHES[name]["data"] for name in TRAIN]).reshape(20, 3, 32, 32)
    assert np.array_equal(found["train_x"], expected)
    assert found["test_y"].tolist() == BATCHES["test_batch"]["labels"]


def test_generated_batches_are_python_2_pickles() -> None:
    content = python2(BATCHES["test_batch"])
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content and b"_codecs" not in content
    assert content.startswith(b"\x80\x02}")


def test_cifar100_in_its_own_format(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test"):
        value = batch(6, "fine_labels", 100) | {"coarse_labels": [0] * 6}
        (tmp_path / "cifar-100-python" / name).write_bytes(python2(value))
    assert isinstance(CIFAR100.read, partial)
    found = CIFAR100.read.func(tmp_path, **{**CIFAR100.read.keywords, "md5": {}})
    assert found["train_x"].shape == (6, 3, 32, 32)


def test_official_checksums_are_compared(tmp_path: Path) -> None:
    write_cifar(tmp_path, is_packed=True)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz has MD5 .*, expected c58f30108f718f92721af3b"):
        CIFAR10.read(tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    write_cifar(tmp_path, is_packed=False)
    with pytest.raises(DataError, match=r"data_batch_1 has MD5 .*, expected c99cafc152244af753f735de768cd75f"):
        CIFAR10.read(tmp_path)


def test_cifar_archive_cut_short(tmp_path: Path) -> None:
    write_cifar(tmp_path, is_packed=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cut short"):
            cifar10(tmp_path)


def test_cifar_batch_cut_short(tmp_path: Path) -> None:
    write_cifar(tmp_path, is_packed=False, data_batch_3=python2(BATCHES["data_batch_3"])[:500])
    with pytest.raises(DataError, match="data_batch_3 is no CIFAR batch, or damaged"):
        cifar10(tmp_path)


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    write_cifar(tmp_path, is_packed=False, data_batch_1=pickle.dumps({"data": Attack(tmp_path / "owned")}, protocol=2))
    with pytest.raises(DataError, match=r"mkdir, which no CIFAR file needs"):
        cifar10(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_absent_files_are_not_damage(tmp_path: Path) -> None:
    for read in (cifar10, read_mnist, read_digits):
        with pytest.raises(FileNotFoundError):
            read(tmp_path)


def write_tiny_imagenet(folder: Path) -> None:
    root = folder / "tiny-imagenet-200"
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    lines = []
    for shade, wnid in ((100, "n01"), (200, "n02")):
        (root / "train" / wnid / "images").mkdir(parents=True)
        for number in range(3):
            mode = "L" if number == 1 else "RGB"
            Image.new(mode, (64, 64), shade if mode == "L" else (shade,) * 3).save(
                root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        Image.new("RGB", (64, 64), (shade,) * 3).save(root / "val" / "images" / f"val_{shade}.JPEG")
        lines.append(f"val_{shade}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))


def tiny(folder: Path) -> dict[str, np.ndarray]:
    return read_tiny_imagenet(folder, archive="tiny-imagenet-200.zip", inner="tiny-imagenet-200", md5={})


@pytest.mark.parametrize("is_packed", [False, True])
def test_tiny_imagenet_layout(tmp_path: Path, is_packed: bool) -> None:
    write_tiny_imagenet(tmp_path)
    if is_packed:
        with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
            for path in sorted((tmp_path / "tiny-imagenet-200").rglob("*")):
                archive.write(path, path.relative_to(tmp_path))
        (tmp_path / "tiny-imagenet-200").rename(tmp_path / "elsewhere")
    found = tiny(tmp_path)
    assert found["train_x"].shape == (6, 3, 64, 64)
    assert found["train_y"].tolist() == [0, 0, 0, 1, 1, 1]  # the order of wnids.txt
    assert abs(int(found["train_x"][0, 0, 0, 0]) - 200) < 3
    assert found["test_y"].tolist() == [1, 0]


def test_damaged_tiny_imagenet(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    annotations = root / "val" / "val_annotations.txt"
    whole = annotations.read_text()
    annotations.write_text(whole[:-18])
    with pytest.raises(DataError, match=r"val_annotations\.txt names the class"):
        tiny(tmp_path)
    annotations.write_text(whole)
    image = root / "train" / "n01" / "images" / "n01_0.JPEG"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train/n01/images/n01_0\.JPEG is no readable image"):
        tiny(tmp_path)
    for path in image.parent.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="2 classes, but train/ has images of 1 of them"):
        tiny(tmp_path)
    (tmp_path / "tiny-imagenet-200").rename(tmp_path / "elsewhere")
    (tmp_path / "tiny-imagenet-200.zip").write_bytes(b"PK nonsense")
    with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip is damaged"):
        tiny(tmp_path)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 2)), y=np.arange(3))
    assert read_npz(path).test_x is None
    np.savez(path, x=np.zeros((3, 2)))
    with pytest.raises(DataError, match="lacks the array 'y'"):
        read_npz(path)
    np.savez(path, x=np.zeros((3, 2)), y=np.arange(3), x_test=np.zeros((3, 2)))
    with pytest.raises(DataError, match="lacks the array 'y_test'"):
        read_npz(path)
    np.savez(path, x=np.array([{}, {}], dtype=object), y=np.arange(2))
    with pytest.raises(DataError, match="arrays of Python objects are refused"):
        read_npz(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"is no readable \.npz file"):
        read_npz(path)


def test_folder_of_images(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("L", (5, 4), 10 * number).save(tmp_path / name / f"{number}.png")
        (tmp_path / name / "notes.txt").write_text("not an image")
    found = read_image_folder(tmp_path)
    assert found.x.shape == (4, 1, 4, 5) and found.y.tolist() == ["cat", "cat", "dog", "dog"]
    assert found.test_x is None
    Image.new("L", (5, 5)).save(tmp_path / "dog" / "2.png")
    with pytest.raises(DataError, match=r"dog/2\.png has shape \(1, 5, 5\)"):
        read_image_folder(tmp_path)
    (tmp_path / "dog" / "2.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"dog/2\.png is no readable image"):
        read_image_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images; expected one folder a class"):
        read_image_folder(tmp_path / "empty")


def test_folder_of_images_with_a_test_part(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("test", 1)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(n):
                Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    found = read_image_folder(tmp_path)
    assert found.test_x is not None and found.test_y is not None
    assert found.x.shape == (6, 3, 4, 4) and found.test_y.tolist() == ["a", "b"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_of_any_pickle_protocol_are_read(tmp_path, protocol):
    from cl_framework.scenarios._readers import read_cifar

    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name in ("train", "test"):
        (tmp_path / "in" / name).write_bytes(
            pickle.dumps({b"data": rows, b"fine_labels": [0, 1, 2, 3, 4, 5]}, protocol=protocol))
    try:
        arrays = read_cifar(tmp_path, archive="x.tar.gz", inner="in", train=("train",), test=("test",),
                            labels="fine_labels", md5={})
    except DataError as error:
        raise AssertionError(error) from None
    assert (arrays["train_x"].reshape(6, -1) == rows).all()
