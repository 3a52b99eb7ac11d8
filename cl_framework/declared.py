"""What a preset of configs/protocol/ declares, and where a search departs from it: then it is not that protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cl_framework.presets import preset
from cl_framework.search import Search

_CHANGED = " (changed: "


def departures(name: str, search: Mapping[str, Any], chosen: Mapping[str, Any], space: Collection[str]) -> list[str]:
    """The keys of `search.*` and `train.*` that are not as the preset declares them.

    Of `search` every field counts, also one that the preset leaves at its default; of `train` those that it names.
    `search.evaluate` is the command's to say, as the scenario is, where the preset names no stream.

    Args:
        name: of the preset.
        search: the section of the search.
        chosen: dotted keys of every run; those of the recipe are looked at.
        space: the keys that are searched, which have no value of their own.

    Raises:
        ConfigError: there is no such preset.
    """
    layer = preset("protocol", name, must_exist=True)
    own = {key.removeprefix("search."): value for key, value in layer.items() if key.startswith("search.")}
    expected = vars(Search(**own))
    free = ["storage"] if expected["evaluate"] else ["storage", "evaluate"]
    found = [f"search.{key}" for key, value in expected.items() if key not in free and search.get(key, value) != value]
    return found + [key for key, value in layer.items()
                    if key.startswith("train.") and key not in space and chosen.get(key, value) != value]


def labelled(name: str, changed: Sequence[str]) -> str:
    """The name that a protocol goes by, with the keys that were changed.

    >>> labelled("gtep", []), labelled("gtep", ["search.sampler", "train.optimizer"])
    ('gtep', 'gtep (changed: search.sampler, train.optimizer)')
    """
    return f"{name}{_CHANGED}{', '.join(dict.fromkeys(changed))})" if changed else name


def changed_keys(label: str) -> str:
    """What a label says was changed; empty where nothing was.

    >>> changed_keys("gtep (changed: search.sampler)"), changed_keys("gtep")
    ('search.sampler', '')
    """
    return label.partition(_CHANGED)[2].removesuffix(")")
