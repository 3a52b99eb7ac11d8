"""What another process of a run does: `python -m cl_framework.companion ORDER`; `cl_framework.companions` starts it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from cl_framework.companions import Borrowed, Order
from cl_framework.errors import Stopped
from cl_framework.isolation import only
from cl_framework.launch import Ticket, open_stream, prepare_model, ticket_of
from cl_framework.lifeline import hold
from cl_framework.protocol import build_model, run_stream
from cl_framework.registry import see_current_folder
from cl_framework.team import joined


def main(order: Order) -> None:
    """Do what the first process does, but for what it writes."""
    hold(order["parent"])
    see_current_folder()
    ticket: Ticket = ticket_of(0, order["tree"], order["protocol"], order["experiences"])
    job = ticket.job
    torch.set_num_threads(job.hardware.threads)
    with only(job.scenario, job.name("scenario"), job.phase):
        stream = open_stream(job)
        model = build_model(job.architecture, stream.info, job.seed)
        prepare_model(job, stream, model, Console(quiet=True))
        Path(f"{order['place']}.{order['rank']}").touch()
        with joined(order["rank"], order["n"], order["place"]):
            run_stream(job.strategy, stream, model, recipe=job.recipe, seed=job.seed, hardware=job.hardware,
                       vault=Borrowed(Path(order["checkpoints"]), job.hash))


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text()))
    except Stopped:
        os._exit(0)
    except Exception as error:  # the first process fails alike and says so; where it does not, it says this
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        sys.exit(1)
