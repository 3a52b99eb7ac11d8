"""What `clf list` and `clf show` say: read from source text, so that neither torch nor a plugin is imported."""

from __future__ import annotations

import ast
import inspect
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint
from importlib.util import resolve_name
from pathlib import Path

from cl_framework.errors import ConfigError

SECTIONS = {"train": "cl_framework.recipe:Recipe", "trainer": "cl_framework.hardware:Hardware",
            "track": "cl_framework.job:Tracking", "search": "cl_framework.search:Search"}
"""Sections of a configuration that are no plugin's, and where their fields are."""


@dataclass(frozen=True)
class Field:
    """A field of a plugin: its name, type and default as written, and its docstring."""

    name: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True)
class Card:
    """What a plugin says of itself."""

    name: str
    path: str
    summary: str
    text: str
    module_text: str
    fields: tuple[Field, ...]


def describe(point: EntryPoint) -> Card:
    """The card of a plugin, from its source.

    Raises:
        ConfigError: its source cannot be found or read.
    """
    if point.pattern.match(point.value) is None or not point.attr:
        raise ConfigError(f"'{point.value}' names no class or object; expected package.module:Class in the entry "
                          "points of its package")
    return _card(point.name, point.value, point.module, _parse(point.module), point.attr)


def describe_class(cls: type) -> Card:
    """The card of a class that is already imported, wherever its file lies."""
    source = Path(inspect.getfile(cls))
    return _card(cls.__name__, f"{cls.__module__}:{cls.__name__}", cls.__module__, ast.parse(source.read_bytes()),
                 cls.__name__)


def _card(name: str, path: str, module: str, tree: ast.Module, attribute: str) -> Card:
    node = _definition(tree, attribute)
    if node is None:
        raise ConfigError(f"there is no '{attribute}' in {module}")
    text = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else _text_after(tree, node)
    fields = _fields(module, tree, node) if isinstance(node, ast.ClassDef) else {}
    return Card(name, path, (text or "").partition("\n")[0], text or "", ast.get_docstring(tree) or "",
                tuple(fields.values()))


@cache
def _parse(module: str) -> ast.Module:
    spec = spec_of(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"there is no module '{module}'; is its package installed?")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its author's escapes
            return ast.parse(Path(spec.origin).read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{spec.origin} cannot be read: {error or type(error).__name__}") from error


def spec_of(module: str) -> ModuleSpec | None:
    """Where a module is, found as an import finds it, but without importing the packages that it lies in."""
    spec, places = None, None
    for depth in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:depth])
        found = (finder.find_spec(name, places) for finder in sys.meta_path)
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return None
        places = _places(spec)
    return spec


def _places(spec: ModuleSpec) -> Sequence[str]:
    return [] if spec.submodule_search_locations is None else list(spec.submodule_search_locations)


def _definition(tree: ast.Module, name: str) -> ast.stmt | None:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
            node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node
    return None


def _text_after(tree: ast.Module, node: ast.stmt | None) -> str:
    """The `description` given to an object where it is made, or the docstring below the assignment."""
    if node is None:
        return ""
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
        for keyword in node.value.keywords:
            if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    rest = tree.body[tree.body.index(node) + 1:]
    return _string(rest[0]) if rest else ""


def _string(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def _fields(module: str, tree: ast.Module, node: ast.ClassDef,
            seen: frozenset[str] = frozenset()) -> dict[str, Field]:
    """Fields of a class and of its bases, the bases' first; `seen` are the classes and imports that led here."""
    found: dict[str, Field] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= _inherited(module, tree, base.id, seen | {f"class {module}:{node.name}"})
    for statement, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if not kind.startswith("ClassVar"):
            name = statement.target.id
            found[name] = Field(name, kind, _default(statement.value), _string(after))
    return found


def _inherited(module: str, tree: ast.Module, name: str, seen: frozenset[str]) -> dict[str, Field]:
    node = _definition(tree, name)
    if isinstance(node, ast.ClassDef) and f"class {module}:{name}" not in seen:
        return _fields(module, tree, node, seen)
    spec, step = spec_of(module), f"import {module}:{name}"
    for statement in tree.body:
        if not isinstance(statement, ast.ImportFrom) or spec is None or step in seen:
            continue
        original = next((alias.name for alias in statement.names if (alias.asname or alias.name) == name), None)
        if original is not None:
            try:
                home = resolve_name("." * statement.level + (statement.module or ""), spec.parent)
                return _inherited(home, _parse(home), original, seen | {step}) if "." in home else {}
            except (ConfigError, ImportError):  # a base without a source of its own
                return {}
    return {}


def _default(value: ast.expr | None) -> str:
    """The default as a user would write it."""
    if not isinstance(value, ast.Call):
        return "" if value is None else ast.unparse(value)
    called = ast.unparse(value.func)
    if called in ("tunable", "bounded", "told") and value.args:
        grid = value.args[1:]
        text = ast.unparse(value.args[0])
        return text + (f"  (tunable: {', '.join(ast.unparse(item) for item in grid)})" if grid else "")
    for keyword in value.keywords:
        if called == "field" and keyword.arg == "default_factory":
            factory = keyword.value
            return ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else ast.unparse(factory) + "()"
    return ast.unparse(value)
