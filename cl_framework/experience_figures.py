"""What was measured of one experience: an object of `experiences` in `summary.json`, a line of `experiences.csv`.

A stream may name its experiences "DATA DOMAIN SEVERITY", with ", round N" behind it where it comes round several times;
tables then show the domain, and leave out the data, which is the same everywhere. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cl_framework.experience import Experience
    from cl_framework.record import StreamRecord

_NAME = re.compile(r"(?:\S+ )?(\S+) (\d+)(, round \d+)?")


LARGEST = 1e100
"""A number of a run beyond it counts as infinite: sums and squares of what lies within are numbers."""


def is_figure(value: float) -> bool:
    """Whether a number can be told in tables and averaged over runs.

    >>> is_figure(-3), is_figure(math.nan), is_figure(1e200)
    (True, False, False)
    """
    return abs(value) <= LARGEST


class Seen(NamedTuple):
    """What an experience says of itself: its name, None where it has none, and how many classes occur in it."""

    name: str | None
    n_classes: int

    @staticmethod
    def of(experience: Experience) -> Seen:
        """What one says of itself."""
        return Seen(experience.name or None, len(experience.classes))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One experience of one run; None where not measured, or not known.

    Attributes:
        name: what the stream calls it.
        n_classes: how many classes occur in it.
        round: which time the stream goes by, from 1.
        accuracy: R[i, i]; of an unlabelled stream on clean rows, after adapting to it.
        online_error: share of wrong answers given before they were learned from.
        calibration_error: expected calibration error of these answers; of unlabelled streams alone.
        seconds: training time.
    """

    name: str | None = None
    n_classes: int | None = None
    round: int = 1
    accuracy: float | None = None
    online_error: float | None = None
    calibration_error: float | None = None
    seconds: float | None = None


COLUMNS = tuple(field.name for field in fields(Figures))
_NUMBERS = ("accuracy", "online_error", "calibration_error", "seconds")


def figures_of(record: StreamRecord, seen: Mapping[int, Seen], indices: Iterable[int]) -> list[Figures]:
    """What was measured of experiences that are learned.

    Args:
        record: what a run measured.
        seen: what experiences said of themselves, by index; one may be missing.
        indices: of those that are told.
    """
    a_round = max(record.n_experiences // record.n_rounds, 1)
    found = []
    for index in indices:
        name, n_classes = seen.get(index, (None, None))
        online, calibration, accuracy = (_measured(value) for value in (
            record.online[index], record.calibration[index], record.accuracy[index, index]))
        found.append(Figures(
            name=name, n_classes=n_classes, round=index // a_round + 1, accuracy=accuracy,
            online_error=None if online is None else 1 - online, calibration_error=calibration,
            seconds=float(record.seconds[index])))
    return found


def _measured(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def read_figures(content: object) -> tuple[Figures, ...]:
    """The field `experiences` of a `summary.json`; a field that is not known is passed over.

    Raises:
        ValueError: it is no list of objects with numbers, names and nulls.

    >>> read_figures([{"name": "digits_csim fog 5", "online_error": 0.25}])[0].online_error
    0.25
    """
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise ValueError("is no list of objects")
    for each in content:
        wrong = [name for name in _NUMBERS if not _is_number(each.get(name))]
        wrong += [name for name in ("round", "n_classes") if not isinstance(each.get(name), int | None)]
        wrong += [] if isinstance(each.get("name"), str | None) else ["name"]
        if wrong:
            raise ValueError(f"holds {wrong[0]}={each[wrong[0]]!r}")
    return tuple(Figures(**{name: each[name] for name in COLUMNS if each.get(name) is not None}) for each in content)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and is_figure(value))


def short_name(name: str) -> str:
    """A name without the data.

    >>> short_name("fashion_mnist_csim gaussian_noise 5, round 2"), short_name("a spring day")
    ('gaussian_noise 5, round 2', 'a spring day')
    """
    found = _NAME.fullmatch(name)
    return name if found is None else f"{found[1]} {found[2]}{found[3] or ''}"


def domain_of(name: str) -> str:
    """What experiences of several severities and rounds share.

    >>> domain_of("fashion_mnist_csim gaussian_noise 5, round 2"), domain_of("a spring day")
    ('gaussian_noise', 'a spring day')
    """
    found = _NAME.fullmatch(name)
    return name if found is None else found[1]
