"""The W&B workspace and report of `clf dashboard`, made of W&B's own views from plain data.

The package that speaks W&B's views is wandb-workspaces; its classes are named here alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cl_framework.dashboard_charts import charts
from cl_framework.dashboard_panels import Chart, Curve, Listing, Panel, Picture, Points, sections
from cl_framework.errors import ClfError, ConfigError
from cl_framework.wandb_keys import EXPERIENCE

FORMAT = 1
"""Of the file; fields may be added, none changes its meaning without a new number."""
_TITLE = "Continual learning"
_GROUP = "Group"
"""W&B's name for the group of a run, which is the hash of its configuration."""
_COLUMNS = ("run:displayName", "run:jobType", "summary:average_accuracy", "summary:stability",
            "summary:learning_accuracy", "summary:forgetting/max", "summary:train_seconds", "summary:chosen_by")
_HALF, _HIGH = 12, 8


def specification(entity: str, project: str) -> dict[str, Any]:
    """What W&B would be given, as plain data.

    Raises:
        ConfigError: the extra `dashboard` is not installed.
    """
    workspace, report = _workspace(entity, project), _report(entity, project)
    return {"format": FORMAT, "entity": entity, "project": project, "charts": charts(),
            "workspace": _plain(workspace._to_model().spec), "report": _plain(report._to_model().spec)}


def build(entity: str, project: str) -> list[str]:
    """Make the charts, the workspace and the report at W&B; what was made, and where.

    Raises:
        ClfError: W&B refuses, or cannot be reached.
    """
    import wandb

    workspace, report = _workspace(entity, project), _report(entity, project)
    lines = []
    try:
        api = wandb.Api()
        for name, spec in charts().items():
            try:
                api.create_custom_chart(entity, name, name.replace("_", " "), "vega2", "private", dict(spec))
            except Exception as error:  # W&B has one kind of error for a name that is taken and for everything else
                lines.append(f"note: the chart {entity}/{name} was not made ({error}); one that is there is used")
        workspace.save()
        report.save()
    except Exception as error:
        raise ClfError(f"W&B did not take the dashboard ({type(error).__name__}: {error}); check the login, entity and "
                       "project, or write it to a file with mode=offline") from error
    return [*lines, f"workspace: {workspace.url}", f"report: {report.url}"]


def _workspace(entity: str, project: str) -> Any:
    views, reports = _library("workspaces"), _library("reports.v2")
    made = [views.Section(name=section.title, is_open=True,
                          panels=[_drawn(reports, panel, entity) for panel in section.panels])
            for section in sections()]
    return views.Workspace(
        entity=entity, project=project, name=_TITLE, sections=made,
        settings=views.WorkspaceSettings(x_axis=EXPERIENCE, max_runs=100, group_by_prefix="first"),
        runset_settings=views.RunsetSettings(groupby=[views.Metric(_GROUP)], pinned_columns=list(_COLUMNS)))


def _report(entity: str, project: str) -> Any:
    reports = _library("reports.v2")
    blocks: list[Any] = [reports.TableOfContents()]
    for section in sections():
        runs = reports.Runset(name="all runs, by configuration", groupby=["group"])  # of the report's own project
        panels = [_drawn(reports, panel, entity, at) for at, panel in enumerate(section.panels)]
        blocks += [reports.H1(section.title), reports.P(section.text),
                   reports.PanelGrid(runsets=[runs], panels=panels)]
    return reports.Report(entity=entity, project=project, title=_TITLE, blocks=blocks, width="fluid",
                          description="Stability, plasticity and cost; made by clf dashboard.")


def _drawn(library: Any, panel: Panel, entity: str, at: int = 0) -> Any:
    """A panel as W&B's own, at its place in a grid of two columns."""
    layout = library.Layout(x=at % 2 * _HALF, y=at // 2 * _HIGH, w=_HALF, h=_HIGH)
    match panel:
        case Curve():
            return library.LinePlot(title=panel.title, x=panel.axis, y=list(panel.keys), title_x=panel.axis,
                                    metric_regex=f"^{panel.prefix}.*" if panel.prefix else None, layout=layout,
                                    groupby=_GROUP, groupby_aggfunc="mean", groupby_rangefunc="stddev")
        case Points():
            return library.ScatterPlot(title=panel.title, x=library.SummaryMetric(panel.x), layout=layout,
                                       y=library.SummaryMetric(panel.y))
        case Chart():
            return library.CustomChart(query={"summaryTable": {"tableKey": panel.table}}, layout=layout,
                                       chart_name=f"{entity}/{panel.chart}", chart_strings={"title": panel.title},
                                       chart_fields={column: column for column in panel.columns})
        case Listing():
            return library.WeavePanelSummaryTable(table_name=panel.table, layout=layout)
        case Picture():
            return library.MediaBrowser(media_keys=[panel.key], num_columns=2, layout=layout)


def _plain(spec: Any) -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
    return content


def _library(part: str) -> Any:
    """A module of wandb-workspaces.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its older reports, imported along
            return import_module(f"wandb_workspaces.{part}")
    except ImportError as error:
        raise ConfigError(f"clf dashboard needs the package wandb-workspaces ({error}); install it with: "
                          "pip install 'cl-framework[dashboard]'") from error
