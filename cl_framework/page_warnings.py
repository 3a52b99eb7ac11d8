"""What a reader must know before the numbers of a report: few seeds, single-phase runs, runs that are left out.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cl_framework.groups import Group
from cl_framework.report import warnings
from cl_framework.summaries import Runs

_SINGLE_PHASE = "single-phase"


def warned(runs: Runs, found: Sequence[Group], others: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Kind and sentence of each.

    Args:
        runs: what lies below the folder.
        found: the groups of the report.
        others: kinds and sentences on environments and protocol records.
    """
    listed = [(kind, text) for kind, _, text in (each.partition(": ") for each in warnings(found))]
    single = sorted({f"{each.strategy} on {each.scenario}" for each in found if each.protocol == _SINGLE_PHASE})
    if single:
        listed.append((_SINGLE_PHASE, f"hyperparameters of {', '.join(single)} were chosen by whoever gave the "
                       "command, on the stream that is reported; clf protocol tunes on one stream and reports on "
                       "another"))
    dirty = [run for each in found for run in each.runs if run.git_commit.endswith("-dirty")]
    if dirty:
        n_runs = sum(each.n for each in found)
        listed.append(("changed files", f"{len(dirty)} of {n_runs} runs were made with files that differ from their "
                                        "commit"))
    listed += [("left out" if "left out" in note else "note", note) for note in runs.notes()]
    return [*listed, *others]
