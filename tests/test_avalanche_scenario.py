"""Avalanche: the same class order for the same seed, and classic benchmarks as resident streams."""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import gzip
import json
import struct
import subprocess
import sys
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl_framework import ConfigError, DataError, Need, Phase, Setting
from cl_framework.scenarios import _avalanche
from cl_framework.scenarios._avalanche import class_order
from cl_framework.scenarios.avalanche import Avalanche

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets, class_incremental_benchmark, classic, nc_benchmark
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, as_classification_dataset
    from torchvision import transforms

N_CLASSES, PER_CLASS = 10, 4


class Pictures(torch.utils.data.Dataset[Any]):
    """PIL images whose first pixel says which row they are."""

    def __init__(self, n: int, offset: int) -> None:
        self.targets = [row % N_CLASSES for row in range(n)]
        self.offset = offset

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> Any:
        pixels = torch.full((1, 3, 3), row + self.offset, dtype=torch.uint8)
        return transforms.ToPILImage()(pixels), self.targets[row]


_EVAL = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1,), (0.5,))])


def SplitToy(n_experiences: int, *, return_task_id: bool = False, seed: int | None = None, shuffle: bool = True,
             class_ids_from_zero_in_each_exp: bool = False, eval_transform: Any = _EVAL) -> Any:
    """What a classic benchmark looks like."""
    return nc_benchmark(Pictures(N_CLASSES * PER_CLASS, 0), Pictures(N_CLASSES * 2, 100), n_experiences,
                        task_labels=return_task_id, seed=seed, shuffle=shuffle,
                        class_ids_from_zero_in_each_exp=class_ids_from_zero_in_each_exp,
                        train_transform=eval_transform, eval_transform=eval_transform)


def tensors(x: torch.Tensor, y: list[int]) -> Any:
    rows = torch.utils.data.TensorDataset(x, torch.tensor(y))
    return as_classification_dataset(AvalancheDataset([rows], data_attributes=[DataAttribute(y, "targets")]))


def DomainToy() -> Any:
    """Float rows, the same classes in every experience, one test part for all."""
    train = [tensors(torch.randn(6, 2), [0, 1, 2] * 2) for _ in range(3)]
    return benchmark_from_datasets(train=train, test=[tensors(torch.randn(3, 2), [0, 1, 2])])


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    monkeypatch.setattr(classic, "SplitToy", SplitToy, raising=False)
    monkeypatch.setattr(classic, "DomainToy", DomainToy, raising=False)


@pytest.mark.parametrize("seed", [0, 1, 1234])
def test_class_order_is_avalanches(seed: int) -> None:
    sizes = [4, 3, 3]
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
    assert class_order(10, sizes, seed) == [expected[:4], expected[4:7], expected[7:]]
    data = tensors(torch.zeros(10, 1), list(range(10)))
    benchmark = class_incremental_benchmark({"train": data}, num_classes_per_exp=sizes, seed=seed)
    own = [experience.classes_in_this_experience for experience in benchmark.train_stream]
    assert [set(classes) for classes in class_order(10, sizes, seed)] == [set(classes) for classes in own]
    old = SplitToy(5, seed=seed)  # nc_benchmark, as SplitMNIST(5, seed=seed) calls it
    assert old.classes_order == list(chain.from_iterable(class_order(10, [2] * 5, seed)))


