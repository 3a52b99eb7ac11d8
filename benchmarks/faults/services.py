"""W&B that is not there, refuses, fails, dawdles or dies while a run is under way: what the run does, and what is kept.

    python benchmarks/faults/services.py             # writes runs/reference/services.json
    python benchmarks/faults/services.py dying       # one kind of server, printed alone

The server is a stand-in on the loopback (`fake_wandb`), the client is W&B's own. A run counts as unharmed where its
accuracies are those of a run that nobody watches, and its lines as kept where the file for `wandb sync` has them.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_wandb import serving

from cl_framework import cli
from cl_framework.files import write_json
from cl_framework.runs import git_commit

RESULT = Path(__file__).resolve().parent.parent.parent / "runs" / "reference" / "services.json"
SERVERS: dict[str, dict[str, Any] | None] = {
    "working": {}, "unreachable": None, "rejecting": {"status": 401}, "failing": {"status": 500},
    "dying": {"dies_after": 4}, "slow": {"delay": 0.5}}
"""How each server behaves; None is an address where nobody listens."""
WORDS = ["train", "scenario=split_digits", "strategy=naive", "train.epochs=1", "track.every=1"]


@contextmanager
def address(how: dict[str, Any] | None) -> Iterator[str]:
    """Where a server is, or is not."""
    if how is None:
        yield "http://127.0.0.1:9"
        return
    with serving(**how) as server:
        yield server.address


def accuracies(folder: Path) -> Any:
    """R of the run below a folder."""
    return json.loads(next(folder.rglob("summary.json")).read_text())["accuracy_matrix"]


def attempt(kind: str, folder: Path) -> dict[str, Any]:
    """One run with a server of a kind, beside one that nobody watches."""
    cli.main([*WORDS, "track.wandb=disabled", f"out={folder / 'alone'}"])
    begun = time.monotonic()
    with address(SERVERS[kind]) as where:
        os.environ["WANDB_BASE_URL"] = where
        status = cli.main([*WORDS, "track.wandb=online", f"out={folder / 'watched'}"])
    files = list((folder / "watched").rglob("*.wandb"))
    kept = max((file.read_bytes() for file in files), key=len)
    return {"server": kind, "exit_status": status,
            "is_unharmed": accuracies(folder / "watched") == accuracies(folder / "alone"),
            "has_every_evaluation": kept.count(b"experience/average_accuracy") >= 5,
            "is_offline": any("offline-run" in str(file) for file in files),
            "seconds": round(time.monotonic() - begun, 1)}


def main() -> None:
    """Try each, print, write."""
    os.environ |= {"WANDB_API_KEY": "a" * 40, "WANDB_SILENT": "true"}
    logging.basicConfig(level=logging.WARNING)
    found = []
    for kind in sys.argv[1:] or SERVERS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOME"] = folder
            found.append(attempt(kind, Path(folder)))
        print(found[-1], flush=True)
        sys.modules["wandb"].teardown()
    if not sys.argv[1:]:
        write_json(RESULT, {"command": "python benchmarks/faults/services.py", "git_commit": git_commit(),
                            "wandb": sys.modules["wandb"].__version__, "python": platform.python_version(),
                            "results": found})
    sys.exit(any(row["exit_status"] or not row["is_unharmed"] for row in found))


if __name__ == "__main__":
    main()
