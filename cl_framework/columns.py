"""Which metrics a table of runs shows, and by which its strategies are compared: it follows from the runs.

Runs of labelled streams are told by how much they kept and learned, those of unlabelled streams by their online error
(Wang et al., CVPR 2022, section 4). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cl_framework.groups import Group
from cl_framework.pairing import DEFAULT, ONLINE_ERROR, Measure

LABELLED: Mapping[str, str] = {
    "average_accuracy": "average\naccuracy", "average_incremental_accuracy": "incremental\naccuracy",
    "forgetting/max": "forgetting\n/max", "backward_transfer": "backward\ntransfer",
    "learning_accuracy": "learning\naccuracy"}
"""The metrics that a table of labelled streams always shows, and their headings."""
UNLABELLED: Mapping[str, str] = {
    "online_error": "online\nerror", "calibration_error": "calibration\nerror",
    "source_forgetting": "source\nforgetting", "collapse": "collapse"}
"""Those of unlabelled streams; `collapse` where some run has it."""
OF_TEXTS: Mapping[str, str] = {"perplexity": "perplexity", "perplexity_increase": "perplexity\nincrease"}
"""Those of streams of texts, beside the labelled ones where some run has them; no shares."""


def is_labelled(rows: Sequence[Group]) -> bool:
    """Whether the runs of a table learned from labels."""
    return all(each.is_labelled for each in rows)


def measure_of(rows: Sequence[Group], measure: Measure) -> Measure:
    """What the strategies of a table are compared by: what was asked for; if nothing was, what suits its runs."""
    return measure if measure != DEFAULT or is_labelled(rows) else ONLINE_ERROR


def columns(rows: Sequence[Group], measure: Measure) -> dict[str, str]:
    """The metrics that a table shows, and their headings: the main ones, and before them one that is none of these."""
    main = {name: heading for name, heading in ({**LABELLED, **OF_TEXTS} if is_labelled(rows) else UNLABELLED).items()
            if name not in ("collapse", *OF_TEXTS) or any(name in each.metrics for each in rows)}
    return main if measure.name in main else {measure.name: measure.name.replace("_", "\n", 1), **main}


def is_percent(name: str, measure: Measure) -> bool:
    """Whether a table shows a metric in percent; `measure` is what its strategies are compared by."""
    return measure.is_percent if name == measure.name else name not in OF_TEXTS


def parts(found: Sequence[Group]) -> list[list[Group]]:
    """Groups of labelled streams, then those of unlabelled ones; one list where all are of one kind."""
    kinds = ([each for each in found if each.is_labelled is kind] for kind in (True, False))
    return [members for members in kinds if members]


def flat(heading: str) -> str:
    """A heading of two lines on one."""
    return heading.replace("\n", " ").replace(" /", "/")


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{round(100 * value, 1) + 0.0:.1f}"
