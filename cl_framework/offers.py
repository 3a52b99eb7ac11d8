"""What installed packages offer: entry points by group and name, read so that a broken package takes nothing down.

Listing imports no package. An import is asked for by name, what it prints goes to stderr, and its failure is an error
of that plugin alone. No guard in Python holds against an import that never ends or kills the process, and other
libraries read damaged lists of entry points without a guard.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from typing import Any

from cl_framework.errors import ConfigError, PluginError, Stopped

_LOG = logging.getLogger(__name__)
_PREFIX = "cl_framework."


@cache
def offers(group: str) -> Mapping[str, Sequence[EntryPoint]]:
    """The entry points of a group by name, in the order of their names; several where packages disagree."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(_points().get(group, []), key=lambda each: (each.name, each.value)):
        others = found.setdefault(point.name, [])
        if point.value not in [other.value for other in others]:
            others.append(point)
    return found


@cache
def _points() -> Mapping[str, Sequence[EntryPoint]]:
    """All entry points for us by group. Of two installations of one package the first on the path counts."""
    found: dict[str, list[EntryPoint]] = {}
    packages = set[str]()
    for distribution in distributions():
        try:
            points = [point for point in distribution.entry_points if point.group.startswith(_PREFIX)]
            name = distribution.metadata["Name"].lower() if points else ""
        except Exception as error:  # whatever a damaged file makes of the library's reader
            _LOG.warning("a package is left out, its entry points cannot be read (%s: %s); install it anew: %s",
                         type(error).__name__, error, distribution.locate_file(""))
            continue
        if points and name not in packages:
            packages.add(name)
            for point in points:
                found.setdefault(point.group, []).append(point)
    return found


def contest(kind: str, points: Sequence[EntryPoint]) -> str:
    """The sentence for a name that several packages offer; it names each of them."""
    *most, last = [f"{'?' if point.dist is None else point.dist.name} ({point.value})" for point in points]
    return (f"{'two' if len(points) == 2 else len(points)} packages offer the {kind} '{points[0].name}': "
            f"{', '.join(most)} and {last}; uninstall all but one, or name what you mean by its path: "
            "package.module:Class")


def usable(kind: str, group: str) -> list[EntryPoint]:
    """One entry point for each name of a group, those of our own first.

    A name that several packages offer stays ours, or is nobody's; a warning names the packages.
    """
    found = []
    for points in offers(group).values():
        if len(points) > 1:
            _LOG.warning("%s", contest(kind, points))
        own = [point for point in points if point.value.startswith(_PREFIX)]
        found += (own or [*points])[:1] if own or len(points) == 1 else []
    return sorted(found, key=lambda point: (not point.value.startswith(_PREFIX), point.name))


def imported(kind: str, point: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        ConfigError: there is no such module, or nothing of this name in it.
        PluginError: it fails while it is imported.
    """
    label = f"{kind} '{point.name}'"
    if point.pattern.match(point.value) is None:
        raise PluginError(f"{label} is declared as {point.value!r}; expected package.module:Class in the entry points "
                          "of its package")
    try:
        with redirect_stdout(sys.stderr):
            import_module(point.module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{label} cannot be imported: {error}; is its package installed, or its file in the folder "
                          "you stand in?") from error
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # sys.exit, and a panic of an extension in Rust, are no Exception
        raise PluginError(f"{label} fails when it is imported: {type(error).__name__}: {error}") from error
    try:
        return point.load()
    except AttributeError as error:
        raise ConfigError(f"{label} does not exist: {error}") from error


def outside_packages() -> Iterator[str]:
    """The top-level packages outside the framework that offer plugins, in the order of their names; imports none."""
    modules = {point.value.partition(":")[0].partition(".")[0].strip() for points in _points().values()
               for point in points}
    yield from sorted(name for name in modules - {_PREFIX.rstrip(".")} if name.isidentifier())
