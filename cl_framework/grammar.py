"""The command line's grammar: `clf VERB {KEY=VALUES}`.

    KEY     name{.name}             VALUES  VALUE{,VALUE}
    VALUE   INT..INT (inclusive) | scalar | [list] | {map}

Only `true` and `false` are booleans and only `null` is nothing, so `track.wandb=off` stays a word.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.plain_files import from_yaml

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_][\w:]*)*")
_RANGE = re.compile(r"([+-]?\d+)\.\.([+-]?\d+)")
_INT = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")
_WORDS = {"true": True, "false": False, "null": None}
_BRACKETS = {"[": "]", "{": "}"}
_MOST = 10_000
_MOST_DIGITS = 20
_LONGEST_SHOWN = 200
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
OPTIONS = ("--help", "--version", "--debug")
NOUNS = {"new": "kind"}
"""Verbs that may be followed by a word without a key, and the key that it stands for: `clf new strategy name=mine`."""


@dataclass(frozen=True)
class Command:
    """One command line: a verb, the values of each key in order, and the dashed options."""

    verb: str
    values: dict[str, list[Any]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()

    def product(self) -> Iterator[dict[str, Any]]:
        """One choice of values for each combination; the last key varies fastest."""
        for choice in itertools.product(*self.values.values()):
            yield dict(zip(self.values, choice, strict=True))


def parse(arguments: Sequence[str]) -> Command:
    """Read a command line.

    Raises:
        ConfigError: shows every word that is no KEY=VALUES and every key given twice.

    >>> parse(["train", "seed=0..2", "strategy=er,lwf"]).values
    {'seed': [0, 1, 2], 'strategy': ['er', 'lwf']}
    """
    verb, values, options, faults = "", dict[str, list[Any]](), set[str](), list[str]()
    for word in arguments:
        key, equals, text = word.partition("=")
        if _UNREADABLE.search(word):
            faults.append(f"{_short(ascii(word))} has bytes that are no UTF-8; give it another name")
        elif word in OPTIONS or word == "-h":
            options.add("--help" if word == "-h" else word)
        elif word.startswith("-"):
            faults.append(f"unknown option '{word}'; the options are {', '.join(OPTIONS)}, all else is KEY=VALUE")
        elif not equals and NOUNS.get(verb, "") not in ("", *values):
            values[NOUNS[verb]] = [word]
        elif not equals:
            if verb:
                faults.append(f"'{word}' is no KEY=VALUE; write e.g. strategy={word} or seed=0..4")
            verb = verb or word
        elif not _KEY.fullmatch(key):
            faults.append(f"'{key}' is no key; keys look like seed or strategy.memory_size")
        elif key in values:
            faults.append(f"'{key}' is given twice; several values of one key are separated by commas: {key}=a,b")
        else:
            try:
                values[key] = parse_values(text)
            except ConfigError as error:
                faults += [f"{key}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return Command(verb, values, frozenset(options))


def parse_values(text: str) -> list[Any]:
    """The values after an equals sign.

    >>> parse_values("0..2,7"), parse_values("1e-3"), parse_values("[1,2],[3]")
    ([0, 1, 2, 7], [0.001], [[1, 2], [3]])
    """
    values: list[Any] = []
    for piece in _split(text):
        span = _RANGE.fullmatch(piece)
        if span is None:
            values.append(scalar(piece))
            continue
        first, last = _whole(span[1]), _whole(span[2])
        if last < first:
            raise ConfigError(f"the range {piece} is empty; write {last}..{first}")
        if last - first >= _MOST:
            raise ConfigError(f"the range {piece} has {last - first + 1} values; at most {_MOST} fit one command")
        values += range(first, last + 1)
    return values


def scalar(text: str) -> Any:
    """One value: a word of `true`, `false`, `null`; a number; a quoted text; a [list] or {map}; else itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return _whole(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text[:1] in ("[", "{", "'", '"'):
        try:
            value = from_yaml(text)
        except ValueError as error:
            raise ConfigError(f"cannot read {_short(text)}; is a bracket or a quote missing? ({error})") from None
        return value if isinstance(value, str) else _numbers(value)
    return text


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ConfigError(f"{_short(text)} has {len(text)} digits; a whole number has at most {_MOST_DIGITS}")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a text; inside brackets it is a number like anywhere else."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _numbers(item) for key, item in value.items()}
    is_number = isinstance(value, str) and "e" in value.lower() and _FLOAT.fullmatch(value)
    return float(value) if is_number else value


def _split(text: str) -> list[str]:
    """Cut at commas outside brackets and quotes."""
    pieces, closers, quote = [""], list[str](), ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in _BRACKETS:
            closers.append(_BRACKETS[sign])
        elif closers and sign == closers[-1]:
            closers.pop()
        elif sign == "," and not closers:
            pieces.append("")
            continue
        pieces[-1] += sign
    if closers or quote:
        raise ConfigError(f"cannot read {_short(text)}; {closers[-1] if closers else quote} is missing at the end")
    if any(not piece for piece in pieces):
        raise ConfigError("a value is empty; write null for nothing")
    return pieces
