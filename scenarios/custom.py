"""A user's own data, cut into experiences by its classes.

One flag is enough::

    clf train scenario=custom scenario.path=data.npz          # arrays x and y, optionally x_test and y_test
    clf train scenario=custom scenario.path=pictures          # pictures/cat/1.png, pictures/dog/1.png, ...

and from Python::

    import numpy as np
    from cl_framework import Phase
    from cl_framework.scenarios.custom import Custom
    np.savez("data.npz", x=x, y=y)
    stream = Custom(path="data.npz", n_experiences=3).open(Phase.SINGLE, order_seed=None)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework import ConfigError, DataError, bounded
from cl_framework.sources import PARTS, image_set

from ._cut import Labelled
from ._folders import read_image_folder, read_npz
from ._split import Split

_CHANNELS = {1, 3, 4}


@dataclass(kw_only=True)
class Custom(Split):
    """Your own data: an .npz with x and y, or a folder of images by class.

    `x` is uint8 images [N, H, W], [N, H, W, C] or [N, C, H, W], or float vectors or images, which stay float32.
    `y` is one integer or string per row; classes come in sorted order. Mean and standard deviation are those of the
    first experience's training rows, as later rows are the future.

    Literature: van de Ven and Tolias, Three scenarios for continual learning, arXiv 1904.07734.
    """

    path: str = ""
    """The .npz file, or the folder with one folder of images a class (or with `train` and `test` of that kind)."""
    test_fraction: float = bounded(0.2, low=0.0, high=0.9)
    """Share of each class that is held out, evenly spaced in file order, where the data has no test part."""

    def read(self) -> Labelled:
        """The data set, read anew."""
        if not self.path:
            raise ConfigError("scenario=custom needs your data: give scenario.path=data.npz (arrays x and y) or "
                              "scenario.path=FOLDER with one folder of images a class")
        path = Path(self.path).expanduser()
        if not path.exists():
            raise ConfigError(f"scenario.path={self.path!r} does not exist (looked for {path.resolve()})")
        found = read_image_folder(path) if path.is_dir() else read_npz(path)
        x, (names, y) = _as_rows(found.x, "x"), _as_labels(found.y, len(found.x), "y")
        if found.test_x is None or found.test_y is None:
            is_test = hold_out(y, self.test_fraction, names)
            arrays = (x[~is_test], y[~is_test], x[is_test], y[is_test])
        else:
            test_x = _as_rows(found.test_x, "x_test")
            test_names, test_y = _as_labels(found.test_y, len(test_x), "y_test")
            unknown = [name for name in test_names if name not in names]
            if unknown:
                raise DataError(f"the test part has the class {unknown[0]!r}, which the training part lacks")
            if test_x.shape[1:] != x.shape[1:] or test_x.dtype != x.dtype:
                raise DataError(f"test rows are {test_x.dtype} {test_x.shape[1:]}, training rows {x.dtype} "
                                f"{x.shape[1:]}; expected the same")
            arrays = (x, y, test_x, np.array([names.index(name) for name in test_names], np.int64)[test_y])
        images = image_set(dict(zip(PARTS, arrays, strict=True)))
        return Labelled(name=path.name, images=images, class_names=names)


def hold_out(y: NDArray[np.int64], fraction: float, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which rows are held out: a fixed share of each class, at least one row, evenly spaced in file order.

    Raises:
        DataError: a class has a single row.

    >>> hold_out(np.array([0] * 10), 0.2, ("cat",)).nonzero()[0].tolist()
    [4, 9]
    """
    is_test = np.zeros(len(y), dtype=bool)
    for label, name in enumerate(names):
        rows = np.flatnonzero(y == label)
        if len(rows) < 2:
            raise DataError(f"class {name!r} has {len(rows)} row; at least 2 are needed, one to train and one to test")
        n_test = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        is_test[rows[np.arange(1, n_test + 1) * len(rows) // n_test - 1]] = True
    return is_test


def _as_rows(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Images as [N, C, H, W] and vectors as [N, D]; uint8 or float32."""
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise DataError(f"{name} has shape {x.shape}; expected vectors [N, D] or images [N, H, W] or [N, H, W, C]")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise DataError(f"{name} holds values that are not finite; remove or replace them")
    elif x.dtype != np.uint8:
        raise DataError(f"{name} is of {x.dtype}; expected uint8 (images) or a float type: x.astype('uint8') or "
                        "x.astype('float32')")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def _as_labels(y: NDArray[Any], n_rows: int, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The sorted names of the classes, and for each row the position of its name."""
    if y.ndim != 1 or y.dtype.kind not in "iuUb":
        raise DataError(f"{name} is of {y.dtype} with shape {y.shape}; expected one integer or string per row: "
                        f"{name}.ravel().astype('int64')")
    if len(y) != n_rows:
        raise DataError(f"{name} has {len(y)} labels for {n_rows} rows")
    values, positions = np.unique(y, return_inverse=True)
    return tuple(str(value) for value in values), positions.astype(np.int64)
