"""`clf new`: a plugin of one's own as a small package that can be installed and passes its tests as it is written.

The plugin itself is one of the modules `new_strategy`, `new_scenario`, `new_metric` and `new_model`, working code that
is copied with its names exchanged. The folder appears when it is whole.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from cl_framework import __version__
from cl_framework.errors import ConfigError
from cl_framework.grammar import Command
from cl_framework.keys import take
from cl_framework.new_texts import PRESETS, PYPROJECT, README, TESTS
from cl_framework.presets import preset_names
from cl_framework.registry import GROUPS, contested, plugins, unknown

KINDS = tuple(TESTS)
"""What can be begun."""

_LONGEST = 40


def new_verb(command: Command) -> int:
    """Begin a plugin of your own: a package that can be installed."""
    given = take(command, ["kind", "name", "out"])
    if "kind" not in given or "name" not in given:
        raise ConfigError("say what to begin, and its name: clf new strategy name=my_method (or "
                          f"{', '.join(KINDS[1:])})")
    kind, name = str(given["kind"]), str(given["name"])
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    folder = write_package(kind, name, Path(str(given.get("out", "."))))
    print(f"wrote {folder}\n" + "".join(f"  {path.relative_to(folder)}\n" for path in sorted(folder.rglob("*.*"))))
    print(f"next:\n  pip install -e {folder}\n  clf train experiment={name}\n"
          + (f"  clf check {kind}={name}\n" if kind != "model" else "") + f"  pytest {folder}")
    return 0


def write_package(kind: str, name: str, out: Path) -> Path:
    """Write the package of a plugin, all of it or nothing; its folder, `<out>/<name>`.

    Raises:
        ConfigError: the name cannot be used, the folder is there, or nothing can be written.
    """
    folder = out / name
    _check_name(kind, name)
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} is there already; choose another name, another out=DIR, or remove it")
    _check_free(kind, name)
    draft = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out))
        for path, text in package(kind, name).items():
            (draft / path).parent.mkdir(parents=True, exist_ok=True)
            (draft / path).write_text(text, encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; choose another folder with out=DIR") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)  # gone where it was renamed
    return folder


def package(kind: str, name: str) -> Mapping[str, str]:
    """The files of a package by their paths in it.

    >>> sorted(package("metric", "worst"))[-2:]
    ['src/worst/configs/experiment/worst.yaml', 'tests/test_worst.py']
    """
    plugin = name if kind == "metric" else class_name(name)
    check = f"clf check {kind}={name}" if kind != "model" else f"clf show model={name}"
    tests = "the conformance suite, and an equation" if kind != "model" else "shapes, rows and a stream"
    texts = {"pyproject.toml": PYPROJECT.format(kind=kind, version=__version__, group=GROUPS[kind], plugin=plugin),
             "README.md": README.format(kind=kind, check=check, tests=tests),
             "src/my_method/__init__.py": _template(kind),
             "src/my_method/configs/experiment/my_method.yaml": PRESETS[kind],
             "tests/test_my_method.py": TESTS[kind]}
    return {path.replace("my_method", name): text.replace("MyMethod", class_name(name)).replace("my_method", name)
            for path, text in texts.items()}


def class_name(name: str) -> str:
    """The name of a plugin's class.

    >>> class_name("my_method")
    'MyMethod'
    """
    return "".join(word.capitalize() for word in name.split("_"))


def _template(kind: str) -> str:
    return (files("cl_framework") / f"new_{kind}.py").read_text(encoding="utf-8")


def _check_name(kind: str, name: str) -> None:
    """A name is a module, a package, a class or function, and a folder."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        raise ConfigError(f"name={name} cannot name a package; take lower-case words of letters and digits, joined by "
                          f"underscores, no keyword of Python, at most {_LONGEST} signs: name=my_method")
    made = name if kind == "metric" else class_name(name)
    used = {node.id for node in ast.walk(ast.parse(_template(kind) + TESTS[kind])) if isinstance(node, ast.Name)}
    if made in (used - {"MyMethod", "my_method"}) | {*dir(builtins)} or keyword.iskeyword(made):
        raise ConfigError(f"name={name} would define {made}, which means something else there; choose another name")


def _check_free(kind: str, name: str) -> None:
    """A name is not another plugin's, preset's or module's."""
    if name in plugins(kind) or name in contested(kind):
        raise ConfigError(f"there is a {kind} '{name}' already; choose another name (`clf list kind={kind}` shows "
                          "those that are taken)")
    if name in preset_names("experiment"):
        raise ConfigError(f"there is a preset experiment={name} already; choose another name")
    spec = find_spec(name)
    if spec is not None and spec.origin is not None and Path(spec.origin).parent != Path.cwd():
        raise ConfigError(f"there is a module '{name}' already ({spec.origin}), which the package would hide; choose "
                          "another name")
