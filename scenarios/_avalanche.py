"""Avalanche as a source of scenarios: its class order, and its classic benchmarks. Nothing else imports it.

Importing Avalanche takes seconds and patches `torch.utils.data.Dataset.__add__`, so it happens inside functions, and
class orders are kept in the cache folder.

Literature: Carta et al., Avalanche: a PyTorch library for deep continual learning, JMLR 24(363), 2023.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cl_framework import ConfigError, DataError
from cl_framework.errors import ClfError
from cl_framework.files import write_json
from cl_framework.seeding import untouched
from cl_framework.sources import PARTS, ImageSet, cache_folder, image_set


@contextmanager
def _avalanche(module: str) -> Iterator[Any]:
    """A module of Avalanche; its import warnings are silent and the global generators stay as they are."""
    import cl_framework._torchvision  # noqa: F401  (before avalanche, which imports torchvision)

    with untouched(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield import_module(module)


def class_order(n_classes: int, sizes: Sequence[int], order_seed: int | None) -> list[list[int]]:
    """The classes of each experience, in order, as `class_incremental_benchmark` deals them out.

    For one seed this is the order of every split benchmark of Avalanche, e.g. `SplitMNIST(5, seed=0)`.

    Args:
        n_classes: labels 0 to n - 1.
        sizes: classes of each experience; they sum to `n_classes`.
        order_seed: Avalanche's seed; None keeps the order of the labels.
    """
    key = {"n_classes": n_classes, "sizes": list(sizes), "order_seed": order_seed,
           "avalanche": version("avalanche-lib")}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "class_orders" / f"{name}.json"
    kept = _kept(path, key)
    if kept is not None:
        return kept
    order = _deal(n_classes, sizes, order_seed)
    with suppress(ClfError):  # an order that cannot be kept is dealt again next time
        write_json(path, {**key, "order": order})
    return order


def _kept(path: Path, key: Mapping[str, object]) -> list[list[int]] | None:
    """The order in a cache file, or None where it cannot be read or does not fit."""
    try:
        note = json.loads(path.read_text())
        order = [[int(label) for label in classes] for classes in note.pop("order")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    fits = (note == key and [len(classes) for classes in order] == key["sizes"]
            and sorted(label for classes in order for label in classes) == list(range(sum(map(len, order)))))
    return order if fits else None


def _deal(n_classes: int, sizes: Sequence[int], order_seed: int | None) -> list[list[int]]:
    """Ask Avalanche, with one row a class."""
    with _avalanche("avalanche.benchmarks") as benchmarks:
        utils = import_module("avalanche.benchmarks.utils")
        rows = torch.utils.data.TensorDataset(torch.zeros(n_classes, 1), torch.arange(n_classes))
        wrapped = utils.as_classification_dataset(
            utils.make_avalanche_dataset(
                rows, data_attributes=[utils.DataAttribute(list(range(n_classes)), "targets")]))
        scenario = benchmarks.class_incremental_benchmark(
            {"train": wrapped}, num_classes_per_exp=list(sizes), seed=order_seed,
            class_order=list(range(n_classes)) if order_seed is None else None)
        # it puts each further class of an experience before the earlier ones
        return [[int(label) for label in experience.dataset.targets][::-1] for experience in scenario.train_stream]


@dataclass(frozen=True, kw_only=True, eq=False)
class Classic:
    """A classic benchmark, materialised.

    Attributes:
        images: all rows; uint8 where they were images, with the labels that Avalanche gives.
        train, test: for each experience its rows of `images`.
        tasks: the task label of each experience.
        mean, std: what Avalanche normalises by, if it is left to us; otherwise 0 and 1.
    """

    images: ImageSet
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    tasks: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_classic(name: str, n_experiences: int, order_seed: int | None, arguments: Mapping[str, Any]) -> Classic:
    """Every experience of a benchmark of `avalanche.benchmarks.classic`, read once into resident tensors.

    A final `Normalize` of the benchmark's own evaluation transform is taken off, so that images can be stored as
    uint8, and handed on as mean and standard deviation.

    Args:
        name: e.g. "SplitCUB200".
        n_experiences: passed on where the benchmark takes it.
        order_seed: its `seed`; None asks for `shuffle=False`, or seed 0 where the benchmark does not take that.
        arguments: passed on, and win over both.

    Raises:
        ConfigError: no such benchmark or argument, or the benchmark refuses a value.
        DataError: its data cannot be had, or its rows differ in shape.
    """
    with _avalanche("avalanche.benchmarks.classic") as classic:
        make = _find(vars(classic), name)
        known = inspect.signature(make).parameters
        unknown = sorted(set(arguments) - set(known))
        if unknown:
            raise ConfigError(f"avalanche's {name} has no argument {unknown[0]!r}; it takes {', '.join(known)}")
        offered: dict[str, Any] = {"n_experiences": n_experiences, "seed": order_seed}
        if order_seed is None:
            offered |= {"shuffle": False} if "shuffle" in known else {"seed": 0}
        given = {key: value for key, value in offered.items() if key in known} | dict(arguments)
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        if "eval_transform" in known and "eval_transform" not in given:
            given["eval_transform"], mean, std = _without_normalize(known["eval_transform"].default)
        try:
            benchmark = make(**given)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"avalanche's {name} refuses {given}: {error}") from None
        except (OSError, RuntimeError) as error:
            raise DataError(f"the data of avalanche's {name} cannot be had ({error}); put its files where "
                            "scenario.arguments.dataset_root=FOLDER says, or take scenario=split_digits") from None
        return _materialise(name, benchmark, mean, std)


def _find(namespace: Mapping[str, Any], name: str) -> Callable[..., Any]:
    names = sorted(key for key, value in namespace.items() if key[:1].isupper() and inspect.isfunction(value))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"unknown avalanche benchmark {name!r}; {advice}")
    found: Callable[..., Any] = namespace[name]
    return found


def _without_normalize(transform: Any) -> tuple[Any, tuple[float, ...], tuple[float, ...]]:
    """A transform without its last step, if that normalises, and what it normalises by."""
    transforms = import_module("torchvision.transforms")
    if not isinstance(transform, transforms.Compose) or not transform.transforms:
        return transform, (0.0,), (1.0,)
    *before, last = transform.transforms
    if not isinstance(last, transforms.Normalize):
        return transform, (0.0,), (1.0,)
    return transforms.Compose(before), tuple(map(float, last.mean)), tuple(map(float, last.std))


def _materialise(name: str, benchmark: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Classic:
    train, test = list(benchmark.train_stream), list(benchmark.test_stream)
    if len(test) not in {1, len(train)}:
        raise ConfigError(f"avalanche's {name} has {len(train)} training and {len(test)} test experiences; expected as "
                          "many, or one test experience for all")
    train_x, train_y, train_rows, tasks = _rows([experience.dataset for experience in train], name)
    test_x, test_y, test_rows, _ = _rows([experience.dataset for experience in test], name)
    if train_x.dtype != test_x.dtype:
        train_x, test_x = ((x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x) for x in (train_x, test_x))
    arrays = [tensor.numpy() for tensor in (train_x, train_y, test_x, test_y)]
    return Classic(images=image_set(dict(zip(PARTS, arrays, strict=True))), train=tuple(train_rows),
                   test=tuple(test_rows * len(train) if len(test) < len(train) else test_rows), tasks=tuple(tasks),
                   mean=mean, std=std)


def _rows(datasets: Sequence[Any], name: str) -> tuple[Tensor, Tensor, list[Tensor], list[int]]:
    """All rows, all labels, the rows of each data set, and its task label (0 where it has none)."""
    lengths = [len(dataset) for dataset in datasets]
    y = torch.empty(sum(lengths), dtype=torch.int64)
    tasks = []
    x: Tensor | None = None
    at = 0
    for dataset in datasets:
        task = 0
        for row, label, *rest in dataset.eval():
            value = _as_tensor(row)
            if x is None:
                x = torch.empty((len(y), *value.shape), dtype=torch.uint8)
            if value.shape != x.shape[1:]:
                raise DataError(f"the rows of avalanche's {name} differ in shape: {tuple(value.shape)} after "
                                f"{tuple(x.shape[1:])}; pass scenario.arguments that give them one size")
            if x.dtype == torch.uint8 and value.dtype != torch.uint8:
                exact = _as_uint8(value)
                if exact is None:
                    x = torch.cat([x[:at].to(torch.float32) / 255, torch.empty((len(y) - at, *value.shape))])
                else:
                    value = exact
            elif x.dtype != torch.uint8 and value.dtype == torch.uint8:
                value = value.to(torch.float32) / 255
            x[at], y[at], at = value, int(label), at + 1
            task = int(rest[0]) if rest else 0
        tasks.append(task)
    if x is None:
        raise DataError(f"avalanche's {name} has no rows")
    return x, y, list(torch.split(torch.arange(len(y)), lengths)), tasks


def _as_tensor(row: Any) -> Tensor:
    """A tensor as it is; anything else is taken for an image and becomes uint8 [C, H, W]."""
    if isinstance(row, Tensor):
        return row
    pixels = torch.from_numpy(np.array(row))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _as_uint8(value: Tensor) -> Tensor | None:
    """Undo torchvision's `ToTensor`, if it can be undone exactly."""
    pixels = (value * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels if torch.equal(pixels.to(torch.float32) / 255, value) else None
