"""What the rows of a table are called: their strategy, and what tells them apart where it has several configurations.

These are the fields in which the configurations of that strategy differ, as the command line writes them. Where they
are many, or not known, it is the hash. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cl_framework.groups import Group
from cl_framework.prompt_records import read_prompts

_MOST_FIELDS = 2


def labels_of(rows: Sequence[Group]) -> list[str]:
    """The label of each row; no two are the same."""
    labels = dict[int, str]()
    for strategy in dict.fromkeys(each.strategy for each in rows):
        places = [place for place, each in enumerate(rows) if each.strategy == strategy]
        labels |= zip(places, _apart([rows[place] for place in places]), strict=True)
    return [labels[place] for place in range(len(rows))]


def by_hash(each: Group) -> str:
    """A row by its hash, which tells any two configurations apart."""
    return f"{each.strategy} {each.config_hash[:8]}"


def _apart(rows: Sequence[Group]) -> list[str]:
    if len(rows) == 1:
        return [rows[0].strategy]
    names = [name for name in rows[0].fields if any(each.fields.get(name) != rows[0].fields[name] for each in rows)]
    labels = [" ".join([each.strategy, *(f"{short(name, each.strategy)}={text(each.fields.get(name))}"
                                         for name in names)]) for each in rows]
    is_told = all(each.fields for each in rows) and len(names) <= _MOST_FIELDS and len(set(labels)) == len(rows)
    return labels if is_told else [by_hash(each) for each in rows]


def short(name: str, strategy: str) -> str:
    """A key without what its strategy says already.

    >>> short("strategy.psmt.variant", "psmt"), short("strategy.er.memory_size", "er+lwf"), short("train.lr", "er")
    ('variant', 'er.memory_size', 'train.lr')
    """
    return name.removeprefix(f"strategy.{strategy}.").removeprefix("strategy.")


def text(value: object) -> str:
    """A value as the command line writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def changed(each: Group, label: str) -> str:
    """One line on what results are to be called, where their strategy says so, and on the fields of a strategy that are
    not at their defaults and that its label does not tell; or none."""
    fields = [f"{short(f'strategy.{name}', each.strategy)}={text(value)}"
              for name, value in each.strategy_fields.items()]
    untold = [field for field in fields if f" {field} " not in f"{label} "]
    records = [read_prompts(run.folder) for run in each.runs]
    said = [*dict.fromkeys(record.label for record in records if record is not None), *untold]
    return f"{label}: {', '.join(said)}" if said else ""
