"""Which fields of PSMT belong to which variant: one that a variant does not read may not be changed.

A changed field that changes nothing would be a row of its own in every table, with the numbers of another row.
"""

from __future__ import annotations

from dataclasses import fields

from cl_framework.strategy import Strategy

_LABELLED = ("kappa",)
"""Read by `variant=supervised` alone."""
_UNLABELLED = ("lr", "update_rule", "beta", "weight_decay", "n_steps", "consistency", "has_class_factor", "anchor",
               "segment", "fisher", "fisher_momentum", "n_fisher_batches", "n_views", "confidence_gate", "statistics")
"""Read by `variant=paper` and `variant=release` alone."""

_UNREAD = {
    True: (_UNLABELLED, "variant=paper and variant=release", "a labelled stream is learned by train.*"),
    False: (_LABELLED, "variant=supervised", "of a search with search.space.strategy.psmt.kappa=null"),
}
"""What the variant for labelled streams does not read, and the others: fields, who reads them, and what to do."""


def faults_of_variant(strategy: Strategy, variant: str) -> list[str]:
    """One sentence for each field that was changed and that the variant does not read."""
    unread, readers, hint = _UNREAD[variant == "supervised"]
    owner = type(strategy).__name__
    return [f"{owner}.{spec.name} is read by {readers} alone, and the variant is {variant}; leave it out ({hint})"
            for spec in fields(strategy) if spec.name in unread and vars(strategy)[spec.name] != spec.default]
