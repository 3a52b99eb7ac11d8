"""`clf dashboard`: a W&B workspace and a report over the runs of a project. Imports no torch.

Offline, or without a login, the specification goes into a file instead.
"""

from __future__ import annotations

from pathlib import Path

from cl_framework.errors import ConfigError
from cl_framework.files import write_json
from cl_framework.grammar import Command
from cl_framework.keys import take
from cl_framework.registry import unknown

_MODES = ("auto", "online", "offline")
_FILE = "dashboard.json"


def dashboard_verb(command: Command) -> int:
    """Build a W&B workspace and report, or write what they would be."""
    given = take(command, ["entity", "project", "mode", "out", "runs"])
    mode, project = str(given.get("mode", "auto")), str(given.get("project", "cl_framework"))
    if mode not in _MODES:
        raise ConfigError(unknown("mode", mode, _MODES))
    if given.get("entity") is None:
        raise ConfigError("say whose project it is: clf dashboard entity=TEAM project=NAME")
    entity = str(given["entity"])

    from cl_framework.dashboard_views import build, specification
    from cl_framework.tracking import wandb_mode
    from cl_framework.wandb_records import publish

    is_online = wandb_mode(mode) == "online"
    if "out" in given or not is_online:
        file = Path(str(given.get("out", _FILE)))
        write_json(file, specification(entity, project))
        print(f"{file}: the workspace and the report; mode=online with a W&B login builds them")
    for line in build(entity, project) if is_online else ():
        print(line)
    for line in publish(Path(str(given["runs"])), entity, project, is_online=is_online) if "runs" in given else ():
        print(line)
    return 0
