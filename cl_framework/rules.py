"""The 15 rules of the two-phase protocol, each a function of a record; its docstring is the rule.

Source: Cha and Cho, Hyperparameters in Continual Learning: A Reality Check, TMLR 2025 (GTEP, arXiv 2403.09066). A rule
is kept (True), broken (False), or not shown by the record (None): one about comparisons says nothing of one strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cl_framework import reporting_rules as reporting
from cl_framework import tuning_rules as tuning
from cl_framework.verdicts import Finding, Record, Verdict

RULES: Mapping[str, Callable[[Record, Sequence[Record]], Finding]] = {f"R{number}": rule for number, rule in enumerate((
    tuning.nothing_shared, tuning.one_configuration, tuning.declared_space, tuning.same_budget, tuning.blind_tuning,
    tuning.one_scalar, tuning.frozen_winner, tuning.all_fixed_listed, reporting.every_seed, reporting.all_reported,
    reporting.both_flavours, reporting.default_row, reporting.honest_claims, reporting.failures_listed,
    reporting.baselines_there), start=1)}


def check(record: Record, beside: Sequence[Record] = ()) -> list[Verdict]:
    """Judge a record by the 15 rules.

    Args:
        record: of one strategy.
        beside: the records that it is compared with.
    """
    verdicts = []
    for name, rule in RULES.items():
        try:
            kept, reason = rule(record, beside)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            kept, reason = False, f"the record lacks what this rule is judged by ({error!r})"
        verdicts.append(Verdict(name, kept, reason))
    return verdicts
