"""The tables of a report: groups that may be compared, what each row is called, and what their shared pairs say.

Groups of one table share scenario with all its fields, model, phase and protocol, and either all have the natural order
or all have drawn ones. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cl_framework.columns import measure_of
from cl_framework.errors import ConfigError
from cl_framework.groups import Group
from cl_framework.pairing import FEWEST, Measure, Pairing, pair
from cl_framework.registry import unknown
from cl_framework.row_labels import by_hash, labels_of
from cl_framework.tables import conditions


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table.

    Attributes:
        title: scenario, model, order, phase and protocol.
        labels: what each row is called, see `row_labels`.
        rows: the groups.
        measure: what strategies are compared by.
        pairing: how the strategies compare; None where they cannot be compared.
        reason: why not; empty where there is but one.
        against: the row that the others are to be compared with; None where nobody named one.
    """

    title: str
    labels: tuple[str, ...]
    rows: tuple[Group, ...]
    measure: Measure
    pairing: Pairing | None
    reason: str
    against: str | None = None

    def compared(self) -> list[dict[str, Any] | None]:
        """For each row: how it compares with the reference, and its place among all."""
        if self.pairing is None:
            return [None] * len(self.rows)
        plain = self.pairing.plain()
        ranking: Mapping[str, Any] = plain["ranking"] or {}
        tests = {test["strategy"]: test for test in plain["contrasts"]}
        shared = {name: plain[name] for name in ("metric", "reference", "is_chosen", "unit")}
        return [{**shared, "label": label, "test": tests.get(label),
                 "mean_rank": ranking.get("mean_ranks", {}).get(label), "ranking": plain["ranking"]}
                for label in self.labels]


def sheets(found: Sequence[Group], measure: Measure, against: str | None) -> list[Sheet]:
    """The tables of some groups.

    Args:
        found: groups in the order in which rows are wanted.
        measure: what strategies are compared by; `DEFAULT` is what suits each table, see `columns.measure_of`.
        against: a strategy, or its label, that the others are compared with; the best when None.

    Raises:
        ConfigError: no table has that strategy, or one has several of that name.
    """
    tables = [list(members) for _, members in groupby(sorted(found, key=_in_order), key=lambda each: each.conditions)]
    labels = [labels_of(rows) for rows in tables]
    titles = _titles(tables)
    known = {name for rows, names in zip(tables, labels, strict=True) for name in (*names, *(
        each.strategy for each in rows), *map(by_hash, rows))}
    if against is not None and against not in known:
        raise ConfigError(unknown("strategy", against, known))
    return [_sheet(*parts, measure, against) for parts in zip(titles, tables, labels, strict=True)]


def _in_order(each: Group) -> tuple[str, str, str, bool, str, str]:
    return each.conditions


def _sheet(title: str, rows: Sequence[Group], labels: Sequence[str], measure: Measure, against: str | None) -> Sheet:
    measure = measure_of(rows, measure)
    values = {label: each.values(measure.name) for label, each in zip(labels, rows, strict=True)}
    reference, reason = None, ""
    pairing = None
    if against is not None:
        named = [label for label, each in zip(labels, rows, strict=True)
                 if against in (label, each.strategy, by_hash(each))]
        if len(named) > 1:
            raise ConfigError(f"'{against}' has several configurations in {title}; name one of them: "
                              + ", ".join(f"'against={label}'" for label in sorted(named)))
        reference = named[0] if named else None
        reason = "" if named else f"there is no {against} in this table"
    if len(rows) > 1 and not reason:
        pairing = pair(values, measure, reference)
        reason = "" if pairing is not None else (
            f"no two strategies share {FEWEST} (order, seed) pairs" if reference is None else
            f"no strategy shares {FEWEST} (order, seed) pairs with {reference}")
    return Sheet(title=title, labels=tuple(labels), rows=tuple(rows), measure=measure,
                 pairing=pairing, reason=reason if len(rows) > 1 else "", against=reference)


def _titles(tables: Sequence[Sequence[Group]]) -> list[str]:
    """Of each table; the fields of the scenario are named where tables would else be called the same."""
    plain = [f"{rows[0].scenario} · {rows[0].model} · {conditions(rows)}" for rows in tables]
    titles = []
    for rows, title in zip(tables, plain, strict=True):
        twins = [_fields(other[0]) for other, name in zip(tables, plain, strict=True) if name == title]
        fields = _fields(rows[0])
        differing = [f"{name}={json.dumps(value)}" for name, value in fields.items()
                     if any(twin.get(name) != value for twin in twins)]
        titles.append(" · ".join([title, *([", ".join(differing)] if differing else [])]))
    return titles


def _fields(each: Group) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = json.loads(each.scenario_fields or "{}")
    return fields
