"""The names under which W&B keeps what a run measures, each with its axis; the logger and the dashboard share them.

A name is SECTION/REST, and the section has one axis: optimizer steps of the whole stream, or experiences. W&B's own
step is neither: it is `stream_step + experience`, one more after an evaluation, so that a run that goes on after a kill
writes each of its lines at the same step again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from cl_framework.metric_plugins import Axis

STREAM_STEP = "stream/step"
"""Optimizer steps since the stream began, or batches answered; never restarts."""
EXPERIENCE = "experience/index"
"""The experience that was learned last, from 0."""

HEAT = (8, 81, 156)
"""Red, green and blue of an accuracy of 1; white is 0."""
HEAT_TURN = 0.77
"""The accuracy above which numbers on it are white: black and white then both have a contrast of 4.5 (WCAG 2.2)."""
HEATMAP = "charts/accuracy_matrix"
"""R as a heat map, a page of HTML."""
MATRIX = "tables/accuracy_matrix"
"""R, a line for each experience learned."""
CELLS = "tables/accuracy_cells"
"""R, a line for each of its cells: what a chart wants."""
EXPERIENCES = "tables/experiences"
"""What was measured of each experience, as in `experiences.csv`."""
PLANE = "tables/plane"
"""The run as a point of the plane of stability and plasticity, keyed by its group."""

SECTIONS: Mapping[str, str] = {
    "train": STREAM_STEP,
    **dict.fromkeys(("experience", "forgetting", "tables", "charts", *get_args(Axis)), EXPERIENCE),
}
"""The axis of each section."""


def step_of(stream_step: int, experience: int, *, is_evaluated: bool) -> int:
    """W&B's step of a line: unique, rising, and the same in a run that was taken up again.

    >>> [step_of(50, 0, is_evaluated=False), step_of(50, 0, is_evaluated=True), step_of(50, 1, is_evaluated=True)]
    [50, 51, 52]
    """
    return stream_step + experience + is_evaluated
