"""What may stand after an equals sign, where that is known: names, presets, choices, paths. Imports no torch.

An option is a text and what it is. Plugins are read as `clf list` reads them, from their source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from cl_framework.errors import ClfError
from cl_framework.listing import SECTIONS, Card, Field, describe
from cl_framework.presets import NAMED, headline, preset_names
from cl_framework.registry import GROUPS, find, plugins

Options = Sequence[tuple[str, str]]
"""Texts, and what each is."""

_WORDS = {"phase": ("single", "tuning", "evaluation"), "launcher": ("sequential", "vector", "local", "ray"),
          "defaults": ("true", "false"), "baselines": ("true", "false"), "shell": ("bash", "zsh", "fish")}
_WORDS_OF_VERB = {
    ("report", "format"): ("text", "json", "csv", "markdown", "html", "latex", "png"),
    ("diagnose", "format"): ("text", "json", "csv"),
    ("list", "kind"): (*GROUPS, *NAMED), ("new", "kind"): ("strategy", "scenario", "metric", "model"),
    ("show", "train"): ("recipe",), ("show", "trainer"): ("hardware",), ("show", "track"): ("tracking",),
    ("show", "search"): ("search",), ("dashboard", "mode"): ("auto", "online", "offline")}
_PLUGINS = {**dict(zip(GROUPS, GROUPS, strict=True)), "get": "dataset", "against": "strategy"}
_PATHS = ("run", "runs", "out", "tuned", "base", "experts")
_OF_SEARCHES = ("tune", "protocol")
"""Verbs whose `protocol` is a preset; elsewhere it is a path."""


def options_of(verb: str, key: str, text: str, field: Field | None) -> Options:
    """What a value may be.

    Args:
        verb: the verb of the command.
        key: the key before the equals sign.
        text: the value so far; paths depend on it.
        field: the field that the key names, None where it names none.
    """
    words = _WORDS_OF_VERB.get((verb, key), _WORDS.get(key, ()) if field is None else choices(field))
    if words:
        return [(word, "") for word in words]
    if key in _PLUGINS and field is None:
        return [(name, "" if card is None else card.summary) for name, card in _cards(_PLUGINS[key]).items()]
    if key == "experiment" or (key == "protocol" and verb in _OF_SEARCHES):
        return [(name, headline(key, name)) for name in preset_names(key)]
    return list(paths(text)) if key in (*_PATHS, "protocol") or text.startswith((".", "/", "~")) else []


def choices(field: Field) -> Sequence[str]:
    """The values that a field declares: those of a Literal, a boolean's, the grid of a `tunable`.

    >>> choices(Field("start", "Literal['base', 'last'] | None", "'base'", "Where from."))
    ['base', 'last', 'null']
    """
    literal = re.search(r"Literal\[(.*?)\]", field.kind)
    found = [str(value) for value in ast.literal_eval(f"({literal[1]},)")] if literal else []
    found += ["true", "false"] if re.search(r"\bbool\b", field.kind) else []
    found += ["null"] if "None" in field.kind else []
    grid = field.default.partition("(tunable: ")[2].rstrip(")")
    return [*found, *(value for value in grid.split(", ") if value not in ("", *found))]


def paths(text: str) -> Iterator[tuple[str, str]]:
    """Files and folders that begin with a text; hidden ones only where it asks for them."""
    folder, _, start = text.rpartition("/")
    head = text[: len(text) - len(start)]
    place = Path(head or ".").expanduser() if folder or head else Path()
    try:
        for path in sorted(place.iterdir()):
            if path.name.startswith(start) and (start.startswith(".") or not path.name.startswith(".")):
                yield f"{head}{path.name}{'/' if path.is_dir() else ''}", ""
    except OSError:  # there is nothing to offer
        return


def fields_of(group: str, name: str) -> Sequence[Field]:
    """The fields of a plugin or of a section such as `train`; none where its source cannot be read."""
    card = _card(EntryPoint(group, SECTIONS[group], "")) if group in SECTIONS else None
    try:
        card = card or _card(find(group, name))
    except ClfError:
        return ()
    return () if card is None else card.fields


@cache
def _cards(kind: str) -> Mapping[str, Card | None]:
    return {name: _card(point) for name, point in plugins(kind).items()}


def _card(point: EntryPoint) -> Card | None:
    try:
        return describe(point)
    except Exception:  # a broken plugin is a name without a description
        return None
