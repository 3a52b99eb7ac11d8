"""Permuted, rotated and sequences of data sets: what each experience shows, in every setting, phase and order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl_framework import ConfigError, Dataset, Need, Phase, Setting, Stream
from cl_framework.checks import parametrize_with_checks
from cl_framework.errors import PluginError
from cl_framework.places import Folder
from cl_framework.registry import load
from cl_framework.scenarios.domain_sequence import DomainSequence
from cl_framework.scenarios.permuted import Permuted
from cl_framework.scenarios.rotated import Rotated
from cl_framework.sources import ImageSet, Source

SMALL: list[Any] = [
    Permuted(images="digits", n_experiences=4), Permuted(images="digits", n_experiences=3, incremental="task"),
    Permuted(images="digits", n_experiences=4, incremental="class", first_is_plain=True, is_online=True),
    Rotated(images="digits", n_experiences=4), Rotated(images="digits", n_experiences=3, angles="even"),
    Rotated(images="digits", n_experiences=3, incremental="class", angles="drawn", is_online=True),
]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    folder = tmp_path_factory.getbasetemp() / "domains-data"
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder


def raw(data: Dataset) -> torch.Tensor:
    assert isinstance(data.raw, torch.Tensor)
    return data.raw


def digits() -> ImageSet:
    source: Source = load("dataset", "digits")
    return source.load()


@parametrize_with_checks(SMALL)
def test_every_check(plugin: Any, check: Any) -> None:
    check(plugin)


def test_permuted_moves_the_pixels_of_all_images_alike() -> None:
    stream = Permuted(images="digits", n_experiences=3).open(Phase.SINGLE, None)
    x = digits().train_x.flatten(1)
    seen = [raw(experience.train).flatten(1) for experience in stream]
    for rows in seen:
        order = [int((rows[:, at:at + 1] == x).all(0).nonzero()[0]) for at in range(64) if rows[:, at].any()]
        assert len(set(order)) == len(order) > 50 and not torch.equal(rows, x)
        assert torch.equal(rows.sort(1).values, x.sort(1).values)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    tests = [raw(stream.test(index).data) for index in range(3)]
    assert all(torch.equal(test.flatten(1).sort(1).values, digits().test_x.flatten(1).sort(1).values) for test in tests)
    assert len({experience.train.store_id() for experience in stream}) == 1


def test_permutations_follow_their_seed_and_the_phase_alone() -> None:
    def first(seed: int, phase: Phase) -> torch.Tensor:
        return raw(Permuted(images="digits", permutation_seed=seed).open(phase, None)[0].train)

    assert torch.equal(first(1, Phase.SINGLE), first(1, Phase.SINGLE))
    assert not torch.equal(first(1, Phase.SINGLE), first(2, Phase.SINGLE))
    views = [Permuted(images="digits").domains(phase) for phase in (Phase.TUNING, Phase.EVALUATION)]
    x, view = digits().train_x[:20], torch.zeros(20, dtype=torch.int64)
    seen = [domains["permutation 0"].views(x, view) for domains in views]  # type: ignore[misc]
    assert not torch.equal(*seen)  # type: ignore[arg-type]


@pytest.mark.parametrize("order_seed", [None, 0, 1, 2])
def test_a_plain_first_experience_stays_the_first(order_seed: int | None) -> None:
    stream = Permuted(images="digits", n_experiences=4, first_is_plain=True).open(Phase.SINGLE, order_seed)
    assert torch.equal(raw(stream[0].train), digits().train_x)
    assert not torch.equal(raw(stream[1].train), digits().train_x)


def test_order_seed_shuffles_the_domains_and_nothing_else() -> None:
    plain, shuffled = (Permuted(images="digits", n_experiences=5).open(Phase.SINGLE, seed) for seed in (None, 1))
    rows = [[raw(experience.train).numpy().tobytes() for experience in stream] for stream in (plain, shuffled)]
    assert rows[0] != rows[1] and sorted(rows[0]) == sorted(rows[1])


def facts(stream: Stream) -> list[tuple[object, ...]]:
    return [(e.classes, e.task, set(e.train.y.tolist()), set(stream.test(e.index).data.y.tolist())) for e in stream]


def test_settings() -> None:
    shared, own = set(range(10)), set(range(10, 20))
    domain = Permuted(images="digits", n_experiences=2).open(Phase.SINGLE, None)
    assert facts(domain) == [(tuple(range(10)), None, shared, shared)] * 2
    assert domain.info.n_classes == 10 and domain.info.setting is Setting.DOMAIN
    task = Permuted(images="digits", n_experiences=2, incremental="task").open(Phase.SINGLE, None)
    assert facts(task)[1] == (tuple(range(10, 20)), 1, own, own)
    assert task.info.n_classes == 20 and Need.TASK_LABELS in task.info.offers
    by_class = Permuted(images="digits", n_experiences=2, incremental="class").open(Phase.SINGLE, None)
    assert facts(by_class)[1] == (tuple(range(10, 20)), None, own, own)
    assert by_class[1].class_names[3] == "permutation 1: 3" and domain[1].class_names[3] == "3"


def test_online_means_one_epoch() -> None:
    assert Rotated(is_online=True).recipe() == {"epochs": 1} and Rotated().recipe() == {}


def test_rotated_turns_counter_clockwise_by_ascending_angles() -> None:
    scenario = Rotated(images="digits", n_experiences=4, angles="even", max_angle=360.0)
    stream = scenario.open(Phase.SINGLE, None)
    for turns, experience in enumerate(stream):
        assert torch.equal(raw(experience.train), torch.rot90(digits().train_x, turns, (2, 3)))
    assert list(scenario.domains(Phase.TUNING)) == [f"rotation {i} by {45.0 + 90 * i}" for i in range(4)]


def test_rotation_against_pillow() -> None:
    stream = Rotated(images="digits", n_experiences=2, angles="even", min_angle=30, max_angle=50).open("single", None)
    for angle, experience in zip((30, 40), stream, strict=True):
        for row in range(10):
            turned = Image.fromarray(digits().train_x[row, 0].numpy()).rotate(angle, Image.Resampling.BILINEAR)
            expected = torch.from_numpy(np.array(turned)).int()[2:6, 2:6]  # it cuts edges where we fade to zero
            assert (raw(experience.train)[row, 0, 2:6, 2:6].int() - expected).abs().max() <= 1


@pytest.mark.parametrize("angles", ["even", "stratified", "drawn"])
def test_angles(angles: Any) -> None:
    found = {}
    for phase in Phase:
        names = list(Rotated(images="digits", angles=angles, min_angle=-60.0, max_angle=120.0).domains(phase))
        found[phase] = [float(name.split()[-1]) for name in names]
        assert len(names) == 20 and all(-60 <= angle <= 120 for angle in found[phase])
        if angles != "drawn":
            assert all(-60 + 9 * at <= angle <= -51 + 9 * at for at, angle in enumerate(found[phase]))
    assert not set(found[Phase.TUNING]) & set(found[Phase.EVALUATION])


def test_joint_over_all_domains_shares_the_store() -> None:
    stream = Permuted(images="digits", n_experiences=6).open(Phase.SINGLE, None)
    joint = Dataset.concat([experience.train for experience in stream])
    assert joint.store_id() == stream[0].train.store_id() and len(joint) == 6 * 1442
    assert torch.equal(raw(joint)[1442 * 4:1442 * 5], raw(stream[4].train))


def toy(name: str, shape: tuple[int, ...] = (1, 2, 2), n_classes: int = 4, mean: float = 0.5) -> Source:
    def read(folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(len(name))
        y = np.arange(5 * n_classes) % n_classes
        return {f"{part}_{axis}": value for part in ("train", "test")
                for axis, value in (("x", rng.integers(0, 256, (len(y), *shape), dtype=np.uint8)), ("y", y))}

    return Source(name=name, description="", read=read, files=(), places=(Folder("/", ("",)),), n_classes=n_classes,
                  class_names=tuple(f"{name}{label}" for label in range(n_classes)), mean=(mean,))


A, B = toy("a", mean=0.1), toy("bb", mean=0.2)
WIDE, MANY, VECTORS = toy("w", (1, 2, 3)), toy("m", n_classes=6), toy("v", (4,))


def sequence(*names: str) -> DomainSequence:
    return DomainSequence(sources=[f"{__name__}:{name}" for name in names])


def test_a_sequence_of_data_sets() -> None:
    stream = sequence("A", "B").open(Phase.SINGLE, None)
    assert [experience.classes for experience in stream] == [(0, 1, 2, 3)] * 2
    assert stream[1].class_names == ("bb0", "bb1", "bb2", "bb3") and set(stream.provenance) == {"a", "bb"}
    assert torch.equal(raw(stream[1].train), B.load().train_x)
    assert stream.info.mean == (0.1,)
    orders = {sequence("A", "B").open(Phase.SINGLE, seed)[0].class_names[0] for seed in range(6)}
    assert orders == {"a0", "bb0"}
    upper = sequence("A", "B").open(Phase.EVALUATION, None)
    assert upper[0].class_names == ("a2", "a3") and set(upper[0].train.y.tolist()) == {0, 1}


@pytest.mark.parametrize(("names", "message"), [
    (("A", "WIDE"), r"a.* \(1, 2, 2\) with 4 classes, .*\(1, 2, 3\) with 4"),
    (("A", "MANY"), "4 classes, .* 6 classes"), (("A", "A"), "none twice"), ((), "at least one data set")])
def test_sequences_that_do_not_fit(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sequence(*names).open(Phase.SINGLE, None)


def test_unknown_and_unfit_image_sets() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'mnits'; did you mean 'mnist'"):
        Permuted(images="mnits").open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match=r"holds rows of shape \(4,\), not images; take one such as mnist"):
        Permuted(images=f"{__name__}:VECTORS").open(Phase.SINGLE, None)
    with pytest.raises(PluginError, match=r"expected a cl_framework\.Source"):
        Permuted(images=f"{__name__}:SMALL").open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match="leave no range"):
        Rotated(images="digits", min_angle=10, max_angle=10).open(Phase.SINGLE, None)


@pytest.mark.parametrize("name", ["permuted", "rotated", "emoji", "domain_sequence", "split_glyphs", "split_letter"])
def test_it_is_shown_without_torch(name: str) -> None:
    code = ("import sys; from cl_framework.cli import main; sys.argv = ['clf', 'show', 'scenario=" + name + "']\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "is_online" in done.stdout, done.stderr
