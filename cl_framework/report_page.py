"""The report as one page of HTML, its figures as .png, or its tables as LaTeX: `clf report runs=... out=report.html`.

The page holds its style, its data and the libraries that draw it (Vega and Vega-Lite, BSD-3), and loads nothing. Texts
of configurations and plugins are escaped by the template, data by its JSON. The same runs give the same bytes.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from cl_framework.errors import ConfigError
from cl_framework.files import write_atomic
from cl_framework.page_content import content, figures
from cl_framework.page_latex import as_latex
from cl_framework.page_theme import PAGE, PAPER
from cl_framework.pairing import DEFAULT
from cl_framework.report import groups, measure_named
from cl_framework.summaries import read_runs
from cl_framework.wandb_keys import HEAT_TURN

_VEGA_LITE = "6.4"
_WIDTH = 520
_DOTS = 2.0


def write_page(path: Path, file: Path, metric: str = DEFAULT.name, against: str | None = None) -> Path:
    """Write the page; the file.

    Args:
        path: a folder with run folders below it.
        file: the page, replaced where it is there.
        metric: what strategies are compared by.
        against: the strategy that the others are compared with; the best when None.

    Raises:
        ConfigError: the folder of the file is not there, nothing to report, or the extra `report` is not installed.
    """
    _is_there(file.parent, f"out={file}")
    library = _library()
    page = content(path, metric, against, PAGE)
    from jinja2 import Environment, PackageLoader, StrictUndefined

    template = Environment(loader=PackageLoader("cl_framework"), autoescape=True, undefined=StrictUndefined,
                           trim_blocks=True, lstrip_blocks=True).get_template("report.html")
    write_atomic(file, template.render(
        page=page, version=version("cl-framework"), library=_script(library), heat_turn=HEAT_TURN) + "\n")
    return file


def write_pictures(path: Path, folder: Path, metric: str = DEFAULT.name, against: str | None = None) -> list[Path]:
    """Write every figure of the page as a .png; the files.

    Args:
        path: a folder with run folders below it.
        folder: where they go.
        metric: what strategies are compared by.
        against: the strategy that the others are compared with; the best when None.

    Raises:
        ConfigError: the folder above is not there, nothing to report, or the extra `report` is not installed.
    """
    _is_there(folder.parent, f"out={folder}")
    library = _library()
    files = list[Path]()
    for title, figure in figures(content(path, metric, against, PAPER), PAPER):
        stem = re.sub(r"[^\w.=+-]+", "_", f"{figure.name} {title}").strip("_")
        twins = sum(file.stem.rpartition("~")[0] == stem or file.stem == stem for file in files)
        file = folder / f"{stem}{f'~{twins + 1}' if twins else ''}.png"
        spec = {**figure.spec, "width": _WIDTH, "autosize": "pad"}
        write_atomic(file, library.vegalite_to_png(spec, vl_version=_VEGA_LITE, scale=_DOTS))
        files.append(file)
    return files


def print_latex(path: Path, metric: str = DEFAULT.name, against: str | None = None) -> None:
    """Print the leaderboards as LaTeX; what is left out is named on stderr.

    Args:
        path: a folder with run folders below it.
        metric: what strategies are compared by.
        against: the strategy that the others are compared with; the best when None.

    Raises:
        ConfigError: there is no finished run, or no such metric or strategy.
    """
    found = groups(path)
    print(as_latex(found, measure_named(metric, found), against))
    for note in read_runs(path).notes():
        print(f"clf: {note}", file=sys.stderr)


def _is_there(folder: Path, key: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} for {key}; make it, or name another place with out=PATH")


@cache
def _script(library: ModuleType) -> str:
    """Vega, Vega-Lite and what puts them on a page, as the content of a script element."""
    script: str = library.javascript_bundle(vl_version=_VEGA_LITE)
    return script.replace("</script", r"<\/script")


def _library() -> ModuleType:
    """Draws figures without a browser, and holds the script that draws them in one.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module("vl_convert")
    except ImportError:
        raise ConfigError("pages and pictures of a report need the package vl-convert-python; install it with: "
                          "pip install 'cl-framework[report]'") from None
