"""Files of pretrained networks: fetched once, held against their hash, whole or absent, by one process at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import ClassVar

import pytest

from cl_framework import DataError, pretrained_files
from cl_framework.places import Place
from cl_framework.pretrained_files import PretrainedFiles

CONTENT = {"weights.bin": b"w" * 5000, "tokens.json": b"{}"}
PINS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@dataclasses.dataclass(frozen=True)
class Shelf(Place):
    """A download that notes each fetch in a file beside it."""

    is_download: ClassVar[bool] = True
    path: Path
    seconds: float = 0.0

    def __str__(self) -> str:
        return "the shelf"

    def is_there(self) -> bool:
        return True

    def fetch(self, scratch: Path) -> Path:
        with self.path.with_suffix(".log").open("a") as file:
            file.write("fetched\n")
        time.sleep(self.seconds)
        for name in CONTENT:
            shutil.copy(self.path / name, scratch / name)
        return scratch

    def n_fetched(self) -> int:
        log = self.path.with_suffix(".log")
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CLF_OFFLINE", raising=False)
    (tmp_path / "shelf").mkdir()
    for name, content in CONTENT.items():
        (tmp_path / "shelf" / name).write_bytes(content)
    return Shelf(tmp_path / "shelf")


def files(place: Place, **changes: object) -> PretrainedFiles:
    made = PretrainedFiles(name="toy.v1", sha256=PINS, place=place, by_hand="pip download toy gives them")
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_they_are_fetched_together_once_and_then_read_without_a_network(shelf: Shelf, monkeypatch) -> None:
    path = files(shelf).path("weights.bin")
    assert path.read_bytes() == CONTENT["weights.bin"]
    monkeypatch.setenv("CLF_OFFLINE", "1")
    assert files(shelf).path("tokens.json").read_bytes() == CONTENT["tokens.json"]
    assert files(shelf).path("weights.bin") == path and shelf.n_fetched() == 1
    assert sorted(each.name for each in path.parent.parent.iterdir()) == ["toy.v1", "toy.v1.lock"]
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(CONTENT)


def test_a_damaged_file_is_fetched_anew(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    path = files(shelf).path("weights.bin")
    path.write_bytes(CONTENT["weights.bin"][:-1])
    assert files(shelf).path("weights.bin").read_bytes() == CONTENT["weights.bin"] and shelf.n_fetched() == 2
    assert "is damaged: weights.bin has SHA-256" in caplog.text


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(shelf: Shelf) -> None:
    (shelf.path / "weights.bin").write_bytes(b"others")
    with pytest.raises(DataError, match=rf"the shelf: weights.bin has SHA-256 .*expected {PINS['weights.bin'][:16]}"):
        files(shelf).path("weights.bin")
    assert list(files(shelf).folder.iterdir()) == []


def test_without_a_network_the_error_says_what_to_do_by_hand(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_OFFLINE", "1")
    with pytest.raises(DataError) as caught:
        files(shelf).path("weights.bin")
    folder = files(shelf).folder
    assert str(caught.value).splitlines() == [
        "the weights of toy.v1 cannot be had:", f"  {folder}: weights.bin is not there",
        "  the shelf: not asked, downloads are off",
        f"put weights.bin and tokens.json into {folder} by hand: pip download toy gives them"]
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    assert files(shelf).path("weights.bin").exists() and shelf.n_fetched() == 0


def test_what_is_not_pinned_is_taken_as_it_is(shelf: Shelf) -> None:
    (shelf.path / "weights.bin").write_bytes(b"others")
    assert files(shelf, sha256={"weights.bin": ""}).path("weights.bin").read_bytes() == b"others"


def test_a_copy_that_is_interrupted_leaves_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(pretrained_files, "copyfile", half)
    with pytest.raises(DataError, match="no space left on device"):
        files(shelf).path("weights.bin")
    assert list(files(shelf).folder.iterdir()) == []


def test_a_cache_that_is_no_folder(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set CLF_DATA to another folder"):
        files(shelf).path("weights.bin")


def test_two_processes_fetch_once(shelf: Shelf) -> None:
    slow = files(dataclasses.replace(shelf, seconds=0.5))
    workers = [multiprocessing.get_context("fork").Process(target=slow.path, args=("weights.bin",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0] and shelf.n_fetched() == 1
