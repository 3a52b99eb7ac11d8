"""Protocol records at W&B: each `protocol.json` becomes a run, which holds it as summary, tables and artifact.

A record is written when all runs of phase 2 are over, so none of them can hold it. Its W&B run is named by the record's
digest: the same record gives the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl_framework.errors import ClfError, ConfigError
from cl_framework.protocol_record import FILE, read_record
from cl_framework.seal import digest_of
from cl_framework.tuned import FILE as TUNED

JOB_TYPE = "protocol"
"""Of these runs."""
_LONGEST_TAG = 64


def publish(path: Path, entity: str, project: str, *, is_online: bool) -> Iterator[str]:
    """Log every record below a folder; what was logged.

    Args:
        path: a folder with protocol records below it.
        entity: W&B team or user.
        project: W&B project.
        is_online: send them; else they are written beside the record, for a later `wandb sync`.

    Raises:
        ConfigError: there is no such folder, or no record in it.
        ClfError: W&B did not take a record.
    """
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}; give runs=PATH of a folder with protocol records below it")
    files = sorted(path.rglob(FILE))
    if not files:
        raise ConfigError(f"there is no {FILE} below {path}; `clf evaluate` writes them")
    for file in files:
        record = read_record(file)
        try:
            _log(file, record, entity, project, is_online=is_online)
        except Exception as error:
            raise ClfError(f"W&B did not take {file} ({type(error).__name__}: {error}); the file itself is whole"
                           ) from error
        yield f"{file}: {record['status']}, logged"


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and hashes of a record, by name."""
    hashes = record["hashes"]
    found: dict[str, Any] = {"status": record["status"], "protocol": record["protocol"],
                             "broken": ", ".join(record.get("broken", []))}
    found |= {f"{name}_hash": value for name, value in hashes.items() if isinstance(value, str)}
    found["tuning/mean"] = record["tuning"]["result"]["mean"]
    for part in record["evaluation"]:
        found[f"evaluation/{part['scenario']}/mean"] = part["result"]["mean"]
    return found


def _log(file: Path, record: Mapping[str, Any], entity: str, project: str, *, is_online: bool) -> None:
    import wandb

    digest = str(record.get("digest") or digest_of(record))
    tags = [str(record[name])[:_LONGEST_TAG] for name in ("scenario", "strategy")]
    with wandb.init(dir=file.parent, id=digest[:12], resume="allow", mode="online" if is_online else "offline",
                    entity=entity, project=project, group=str(record["hashes"]["study"]), job_type=JOB_TYPE, tags=tags,
                    name=f"{record['scenario']}-{record['strategy']}-protocol",
                    config={name: record[name] for name in ("hashes", "winner", "seeds", "metric", "environment")},
                    settings=wandb.Settings(silent=True, init_timeout=30, x_disable_stats=True)) as run:
        run.summary.update(summary_of(record))
        verdicts = [[each["rule"], each["kept"], each["reason"]] for each in record["verdicts"]]
        results = [[part["scenario"], entry["seed"], entry["order_seed"], entry["config_hash"], entry["value"]]
                   for part in record["evaluation"] for entry in part["runs"]]
        run.log({"tables/verdicts": wandb.Table(columns=["rule", "kept", "reason"], data=verdicts),
                 "tables/evaluation": wandb.Table(columns=["scenario", "seed", "order_seed", "group", "value"],
                                                  data=results)})
        artifact = wandb.Artifact(f"protocol-{digest[:12]}", type=JOB_TYPE, metadata=summary_of(record))
        for each in (file, file.parent / TUNED):
            if each.is_file():
                artifact.add_file(str(each), name=each.name)
        run.log_artifact(artifact)
