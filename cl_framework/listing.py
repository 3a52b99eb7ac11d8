"""What `clf list` and `clf show` say: read from source text, so that neither torch nor a plugin is imported."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec, resolve_name
from pathlib import Path

from cl_framework.errors import ConfigError


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
        ConfigError: its source cannot be found.
    """
    return _card(point.name, point.value, point.module, _parse(point.module), point.attr)


def describe_class(cls: type) -> Card:
    """The card of a class that is already imported, wherever its file lies."""
    source = Path(inspect.getfile(cls))
    return _card(cls.__name__, f"{cls.__module__}:{cls.__name__}", cls.__module__, ast.parse(source.read_text()),
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
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"there is no module '{module}'; is its package installed?")
    try:
        return ast.parse(Path(spec.origin).read_text())
    except SyntaxError as error:
        raise ConfigError(f"{spec.origin} cannot be read: {error}") from error


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


def _fields(module: str, tree: ast.Module, node: ast.ClassDef) -> dict[str, Field]:
    """Fields of a class and of its bases, the bases' first."""
    found: dict[str, Field] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= _inherited(module, tree, base.id)
    for statement, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        kind = ast.unparse(statement.annotation)
        if not kind.startswith("ClassVar"):
            name = statement.target.id
            found[name] = Field(name, kind, _default(statement.value), _string(after))
    return found


def _inherited(module: str, tree: ast.Module, name: str) -> dict[str, Field]:
    node = _definition(tree, name)
    if isinstance(node, ast.ClassDef):
        return _fields(module, tree, node)
    for statement in tree.body:
        if not isinstance(statement, ast.ImportFrom):
            continue
        original = next((alias.name for alias in statement.names if (alias.asname or alias.name) == name), None)
        if original is not None:
            home = resolve_name("." * statement.level + (statement.module or ""), module.rpartition(".")[0])
            return _inherited(home, _parse(home), original) if "." in home else {}
    return {}


def _default(value: ast.expr | None) -> str:
    """The default as a user would write it."""
    if not isinstance(value, ast.Call):
        return "" if value is None else ast.unparse(value)
    called = ast.unparse(value.func)
    if called in ("tunable", "bounded") and value.args:
        grid = value.args[1:]
        text = ast.unparse(value.args[0])
        return text + (f"  (tunable: {', '.join(ast.unparse(item) for item in grid)})" if grid else "")
    for keyword in value.keywords:
        if called == "field" and keyword.arg == "default_factory":
            factory = keyword.value
            return ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else ast.unparse(factory) + "()"
    return ast.unparse(value)