def test_class_order_is_that_of_split_mnist(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, n in (("train", 40), ("t10k", 20)):
        for kind, array in (("images-idx3", np.zeros((n, 28, 28), np.uint8)),
                            ("labels-idx1", (np.arange(n) % 10).astype(np.uint8))):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(content)
            (raw / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    theirs = classic.SplitMNIST(5, seed=42, dataset_root=str(tmp_path))
    assert theirs.classes_order == list(chain.from_iterable(class_order(10, [2] * 5, 42)))
    stream = Avalanche(benchmark="SplitMNIST", arguments={"dataset_root": str(tmp_path)}).open(Phase.SINGLE, 42)
    ours = [{int(name) for name in experience.class_names} for experience in stream]
    assert ours == [set(classes) for classes in class_order(10, [2] * 5, 42)]
    assert stream.info.input_shape == (1, 28, 28) and stream.info.mean == pytest.approx((0.1307,))


def test_natural_order_and_untouched_generators() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert class_order(6, [1, 2, 3], None) == [[0], [1, 2], [3, 4, 5]]
    class_order(6, [3, 3], 0)
    Avalanche(benchmark="SplitToy").open(Phase.SINGLE, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_class_order_is_kept_and_a_bad_file_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = class_order(7, [3, 4], 3)
    (kept,) = (tmp_path / "class_orders").iterdir()
    for damage in ("", "[]", json.dumps({"order": [[0], [1]]}), kept.read_text().replace('"order_seed": 3', "")):
        kept.write_text(damage)
        assert class_order(7, [3, 4], 3) == order

    def never(*arguments: object) -> list[list[int]]:
        raise AssertionError("dealt again")

    monkeypatch.setattr(_avalanche, "_deal", never)
    assert class_order(7, [3, 4], 3) == order


def test_classic_benchmark_becomes_resident_uint8() -> None:
    stream = Avalanche(benchmark="SplitToy").open(Phase.SINGLE, 0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    assert stream.info.mean == (0.1,) and stream.info.std == (0.5,)
    assert stream.info.setting is Setting.CLASS and stream.info.n_classes == 10
    assert [experience.classes for experience in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for index, experience in enumerate(stream):
        own = sorted(order[2 * index: 2 * index + 2])
        assert experience.class_names == tuple(map(str, own))
        batch = experience.train.take(torch.arange(len(experience.train)))
        assert isinstance(batch.raw, torch.Tensor) and batch.raw.dtype == torch.uint8
        rows = batch.raw[:, 0, 0, 0].tolist()
        assert sorted(rows) == [row for row in range(40) if row % 10 in own]
        assert [own.index(row % 10) + 2 * index for row in rows] == batch.y.tolist()
        test = stream.test(index).data.raw
        assert isinstance(test, torch.Tensor)
        assert sorted(test[:, 0, 0, 0].tolist()) == [100 + row for row in range(20) if row % 10 in own]
    assert len({experience.train.store_id() for experience in stream}) == 1
    assert list(stream.provenance) == ["avalanche SplitToy"]


def test_task_labels_make_it_task_incremental() -> None:
    arguments = {"return_task_id": True, "class_ids_from_zero_in_each_exp": True}
    stream = Avalanche(benchmark="SplitToy", arguments=arguments).open(Phase.SINGLE, None)
    assert stream.info.setting is Setting.TASK and Need.TASK_LABELS in stream.info.offers
    assert [experience.classes for experience in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert stream[3].task == 3 and stream[3].train.task is not None and set(stream[3].train.task.tolist()) == {3}


def test_same_classes_throughout_make_it_domain_incremental() -> None:
    stream = Avalanche(benchmark="DomainToy").open(Phase.SINGLE, None)
    assert stream.info.setting is Setting.DOMAIN and stream.info.n_classes == 3 and len(stream) == 3
    raw = stream[0].train.raw
    assert isinstance(raw, torch.Tensor) and raw.dtype == torch.float32
    assert [len(stream.test(index).data) for index in range(3)] == [3, 3, 3]
    with pytest.raises(ConfigError, match=r"not class-incremental .* use phase=single .* split_fashion"):
        Avalanche(benchmark="DomainToy").open(Phase.TUNING, None)


def test_phases_take_disjoint_halves_of_the_classes() -> None:
    streams = [Avalanche(benchmark="SplitToy").open(phase, 2) for phase in (Phase.TUNING, Phase.EVALUATION)]
    names = [{name for experience in stream for name in experience.class_names} for stream in streams]
    assert names == [set("01234"), set("56789")]
    rows = [{int(value) for experience in stream for value in torch.as_tensor(experience.train.raw).flatten()}
            for stream in streams]
    assert not rows[0] & rows[1] and len(rows[0] | rows[1]) == 40


def test_unknown_names_and_refused_values() -> None:
    with pytest.raises(ConfigError, match="unknown avalanche benchmark 'SplitMNST'; did you mean 'SplitMNIST'"):
        Avalanche(benchmark="SplitMNST").open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match="SplitToy has no argument 'n_exps'; it takes n_experiences"):
        Avalanche(benchmark="SplitToy", arguments={"n_exps": 3}).open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match=r"SplitToy refuses .*'n_experiences': 3"):
        Avalanche(benchmark="SplitToy", n_experiences=3).open(Phase.SINGLE, None)


def test_missing_data_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def SplitAway() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(classic, "SplitAway", SplitAway, raising=False)
    with pytest.raises(DataError, match=r"SplitAway cannot be had \(no route to host\)"):
        Avalanche(benchmark="SplitAway").open(Phase.SINGLE, None)


def test_avalanche_is_imported_only_when_asked() -> None:
    script = ("import sys; from cl_framework.scenarios import avalanche, custom, split; "
              "sys.exit('avalanche' in sys.modules or 'torchvision' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
