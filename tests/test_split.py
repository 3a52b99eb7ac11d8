"""The split layer on digits and on a toy source: settings, kinds of split, phases, class order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cl_framework import ConfigError, DataError, Dataset, Need, Phase, Setting
from cl_framework.scenarios import split
from cl_framework.scenarios._avalanche import class_order
from cl_framework.scenarios._split import Labelled, cut, experience_sizes, moments
from cl_framework.scenarios.split import SplitCIFAR100, SplitDigits, SplitFashion, SplitTinyImageNet
from cl_framework.sources import ImageSet


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "split-data"  # shared, so that each class order is dealt once
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder


def toy(n_classes: int = 6, n: int = 5) -> Labelled:
    y = torch.arange(n_classes).repeat(n)
    x = torch.arange(n * n_classes, dtype=torch.uint8).view(-1, 1, 1, 1)
    names = tuple("abcdefghij"[:n_classes])
    return Labelled(name="toy", images=ImageSet(x, y, x[: 2 * n_classes], y[: 2 * n_classes], ""), class_names=names)


def test_even_class_incremental_digits() -> None:
    stream = SplitDigits().open(Phase.SINGLE, None)
    info = stream.info
    assert (len(stream), info.n_experiences, info.n_classes, info.input_shape) == (5, 5, 10, (1, 8, 8))
    assert info.setting is Setting.CLASS and not info.is_online and info.offers == {Need.HISTORY}
    assert [experience.classes for experience in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert [experience.class_names for experience in stream][4] == ("8", "9")
    assert list(stream.provenance) == ["digits"] and len(stream.provenance["digits"]) == 64
    assert sum(len(experience.train) for experience in stream) == 1442
    assert sum(len(stream.test(index).data) for index in range(5)) == 355
    for experience in stream:
        assert set(experience.train.y.tolist()) == set(experience.classes)
        assert experience.task is None and experience.train.task is None


def test_experiences_share_one_store_in_file_order() -> None:
    data = toy()
    parts = cut(data, range(6), [2, 2, 2], None, Setting.CLASS)
    assert {part.train.store_id() for part in parts} == {id(data.images.train_x)}
    rows = [part.train.take(torch.arange(len(part.train))).raw for part in parts]
    for part in rows:
        assert isinstance(part, torch.Tensor)
        assert part.flatten().tolist() == sorted(part.flatten().tolist())


def test_task_incremental_tells_the_task_in_training_and_test() -> None:
    stream = SplitDigits(incremental="task").open(Phase.SINGLE, 3)
    assert Need.TASK_LABELS in stream.info.offers and stream.info.setting is Setting.TASK
    for experience in stream:
        test = stream.test(experience.index).data
        assert experience.task == experience.index
        assert experience.classes == (2 * experience.index, 2 * experience.index + 1)
        for data in (experience.train, test):
            assert data.task is not None and set(data.task.tolist()) == {experience.index}


def test_domain_incremental_labels_are_positions() -> None:
    stream = SplitDigits(incremental="domain").open(Phase.SINGLE, None)
    assert stream.info.n_classes == 2 and stream.info.setting is Setting.DOMAIN
    assert [experience.classes for experience in stream] == [(0, 1)] * 5
    assert stream[3].class_names == ("6", "7") and set(stream[3].train.y.tolist()) == {0, 1}
    uneven = SplitDigits(incremental="domain", sizes=[4, 3, 3]).open(Phase.SINGLE, None)
    assert uneven.info.n_classes == 4 and uneven[1].classes == (0, 1, 2)
    for fields in ({"n_experiences": 10}, {"sizes": [1, 9]}):
        with pytest.raises(ConfigError, match="one class in an experience"):
            SplitDigits(incremental="domain", **fields).open(Phase.SINGLE, None)


@pytest.mark.parametrize("order_seed", [None, 0, 7])
def test_labels_follow_the_class_order(order_seed: int | None) -> None:
    order = class_order(10, [5, 3, 2], order_seed)
    stream = SplitDigits(sizes=[5, 3, 2]).open(Phase.SINGLE, order_seed)
    assert [experience.class_names for experience in stream] == [tuple(map(str, classes)) for classes in order]
    assert [experience.classes for experience in stream] == [(0, 1, 2, 3, 4), (5, 6, 7), (8, 9)]


def test_phases_share_no_class_and_no_image() -> None:
    tuning, evaluation = (SplitDigits().open(phase, 1) for phase in (Phase.TUNING, Phase.EVALUATION))
    names = [{name for experience in stream for name in experience.class_names} for stream in (tuning, evaluation)]
    assert names == [set("01234"), set("56789")]
    assert tuning.info == evaluation.info
    assert tuning.info.n_classes == 5


def test_a_phase_may_be_given_by_its_name() -> None:
    for phase in Phase:
        by_name = SplitDigits().open(str(phase), None)  # type: ignore[arg-type]
        assert [each.class_names for each in by_name] == [each.class_names for each in SplitDigits().open(phase, None)]


def test_online_means_one_epoch() -> None:
    assert SplitDigits(is_online=True).recipe() == {"epochs": 1} and SplitDigits().recipe() == {}
    assert SplitDigits(is_online=True).open(Phase.SINGLE, None).info.is_online


def sizes(n_classes: int = 10, n_experiences: int = 5, default: int = 5, **kind: object) -> list[int]:
    return experience_sizes(n_classes, n_experiences=n_experiences, default=default, **kind)  # type: ignore[arg-type]


def test_base_plus_increments() -> None:
    assert sizes(100, default=10, n_experiences=10, first=50, step=10) == [50, 10, 10, 10, 10, 10]
    assert sizes(10, first=10, step=2) == [10]
    assert sizes(10, n_experiences=3, sizes=[5, 3, 2]) == [5, 3, 2]


@pytest.mark.parametrize(("kind", "message"), [
    ({"n_experiences": 20}, "scenario.n_experiences=20, but this phase has 10 classes; take at most 10"),
    ({"n_experiences": 3}, r"do not divide into scenario.n_experiences=3; take 1, 2, 5, 10, or .*sizes=\[4, 3, 3\]"),
    ({"first": 4}, "go together, got first=4 step=0; give both"),
    ({"step": 4}, "go together, got first=0 step=4; give both"),
    ({"first": 4, "step": 4}, "first=4 scenario.step=4 does not add up to the 10 classes .* step may be 1, 2, 3, 6"),
    ({"first": 12, "step": 4}, "first must be below 10"),
    ({"sizes": [5, 4]}, r"scenario.sizes=\[5, 4\] sums to 9; .* sum to the 10 classes"),
    ({"sizes": [11, -1]}, "give positive numbers"),
    ({"sizes": [5, 5], "first": 5, "step": 5}, "two ways to say one thing"),
    ({"sizes": [5, 5], "n_experiences": 4}, r"scenario.n_experiences=4 contradicts the split \[5, 5\]"),
    ({"first": 4, "step": 2, "n_experiences": 3}, r"contradicts the split \[4, 2, 2, 2\], which has 4"),
])
def test_splits_that_the_classes_do_not_allow(kind: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sizes(**kind)  # type: ignore[arg-type]


def test_ranges_are_checked() -> None:
    with pytest.raises(ConfigError, match="n_experiences must be at least 1"):
        SplitDigits(n_experiences=0)


def test_defaults_of_larger_sets() -> None:
    assert (SplitCIFAR100().n_experiences, SplitTinyImageNet().n_experiences) == (10, 10)


def test_class_without_test_rows() -> None:
    data = toy()
    images = dataclasses.replace(data.images, test_x=data.images.test_x[:5], test_y=data.images.test_y[:5])
    with pytest.raises(DataError, match="class 'f' has no test rows"):
        cut(dataclasses.replace(data, images=images), range(6), [3, 3], None, Setting.CLASS)


def test_moments_against_torch() -> None:
    x = torch.randint(0, 256, (3000, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 9
    mean, std = moments(Dataset(x, torch.zeros(3000, dtype=torch.int64)))
    unit = x.to(torch.float64) / 255
    assert mean == pytest.approx(unit.mean((0, 2, 3)).tolist())
    assert std[:2] == pytest.approx(unit.std((0, 2, 3), correction=0).tolist()[:2])
    assert std[2] == 1.0


def test_every_final_scenario_cites_and_documents_its_fields() -> None:
    for cls in vars(split).values():
        if isinstance(cls, type) and cls.__module__ == split.__name__ and cls is not split.Split:
            assert cls.__doc__ is not None and "Literature:" in cls.__doc__


def test_real_fashion_mnist() -> None:
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    stream = SplitFashion().open(Phase.SINGLE, None)
    assert [len(experience.train) for experience in stream] == [12_000] * 5
    assert stream[0].class_names == ("T-shirt/top", "Trouser")


def test_ten_classes_in_three_experiences_lose_none() -> None:
    """Avalanche's generator, asked for 3 experiences, silently drops the tenth class; here it is refused or kept."""
    with pytest.raises(ConfigError, match=r"scenario\.sizes=\[4, 3, 3\]"):
        SplitDigits(n_experiences=3).open(Phase.SINGLE, None)
    for order_seed in (None, 0):
        stream = SplitDigits(sizes=[4, 3, 3]).open(Phase.SINGLE, order_seed)
        names = [name for experience in stream for name in experience.class_names]
        assert sorted(names) == sorted(set(names)) and len(names) == 10
        assert sum(len(experience.train) for experience in stream) == 1442
