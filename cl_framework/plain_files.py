"""Plain data from files that somebody else may have written: no code, no bomb, no file without an end.

YAML's aliases let ten lines stand for more values than fit in memory, and YAML's and JSON's brackets may be nested
deeper than a reader's stack. What a text stands for is counted before anything is built from it:
https://yaml.org/spec/1.2.2/#71-alias-nodes. Whatever is wrong with a text is a `ValueError` in one line.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cl_framework.errors import ConfigError

try:
    from yaml import CSafeLoader as Loader
except ImportError:
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

MOST_BYTES = 1 << 30
"""Of a file; the summary of a run over 2,000 experiences takes a quarter of it."""
_DEEPEST = 100
_MOST_VALUES = 2_000_000
"""Of a YAML text, every alias counted as what it stands for."""
_LARGEST = 2**64
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_file(path: Path, most: int | None = MOST_BYTES) -> None:
    """Refuse to open what may never begin, and what may never end.

    Args:
        path: what is to be read.
        most: bytes that it may have; None where its reader looks after that.

    Raises:
        OSError: it is not there.
        ValueError: it is a pipe or a device, or larger.
    """
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ValueError("it is a pipe or a device, and no file")
    if most is not None and found.st_size > most:
        raise ValueError(f"it has {found.st_size:,} bytes, at most {most:,} are read")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is a pipe or a device, or larger than `MOST_BYTES`.
    """
    check_file(path)
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is a pipe or a device, larger than `MOST_BYTES`, or not in UTF-8.
    """
    check_file(path)
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no plain file, or no plain data.
    """
    return from_json(read_text(path))


def read_yaml(path: Path) -> Any:
    """What a file of YAML holds.

    Raises:
        OSError: it is not there, or may not be read.
        ValueError: it is no plain file, or no plain data.
    """
    return from_yaml(read_text(path))


def from_json(text: str) -> Any:
    """What a text of JSON stands for.

    Raises:
        ValueError: it is no JSON, too deep, or has numbers or letters that no file of ours has.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"its brackets are nested deeper than {_DEEPEST}") from None
    _check(value)
    return value


def from_yaml(text: str) -> Any:
    """What a text of YAML stands for: texts, numbers, true, false, null, lists and maps of them.

    Raises:
        ValueError: it is no YAML, too deep, too large once its aliases are followed, or holds anything else.

    >>> from_yaml("a: [1, 2]")
    {'a': [1, 2]}
    """
    try:
        _count(text)
        value = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 45th of May, an int without digits
        raise ValueError(" ".join(str(error).split())) from None
    except (AttributeError, TypeError, KeyError, IndexError) as error:  # !!bool maybe, !!int []
        raise ValueError(f"a value does not fit its tag ({error})") from None
    _check(value)
    return value


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """What is asked of a file of ours is there and of its kind; else somebody has changed the file.

    Raises:
        ConfigError: names the file and what was not there.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not hold what clf writes into it ({type(error).__name__}: "
                          f"{' '.join(str(error).split())[:200]}); put the file back, or give the command that wrote "
                          "it again") from error


def _count(text: str) -> None:
    """Refuse what is too deep, too large, or contains itself; nothing is built, and nothing recurses."""
    sizes, open_ones, names = dict[str, int](), [0], list[str | None]()
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append(1)
            names.append(event.anchor)
            if len(open_ones) > _DEEPEST:
                raise ValueError(f"its brackets are nested deeper than {_DEEPEST}")
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = open_ones.pop(), names.pop()
            open_ones[-1] += size
            if name is not None:
                sizes[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            open_ones[-1] += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise ValueError(f"*{event.anchor} contains itself")
            open_ones[-1] += sizes.get(str(event.anchor), 0)
        if open_ones[-1] > _MOST_VALUES:
            raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")


def _check(value: Any) -> None:
    """Refuse what no file of ours has: depth, numbers of more than 64 bits, dates, bytes, sets, halves of letters."""
    left = [([value], 0)]
    while left:
        items, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError(f"its brackets are nested deeper than {_DEEPEST}")
        for item in items:
            if isinstance(item, dict):
                left += [([*item], depth + 1), ([*item.values()], depth + 1)]
            elif isinstance(item, list):
                left.append((item, depth + 1))
            elif isinstance(item, str):
                if not item.isascii() and _SURROGATE.search(item):
                    raise ValueError(f"the text {item[:40]!r} is cut within a letter")
            elif isinstance(item, int):
                if abs(item) > _LARGEST:
                    raise ValueError("it holds a whole number of more than 64 bits")
            elif item is not None and not isinstance(item, float):
                raise ValueError(f"it holds a {type(item).__name__}; quote it to make it a text")
