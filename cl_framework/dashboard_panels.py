"""What the W&B dashboard shows, as plain data: sections of panels, each panel with what it draws against what.

A curve has the axis of its section in `wandb_keys`; points are runs, by their summaries; charts and tables read the
tables that runs log. Nothing here knows W&B's own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from cl_framework.metric_plugins import Axis
from cl_framework.wandb_keys import CELLS, EXPERIENCE, EXPERIENCES, HEATMAP, MATRIX, PLANE, SECTIONS, STREAM_STEP

CHART_OF_MATRIX, CHART_OF_PLANE = "clf_accuracy_matrix", "clf_plane"
"""Names of the charts of `dashboard_charts`."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines over one axis, the mean and range of each group of runs.

    Attributes:
        title: what stands above it.
        axis: the key of the horizontal axis.
        keys: what is drawn; empty where `prefix` says it.
        prefix: every key that begins so is drawn.
    """

    title: str
    axis: str = EXPERIENCE
    keys: Sequence[str] = ()
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Points:
    """A point for each run, by two numbers of its summary."""

    title: str
    x: str
    y: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A Vega-Lite chart over a table that runs log; each field of the chart is the column of its name."""

    title: str
    chart: str
    table: str
    columns: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table that runs log, the rows of all of them."""

    table: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What runs log as HTML."""

    key: str


Panel = Curve | Points | Chart | Listing | Picture


@dataclass(frozen=True)
class Section:
    """Panels under one heading, and what they are for."""

    title: str
    text: str
    panels: Sequence[Panel]


def sections() -> list[Section]:
    """Every section, in order; one for each axis of metrics, so that those of plugins are there, too."""
    known = [
        Section("Over the stream", "Accuracy on the experiences so far, and on each of them.", (
            Curve(title="average accuracy on the experiences so far", keys=("experience/average_accuracy",)),
            Curve(title="accuracy on each experience", prefix="experience/accuracy/"),
            Curve(title="online error of each experience (streams without labels)", keys=("experience/online_error",)),
            Curve(title="clean accuracy (streams without labels)", keys=("experience/clean_accuracy",)),
            Listing(table=EXPERIENCES))),
        Section("Stability and plasticity", "What was kept beside what could still be learned; a point is a run.", (
            Curve(title="stability", keys=("stability/stability",)),
            Curve(title="plasticity: learning accuracy", keys=("plasticity/learning_accuracy",)),
            Chart(title="stability against plasticity, all seeds", chart=CHART_OF_PLANE, table=PLANE,
                  columns=("group", "scenario", "strategy", "seed", "stability", "learning_accuracy")),
            Points(title="stability against plasticity, runs", x="learning_accuracy", y="stability"),
            Listing(table=PLANE))),
        Section("Accuracy matrix", "R[i, j]: accuracy on experience j after learning experience i.", (
            Chart(title="accuracy matrix", chart=CHART_OF_MATRIX, table=CELLS, columns=("after", "on", "accuracy")),
            Picture(key=HEATMAP), Listing(table=MATRIX))),
        Section("Forgetting", "max over i <= l < k of R[l, j], less R[k, j]; below 0 an experience was improved.", (
            Curve(title="forgetting of each experience", prefix="forgetting/"),
            Curve(title="mean forgetting", keys=("stability/forgetting/max",)))),
        Section("Cost", "Seconds, stored bytes and parameters.", (
            Points(title="accuracy against training seconds", x="train_seconds", y="average_accuracy"),
            Points(title="accuracy against stored bytes", x="memory_bytes", y="average_accuracy"),
            Curve(title="every metric of cost", prefix="cost/"))),
        Section("The strategy's own figures", "What strategies say of themselves.", (
            Curve(title="figures of the strategy", prefix="experience/strategy/"),)),
        Section("Training", "Over the optimizer steps of the whole stream.", (
            Curve(title="loss", axis=STREAM_STEP, keys=("train/loss",)),
            Curve(title="online error (streams without labels)", axis=STREAM_STEP, keys=("train/online_error",)))),
    ]
    return known + [Section(f"Metrics of {axis}", f"Every metric whose axis is {axis}.",
                            (Curve(title=axis, axis=SECTIONS[axis], prefix=f"{axis}/"),))
                    for axis in get_args(Axis) if axis != "cost"]
