"""`protocol.json`: both phases of one strategy, with everything that the 15 rules are judged by.

The file holds a digest of its own content, so that an edit is noticed. Source of the rules: Cha and Cho, TMLR 2025
(GTEP, arXiv 2403.09066); the format is described in docs/protocol.md.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from cl_framework.errors import ConfigError
from cl_framework.files import write_json
from cl_framework.plain_files import read_json
from cl_framework.plugin_code import Code
from cl_framework.rules import check
from cl_framework.runs import git_commit
from cl_framework.seal import sealed
from cl_framework.tuned import digest
from cl_framework.tuning_table import percent
from cl_framework.verdicts import Verdict
from cl_framework.winner import Made, protocol_of, statistic, trials_of

FORMAT = 2
"""Fields may be added; none changes its meaning without a new number."""
FORMATS = (1, FORMAT)
"""Those that are read; the first has no digests of code and streams, and its `winner_hash` is that of phase 1."""
FILE = "protocol.json"
"""Its name, beside best.yaml."""
_PACKAGES = ("torch", "lightning", "numpy", "cl-framework")
_WHOLE = ("format", "digest", "status", "tuned", "tuning", "evaluation", "hashes", "costs", "verdicts")


@dataclass(frozen=True, kw_only=True)
class Phase2:
    """What phase 2 found.

    Attributes:
        tuning: the fingerprint of the tuning stream.
        parts: one for each stream reported on.
        changed: versions and sources that differ from those of phase 1.
        seconds: wall-clock time of this start.
        code: digests of the source of the plugins, now.
    """

    tuning: Mapping[str, Any]
    parts: Sequence[Mapping[str, Any]]
    changed: Sequence[str]
    seconds: float
    code: Code = field(default_factory=dict)


def build(made: Made, phase2: Phase2) -> dict[str, Any]:
    """The record, judged and sealed."""
    first = {trial.number: trial for trial in trials_of(made)}[made["winner"]["trial"]]
    runs = [run for part in phase2.parts for run in part["runs"]]
    plain = [run for part in phase2.parts if part["default"] is not None for run in part["default"]["runs"]]
    record = {
        "format": FORMAT, "protocol": protocol_of(made), "strategy": made["strategy"], "model": made["model"],
        "scenario": made["scenario"], "metric": made["search"]["metric"], "seeds": list(made["evaluation_seeds"]),
        "hashes": {"scenario": made["scenario_hash"], "space": made["space_hash"], "winner": made["winner"]["hash"],
                   "study": made["study_hash"], "code": digest(phase2.code), "tuning": _split_hash(phase2.tuning),
                   "evaluation": {part["scenario"]: _split_hash(part) for part in phase2.parts}},
        "winner": made["winner"]["values"],
        "tuning": {**phase2.tuning, "phase": made["phase"], "data": made["data"],
                   "result": statistic([score.value for score in first.scores.values()]),
                   "failed": [{"trial": trial.number, "seed": seed, "failure": reason}
                              for trial in trials_of(made) for seed, reason in trial.failures.items()]},
        "evaluation": list(phase2.parts), "claims": [],
        "costs": {"tuning": made["costs"], "evaluation": {**_cost(runs), "wall_seconds": phase2.seconds},
                  "default": _cost(plain)},
        "environment": {"git_commit": git_commit(), "python": platform.python_version(),
                        "platform": f"{platform.system()} {platform.machine()}",
                        "packages": {name: version(name) for name in _PACKAGES}},
        "changed_since_tuning": list(phase2.changed), "code": phase2.code, "tuned": dict(made),
    }
    return sealed(judged(json.loads(json.dumps(record))))


def judged(record: Mapping[str, Any], verdicts: Sequence[Verdict] | None = None) -> dict[str, Any]:
    """The record with its verdicts; one broken rule makes it non-compliant."""
    found = check(record) if verdicts is None else verdicts
    broken = [verdict.rule for verdict in found if verdict.kept is False]
    return {**record, "status": "non-compliant" if broken else "compliant", "broken": broken,
            "not_shown": [verdict.rule for verdict in found if verdict.kept is None],
            "verdicts": [asdict(verdict) for verdict in found]}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record in one step."""
    write_json(path, record)


def read_record(path: Path) -> dict[str, Any]:
    """Read a `protocol.json`, or that of a folder; its digest is not looked at.

    Raises:
        ConfigError: it is not there, or no record.
    """
    file = path / FILE if path.is_dir() else path
    try:
        record = read_json(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no {file}; `clf evaluate tuned=PATH` writes it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); give the command of its evaluation again, finished runs "
                          "are kept") from error
    missing = [name for name in _WHOLE if not isinstance(record, dict) or name not in record]
    if missing:
        raise ConfigError(f"{file} is no protocol record: missing {', '.join(missing)}")
    if record["format"] not in FORMATS:
        raise ConfigError(f"{file} has format {record['format']}, this clf reads {FORMAT}; evaluate again")
    whole: dict[str, Any] = record
    return whole


def record_table(record: Mapping[str, Any]) -> Table:
    """Both phases of one strategy, a row for each stream."""
    table = Table(title=f"{record['strategy']} · {record['protocol']} · tuned on {record['scenario']}\n"
                  f"{record['metric']}, mean over seeds", title_justify="left", box=None, caption_justify="left",
                  caption=f"not shown: {', '.join(record['not_shown']) or 'none'}\n{_status_text(record)}")
    for heading in ("phase", "stream", "mean %", "95 %", "n", "failed"):
        table.add_column(heading, justify="left" if heading in ("phase", "stream") else "right", no_wrap=True)
    table.add_row("tuning", record["scenario"], *_cells(record["tuning"]["result"]), "")
    for part in record["evaluation"]:
        for name, row in (("evaluation", part), ("defaults", part["default"])):
            if row is not None:
                failed = sum(run["failure"] is not None for run in row["runs"])
                table.add_row(name, part["scenario"], *_cells(row["result"]), str(failed),
                              style="bold" if name == "evaluation" else None)
    return table


def _status_text(record: Mapping[str, Any]) -> str:
    """Whether a record is compliant; else which rules are broken, and why."""
    broken = [f"{verdict['rule']} is broken: {verdict['reason']}" for verdict in record["verdicts"]
              if verdict["kept"] is False]
    return "compliant" if not broken else "\n".join(["NON-COMPLIANT, not a result of this protocol:", *broken])


def _split_hash(part: Mapping[str, Any]) -> str:
    """What stands for the classes and the images of a stream."""
    return digest({name: part[name] for name in ("classes", "images")})


def _cells(result: Mapping[str, Any]) -> list[str]:
    ends = result["interval"]
    return [percent(result["mean"]), "" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}",
            str(result["n"])]


def _cost(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"runs": len(runs), "failed_runs": sum(run["failure"] is not None for run in runs),
            "train_seconds": sum(run["seconds"] for run in runs)}
