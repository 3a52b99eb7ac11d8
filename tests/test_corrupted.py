"""Streams of corrupted images: what arrives in which order, and the files that are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cl_framework import ConfigError, DataError, Dataset, Need, Phase, Setting, Stream
from cl_framework.checks import parametrize_with_checks
from cl_framework.registry import load
from cl_framework.scenarios import corrupted
from cl_framework.scenarios._corruptions import corrupt
from cl_framework.scenarios._row_order import arranged, balanced
from cl_framework.scenarios._severities import CORRUPTIONS, HOLD_OUTS
from cl_framework.scenarios.corrupted import Corrupted
from cl_framework.sources import ImageSet


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    folder = tmp_path_factory.getbasetemp() / "corrupted-data"
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder


def raw(data: Dataset) -> Tensor:
    assert isinstance(data.raw, Tensor)
    return data.raw


def digits() -> ImageSet:
    found: ImageSet = load("dataset", "digits").load()
    return found


def opened(phase: Phase = Phase.SINGLE, order_seed: int | None = None, **fields: Any) -> Stream:
    return Corrupted(dataset="digits", **fields).open(phase, order_seed)


def names(stream: Stream) -> list[str]:
    return [experience.name.removeprefix("digits_csim ") for experience in stream]


# of 8x8 pixels the noise of impulse_noise spares some altogether, and these would be held-out rows, too
@parametrize_with_checks([Corrupted(dataset="digits", corruptions=["fog", "snow", "contrast", "glass_blur"]),
                          Corrupted(dataset="digits", corruptions=["fog", "snow"], stream="gradual", dirichlet=0.1),
                          Corrupted(dataset="digits", corruptions=["frost", "defocus_blur"], stream="mixed",
                                    n_images=100, rounds=2)])
def test_every_check(plugin: Any, check: Any) -> None:
    check(plugin)


def test_the_default_is_one_corruption_after_another() -> None:
    stream = opened()
    assert names(stream) == [f"{name} 5" for name in CORRUPTIONS] and len(CORRUPTIONS) == 15
    info = stream.info
    assert (info.n_classes, info.setting, info.is_labelled, info.batch_size, info.n_rounds, info.is_online) == (
        10, Setting.DOMAIN, False, 200, 1, False)
    assert info.offers == {Need.UNLABELLED, Need.SOURCE_DATA} and info.input_shape == (1, 8, 8)
    images = digits()
    for index in (0, 9, 14):
        experience = stream[index]
        assert experience.classes == tuple(range(10)) and experience.task is None
        whole = corrupt(images.test_x, CORRUPTIONS[index], 5)
        rows = {pixels.numpy().tobytes() for pixels in whole}
        assert len(experience.train) == 355 and {row.numpy().tobytes() for row in raw(experience.train)} <= rows
        assert not torch.equal(experience.train.y, images.test_y)
        assert torch.equal(experience.train.y.sort().values, images.test_y.sort().values)


def test_labels_stay_with_their_images() -> None:
    images = digits()
    label_of = {row.numpy().tobytes(): int(y)
                for row, y in zip(corrupt(images.test_x, "gaussian_noise", 3), images.test_y, strict=True)}
    for fields in ({}, {"dirichlet": 0.1}, {"n_images": 50}, {"stream": "mixed"}):
        stream = opened(corruptions=["gaussian_noise"], severity=3, **fields)
        data = stream[0].train
        assert [label_of[row.numpy().tobytes()] for row in raw(data)] == data.y.tolist()
    data = opened(corruptions=["gaussian_noise", "contrast"], severity=3, stream="mixed", dirichlet=1.0)[0].train
    label_of |= {row.numpy().tobytes(): int(y)
                 for row, y in zip(corrupt(images.test_x, "contrast", 3), images.test_y, strict=True)}
    assert [label_of[row.numpy().tobytes()] for row in raw(data)] == data.y.tolist() and len(data) == 710


def test_held_out_rows_are_clean_and_the_source_is_the_training_part(tmp_path: Path) -> None:
    stream, images = opened(n_images=30), digits()
    for index in (0, 14):
        test = stream.test(index)
        positions = balanced(images.test_y, 30)
        assert torch.equal(raw(test.data), images.test_x[positions])
        assert torch.equal(test.data.y, images.test_y[positions])
    assert stream.pretraining is not None and torch.equal(raw(stream.pretraining.data), images.train_x)
    assert (stream.pretraining.path, stream.pretraining.seed, stream.pretraining.digest) == (None, None, images.digest)
    torch.save({"w": torch.zeros(1)}, file := tmp_path / "weights.pt")
    given = opened(source=str(file), source_seed=3).pretraining
    assert given is not None and (given.path, given.seed) == (str(file), 3)


def test_a_file_of_weights_is_part_of_what_a_stream_is_made_of(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, file := tmp_path / "weights.pt")
    first = opened(source=str(file)).provenance
    torch.save({"w": torch.zeros(1)}, file)
    second = opened(source=str(file)).provenance
    assert set(first) == {"digits", "digits_csim", "source weights"} and set(opened().provenance) < set(first)
    assert [name for name in first if first[name] != second[name]] == ["source weights"]


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, words in (("Train", r"did you mean scenario\.source=train\?"),
                          ("modle", r"did you mean scenario\.source=model\?"),
                          (str(tmp_path / "gone.pt"), "there are no weights at .*gone.pt; put the file back")):
        with pytest.raises(ConfigError, match=words):
            opened(source=source)


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scenario\.n_images=356 .* 355 test images"):
        opened(n_images=356)
    assert len(opened(n_images=355)[0].train) == 355


def test_more_experiences_than_a_matrix_can_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scenario\.rounds=201 .* 3015 experiences.*at most 200"):
        opened(rounds=201, n_images=10)
    assert len(opened(rounds=200, n_images=10)) == 3000


def test_phases_have_other_corruptions() -> None:
    assert names(opened(Phase.TUNING)) == [f"{name} 5" for name in HOLD_OUTS]
    assert names(opened(Phase.EVALUATION)) == names(opened())
    assert names(opened(Phase.TUNING, corruptions=["fog"], severity=2)) == [f"{name} 2" for name in HOLD_OUTS]
    left = opened(Phase.TUNING, corruptions=["fog", HOLD_OUTS[1]])
    assert names(left) == [f"{name} 5" for name in (HOLD_OUTS[0], *HOLD_OUTS[2:])]
    with pytest.raises(ConfigError, match=r"leaves none of .* to tune on"):
        opened(Phase.TUNING, corruptions=list(HOLD_OUTS))
    assert not set(HOLD_OUTS) & set(CORRUPTIONS)


def test_gradual_goes_up_and_down() -> None:
    stream = opened(corruptions=["fog", "snow"], stream="gradual")
    assert names(stream) == [f"{name} {severity}" for name in ("fog", "snow")
                             for severity in (1, 2, 3, 4, 5, 4, 3, 2, 1)]
    assert stream[0].train is stream[8].train
    assert sorted(row.numpy().tobytes() for row in raw(stream[12].train)) == sorted(
        row.numpy().tobytes() for row in corrupt(digits().test_x, "snow", 4))


def test_rounds_repeat_the_stream() -> None:
    stream = opened(corruptions=["fog", "snow"], rounds=10, n_images=20)
    assert names(stream) == [f"{name} 5, round {number}" for number in range(1, 11) for name in ("fog", "snow")]
    assert stream.info.n_rounds == 10 and stream[1].train is stream[19].train


def test_mixed_shuffles_all_corruptions() -> None:
    stream = opened(stream="mixed", n_images=100)
    assert names(stream) == ["mixed 5"] and len(stream[0].train) == 1500
    chosen = balanced(digits().test_y, 100)
    rows = {name: {row.numpy().tobytes() for row in corrupt(digits().test_x, name, 5)[chosen]}
            for name in ("gaussian_noise", "contrast")}
    first, last = (Counter(name for row in raw(part) for name in rows if row.numpy().tobytes() in rows[name])
                   for part in (stream[0].train.subset(torch.arange(750)),
                                stream[0].train.subset(torch.arange(750, 1500))))
    assert all(30 < first[name] < 70 and first[name] + last[name] == 100 for name in rows)


def test_order_seed_shuffles_corruptions_and_rows() -> None:
    plain, other, again = opened(), opened(order_seed=1), opened(order_seed=1)
    assert names(other) != names(plain) and sorted(names(other)) == sorted(names(plain))
    assert names(other) == names(again)
    assert all(torch.equal(one.train.y, two.train.y) for one, two in zip(other, again, strict=True))
    fog = [next(e for e in stream if "fog" in e.name) for stream in (plain, other)]
    assert not torch.equal(fog[0].train.y, fog[1].train.y)
    assert sorted(row.numpy().tobytes() for row in raw(fog[0].train)) == sorted(
        row.numpy().tobytes() for row in raw(fog[1].train))


def test_chosen_images_are_balanced_and_the_same_for_all() -> None:
    y = torch.arange(10).repeat_interleave(torch.tensor([9, 40, 40, 40, 40, 40, 40, 40, 40, 2]))
    chosen = balanced(y, 50)
    assert y[chosen].bincount().tolist() == [6, 6, 6, 6, 6, 6, 6, 6, 0, 2] or (
        y[chosen].bincount(minlength=10)[9] == 2 and y[chosen].bincount(minlength=10)[:9].min() >= 5)
    assert len(chosen.unique()) == 50 and torch.equal(balanced(y, 0), torch.arange(len(y)))
    stream = opened(n_images=50)
    assert all(e.train.y.bincount().tolist() == [5] * 10 for e in stream)


@pytest.mark.parametrize("concentration", [0.1, 1.0, 10.0])
def test_correlated_labels_have_the_clusters_of_a_dirichlet_distribution(concentration: float) -> None:
    """With shares p of Dir(c, ..., c) over K slots, E sum p^2 = (c + 1) / (K c + 1); a run of a label is a share."""
    n_classes, n = 10, 1000
    y = torch.arange(n_classes).repeat(n)
    squares = []
    for seed in range(30):
        order = arranged(y, concentration, seed)
        assert torch.equal(order.sort().values, torch.arange(len(y)))
        labels = y[order].numpy()
        edges = np.flatnonzero(np.diff(labels, prepend=-1, append=-1))
        squares.append(float((np.diff(edges) / n).__pow__(2).sum()) / n_classes)
    expected = (concentration + 1) / (n_classes * concentration + 1)
    error = np.std(squares) / np.sqrt(len(squares))
    joined = (n_classes - 1) / n_classes**2 * 2 * expected  # neighbouring slots meet with one label now and then
    assert -4 * error < np.mean(squares) - expected < joined + 4 * error


def test_without_correlation_a_batch_has_every_label() -> None:
    y = torch.arange(10).repeat(1000)
    plain, clustered = (y[arranged(y, c, 0)].view(-1, 200) for c in (0.0, 0.1))
    assert min(len(batch.unique()) for batch in plain) == 10
    assert np.mean([len(batch.unique()) for batch in clustered]) < 4


def test_made_once_and_kept(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def counted(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
        calls.append(seed)
        return corrupt(images, name, severity, seed)

    monkeypatch.setattr(corrupted, "corrupt", counted)
    fields: dict[str, Any] = {"corruptions": ["impulse_noise"], "severity": 2, "corruption_seed": 77}
    first = opened(**fields)
    file = home / "corrupted" / "digits_csim-impulse_noise-2-seed77.safetensors"
    assert calls == [77] and file.exists() and not list(file.parent.glob(".*"))
    again = opened(**fields)
    assert calls == [77] and torch.equal(raw(first[0].train), raw(again[0].train))
    assert again.provenance == first.provenance and set(first.provenance) == {"digits", "digits_csim"}
    for damage in (lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:100]):
        caplog.clear()
        content = damage(file.read_bytes())
        file.unlink()  # the rows that are open are pages of the old file
        file.write_bytes(content)
        mended = opened(**fields)
        assert torch.equal(raw(mended[0].train), raw(first[0].train)) and "made anew" in caplog.text
    assert calls == [77, 77, 77]
    monkeypatch.setattr(corrupted, "RECIPE", "0")
    opened(**fields)
    assert len(calls) == 4
    assert not torch.equal(raw(opened(corruptions=["impulse_noise"], severity=2)[0].train), raw(first[0].train))


def test_a_disk_that_takes_nothing_is_said(home: Path) -> None:
    opened(corruptions=["fog"])
    (home / "corrupted").rename(home / "aside")
    (home / "corrupted").write_text("no folder")
    try:
        with pytest.raises(DataError, match=r"cannot write .*make room there, or set CLF_DATA"):
            opened(corruptions=["fog"])
    finally:
        (home / "corrupted").unlink()
        (home / "aside").rename(home / "corrupted")


@pytest.mark.parametrize(("fields", "words"), [
    ({"corruptions": ["fogg"]}, r"unknown corruption 'fogg'; did you mean 'fog'\?"),
    ({"corruptions": ["fog", "fog"]}, "names one twice"),
    ({"severity": 0}, r"severity must be at least 1, got 0"),
    ({"severity": 6}, r"severity must be at most 5, got 6"),
    ({"dirichlet": -1.0}, "dirichlet must be at least 0.0"),
    ({"rounds": 0}, "rounds must be at least 1"),
    ({"source_seed": -1}, "source_seed must be at least 0, got -1"),
])
def test_bad_fields(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(**fields)


def test_data_sets_that_are_no_images() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'digitz'; did you mean 'digits'"):
        Corrupted(dataset="digitz").open(Phase.SINGLE, None)


def test_a_batch_has_no_more_rows_than_an_experience() -> None:
    """So a strategy that takes batch statistics refuses a stream of single rows."""
    assert opened(n_images=3, batch_size=200).info.batch_size == 3
    assert opened(n_images=30, batch_size=20).info.batch_size == 20


def test_a_model_that_brings_its_weights_gets_pixels_as_they_are() -> None:
    own, trained = (Corrupted(dataset="digits", corruptions=["contrast"], source=source).open(Phase.SINGLE, None)
                    for source in ("train", "model"))
    assert (trained.info.mean, trained.info.std) == ((0.0,), (1.0,)) != (own.info.mean, own.info.std)
    assert trained.pretraining is not None and trained.pretraining.is_brought and trained.pretraining.path is None
