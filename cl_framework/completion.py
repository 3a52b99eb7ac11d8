"""`clf completion`: what can come next on a command line, for bash, zsh and fish. Imports no torch.

A shell runs `clf completion` with the line up to its cursor in the environment variable CLF_COMPLETE, and gets the
candidates for the last word; without that variable the verb prints the script that makes a shell ask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from cl_framework.completion_scripts import SCRIPTS
from cl_framework.completion_values import Options, fields_of, options_of
from cl_framework.errors import ClfError, ConfigError
from cl_framework.grammar import NOUNS, OPTIONS, Command
from cl_framework.keys import LAUNCHING, take
from cl_framework.listing import Field
from cl_framework.presets import preset
from cl_framework.registry import GROUPS, unknown

ASKED = "CLF_COMPLETE"
"""The environment variable with the line up to the cursor."""

_RUNS = ("scenario", "strategy", "model", "experiment", "out", *LAUNCHING)
_SEARCHES = (*_RUNS, "protocol", "search.")
_SECTIONS = ("scenario.", "strategy.", "model.", "train.", "trainer.", "track.")
KEYS: Mapping[str, Sequence[str]] = {
    "train": (*_RUNS, "seed", "order_seed", "phase", *_SECTIONS), "tune": (*_SEARCHES, *_SECTIONS),
    "protocol": (*_SEARCHES, "defaults", "baselines", *_SECTIONS),
    "evaluate": ("tuned", "out", "defaults", *LAUNCHING), "resume": ("run",), "watch": ("run",),
    "report": ("runs", "format", "metric", "against", "out", "protocol", "experiment"),
    "diagnose": ("run", "format", "out"), "list": ("kind",), "data": ("get",), "completion": ("shell",),
    "show": (*GROUPS, "train", "trainer", "track", "search"), "check": ("strategy", "scenario", "metric", "protocol"),
    "merge": ("base", "experts", "method", "out", "keep", "embeddings", "seed"), "new": ("kind", "name", "out"),
    "dashboard": ("entity", "project", "mode", "out", "runs"),
    "sweep": ("scenario", "strategy", "model", "experiment", "out", "runs", "search.", *_SECTIONS),
}
"""The keys of each verb; one that ends in a dot is a section."""

_ONE_VALUE = ("run", "runs", "out", "tuned", "name")


def completing(verbs: Mapping[str, Callable[[Command], int]]) -> Callable[[Command], int]:
    """The verb, given all verbs of `clf`; the first line of a verb's docstring says what it does."""
    def completion_verb(command: Command) -> int:
        """Let your shell complete verbs, keys and names."""
        if ASKED in os.environ:
            helps = {name: (verb.__doc__ or "").partition("\n")[0] for name, verb in verbs.items()}
            for text, what in candidates(os.environ[ASKED], helps):
                print(f"{text}\t{what}" if what else text)
            return 0
        shell = str(take(command, ["shell"]).get("shell", ""))
        if shell not in SCRIPTS:
            raise ConfigError(unknown("shell", shell, SCRIPTS) if shell else
                              f"say for which shell: clf completion shell=bash (or {', '.join([*SCRIPTS][1:])})")
        print(SCRIPTS[shell], end="")
        return 0
    return completion_verb


def candidates(line: str, verbs: Mapping[str, str]) -> Options:
    """What the last word of a line may become: whole words, and what each is.

    Args:
        line: the command line up to the cursor, `clf` first.
        verbs: the verbs, and what each does.

    >>> candidates("clf tra", {"train": "Learn streams.", "tune": ""})
    [('train', 'Learn streams.')]
    >>> candidates("clf train phase=single,t", {"train": ""})
    [('phase=single,tuning', '')]
    """
    *before, last = [*line.split()[1:], *[""] * (not line or line[-1].isspace())] or [""]
    verb = next((word for word in before if "=" not in word and not word.startswith("-")), "")
    if last.startswith("-"):
        found: Options = [(option, "") for option in OPTIONS]
    elif not verb:
        found = list(verbs.items())
    else:
        given = {key: text for key, equals, text in (word.partition("=") for word in before) if equals}
        found = list(_values(verb, last, given) if "=" in last else _keys(verb, last, given, before))
    return [(text, what) for text, what in found if text.startswith(last)]


def _keys(verb: str, last: str, given: Mapping[str, str], before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The keys that are not given yet; the fields of a section once it is named."""
    if verb in NOUNS and NOUNS[verb] not in given and before[-1:] == [verb]:
        yield from options_of(verb, NOUNS[verb], "", None)
    for key in KEYS.get(verb, ()):
        if not key.endswith("."):
            yield from [(f"{key}=", "")] * (key not in given)
        elif last.startswith(key):
            yield from ((f"{name}=", " ".join(field.text.split())) for name, field in _fields(key[:-1], given).items()
                        if name not in given)
        else:
            yield key, ""


def _values(verb: str, last: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Values of a key, the last of several; the parts of a chain of strategies one by one."""
    key, _, text = last.partition("=")
    field = _fields(key.partition(".")[0], given).get(key) if "." in key else None
    end = 0 if key in _ONE_VALUE else max(text.rfind(sign) for sign in (",+" if key == "strategy" else ",")) + 1
    used = re.split("[,+]", text[:end])
    for option, what in options_of(verb, key, text[end:], field):
        if option not in used:
            yield f"{key}={text[:end]}{option}", what


def _fields(section: str, given: Mapping[str, str]) -> dict[str, Field]:
    """The fields of a section by their keys, of the plugins that the line or its experiment names."""
    try:
        names = {**preset("experiment", given.get("experiment", "")), **given}
    except ClfError:
        names = dict(given)
    chosen = str(names.get(section, "mlp" if section == "model" else ""))
    parts = list(dict.fromkeys(re.split("[,+]", chosen)))
    found: dict[str, Field] = {}
    for part in parts:
        prefix = f"{section}.{part}" if section == "strategy" and len(parts) > 1 else section
        found |= {f"{prefix}.{field.name}": field for field in fields_of(section, part)}
    return found
