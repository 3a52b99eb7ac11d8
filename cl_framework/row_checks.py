"""What an experience must bring before it is learned: rows to learn, rows to be asked about, and all of its classes."""

from __future__ import annotations

import logging

from cl_framework.data import TestSet
from cl_framework.errors import DataError
from cl_framework.experience import Experience

_LOG = logging.getLogger(__name__)


def check_rows(experience: Experience, test: TestSet, *, has_labels: bool) -> None:
    """Refuse an experience without rows, and name the classes whose accuracy nobody will know.

    Args:
        experience: what is about to be learned.
        test: its held-out rows.
        has_labels: labels say which class a row is of.

    Raises:
        DataError: there is nothing to learn, or nothing to measure.
    """
    for what, rows in (("training", experience.train), ("held-out", test.data)):
        if not len(rows):
            raise DataError(f"experience {experience.index} has no {what} rows; the scenario gives it some, or leaves "
                            "the experience out")
    missing = sorted(set(test.classes) - set(test.data.y.unique().tolist())) if has_labels else []
    if missing:
        names = dict(zip(experience.classes, experience.class_names, strict=False))
        shown = ", ".join(str(names.get(label, label)) for label in missing[:5]) + (", ..." if missing[5:] else "")
        _LOG.warning("experience %d has no held-out row of %s %s: its accuracy is that of its other classes",
                     experience.index, "the class" if len(missing) == 1 else f"{len(missing)} classes,", shown)
