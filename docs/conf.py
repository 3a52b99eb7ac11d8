"""The site: `make site` builds it from these pages and the docstrings. Nothing is loaded from a network."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import cl_framework

HERE = Path(__file__).parent
NAVIGATION = {
    "Begin": ["concepts", "faq"],
    "Use": ["command-line", "strategies", "fast-slow", "scenarios", "models", "many-runs", "diagnostics", "report",
            "wandb"],
    "Trust": ["protocol", "results", "reproducing", "run-folder", "reliability", "performance", "security"],
    "Extend": ["authoring", "architecture", "site/api"],
    "Other frameworks": ["comparison", "from-avalanche", "from-mammoth", "from-pycil"],
    "Project": ["site/changelog", "site/contributing", "site/reporting-holes"],
}
"""Pages by caption; one that does not exist is left out."""
COPIES = {"site/changelog": "CHANGELOG.md", "site/contributing": "CONTRIBUTING.md",
          "site/reporting-holes": "SECURITY.md"}
"""Pages whose text is a file at the top of the repository."""

project = "cl_framework"
author = "The cl_framework authors"
project_copyright = "2026, the cl_framework authors"
version = release = cl_framework.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_site"]
myst_heading_anchors = 4
myst_enable_extensions = ["smartquotes"]
suppress_warnings = ["misc.highlighting_failure"]  # transcripts of terminals are no language
default_role = "code"
highlight_language = "text"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
html_theme = "furo"
html_title = f"cl_framework {release}"
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # a page opened from a folder may not fetch others
html_css_files = ["site.css"]
html_static_path = ["site/static"]
_CODE = re.compile(r"(`[^`]*`)")


def prepared(app: Sphinx, page: str, source: list[str]) -> None:
    """Fill the pages that are copies, keep links inside the site, and give the first page its tables of contents."""
    if page in COPIES:
        text = (HERE.parent / COPIES[page]).read_text()
        source[0] = text.replace("](docs/", "](../").replace("[MIT licence](LICENSE)", "MIT licence")
    for inside, file in COPIES.items():
        target = inside.removeprefix("site/") if page in COPIES else inside
        source[0] = source[0].replace(f"]({file})", f"]({target}.md)").replace(f"](../{file})", f"]({target}.md)")
    if page == "index":
        for caption, pages in NAVIGATION.items():
            there = "\n".join(name for name in pages if (HERE / f"{name}.md").exists())
            source[0] += f"\n\n```{{toctree}}\n:caption: {caption}\n:hidden:\n:maxdepth: 1\n\n{there}\n```\n"


def as_text(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Docstrings here are plain sentences: outside of code, `*`, `|` and a trailing `_` are signs of equations."""
    is_code = False
    for k, line in enumerate(lines):
        is_code = line.lstrip().startswith(">>>") or (is_code and bool(line.strip()))
        if not is_code:
            parts = _CODE.split(line)
            parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[k] = "".join(parts)
    if what == "attribute" and lines and ":" in lines[0]:
        lines[:0] = ["..", ""]  # else napoleon takes what stands before the colon for a type


def setup(app: Sphinx) -> None:
    """Hooks of the build."""
    app.connect("source-read", prepared)
    app.connect("autodoc-process-docstring", as_text, priority=400)
