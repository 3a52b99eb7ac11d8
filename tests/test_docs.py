"""The documentation is whole: links lead somewhere, every strategy and scenario has its parts, and the site builds."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import cl_framework
from cl_framework.registry import plugins

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"arXiv|PNAS|CVPR|ICCV|ECCV|ICML|ICLR|NeurIPS|TPAMI|Psychology of Learning")
SECTIONS = (DOCS / "strategies.md", DOCS / "fast-slow.md")
"""Pages that have a section for each strategy."""


def prose(page):
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Names of the page's headings in links: lower case, spaces to hyphens, signs dropped."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).strip().replace(" ", "-") for title in titles}


def sections():
    """Text of each section of the pages on strategies, by heading."""
    found = {}
    for page in SECTIONS:
        if page.exists():
            for part in re.split(r"^### ", page.read_text(), flags=re.MULTILINE)[1:]:
                title, _, text = part.partition("\n")
                found[title.strip("` ")] = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if anchor and file.suffix == ".md" and file.name != "api.md":
            assert anchor in anchors(file), f"{page.name} links to {target}; headings there are {sorted(anchors(file))}"


@pytest.mark.parametrize("name", sorted(plugins("strategy")))
def test_every_strategy_has_equation_citation_use_and_numbers(name):
    if not plugins("strategy")[name].value.startswith("cl_framework."):
        return
    text = sections().get(name)
    assert text is not None, f"docs/strategies.md has no section '### {name}'"
    missing = [what for what, is_there in {
        "an equation": re.search(r"^    .+|\w = |<-", text, re.MULTILINE) is not None or name == "naive",
        "a citation": CITED.search(text) is not None or name == "source",
        "when it helps": "It helps" in text or "It is meant" in text,
        "a link to its numbers": re.search(r"\*Numbers:\*.*?\]\(", text, re.DOTALL) is not None,
        }.items() if not is_there]
    assert not missing, f"the section on {name} lacks {', '.join(missing)}"


@pytest.mark.parametrize("name", sorted(plugins("scenario")))
def test_every_scenario_has_data_source_use_and_numbers(name):
    if not plugins("scenario")[name].value.startswith("cl_framework."):
        return
    text = (DOCS / "scenarios.md").read_text()
    what, why = (text.partition(heading)[2].partition("\n## ")[0]
                 for heading in ("# Scenarios and data\n", "## Where they come from, and what they are for\n"))
    assert re.search(rf"^\|[^|]*`{name}`", what, re.MULTILINE), f"the first table of scenarios.md lacks {name}"
    row = re.search(rf"^\|[^|]*`{name}`[^|]*\|([^|]+)\|([^|]+)\|([^|]+)\|$", why, re.MULTILINE)
    assert row is not None, f"the table of what scenarios are for lacks {name}"
    assert all(cell.strip() for cell in row.groups()), f"a cell of {name} is empty"


def test_the_reference_has_every_public_name():
    text = (DOCS / "site" / "api.md").read_text()
    missing = [name for name in dir(cl_framework) if not name.startswith("_") and f":: {name}\n" not in text]
    assert not missing, f"docs/site/api.md lacks {missing}"


def test_every_page_is_in_the_navigation():
    source = ast.parse((DOCS / "conf.py").read_text())
    navigation = next(ast.literal_eval(node.value) for node in source.body
                      if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAVIGATION")
    listed = {page for pages in navigation.values() for page in pages} | {"index"}
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md") if "_site" not in page.parts}
    assert pages <= listed, f"docs/conf.py lists no {sorted(pages - listed)}"


def doctests_outside_of_testpaths():
    """Files with `>>>` that pytest does not collect: it looks for doctests below `testpaths` alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--doctest-modules" in settings["addopts"]
    files = [file for folder in (".", "configs", "benchmarks", "docs")
             for file in (ROOT / folder).glob("**/*" if folder != "." else "*")
             if file.suffix in (".py", ".md") and "_site" not in file.parts]
    assert {"cl_framework", "strategies", "scenarios", "tests"} <= set(settings["testpaths"])
    return sorted(file for file in files if re.search(r"^ *>>> ", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", doctests_outside_of_testpaths(), ids=lambda file: str(file.relative_to(ROOT)))
def test_doctests_elsewhere_run_here(file):
    done = subprocess.run([sys.executable, "-m", "doctest", file], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_file_is_valid_and_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "authors", "abstract", "keywords"))
    assert all(set(author) <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == cl_framework.__version__
    assert citation["license"] == project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_contributing_fits_on_one_screen():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 35


def test_nothing_of_the_site_comes_from_a_network():
    for file in [DOCS / "conf.py", *(DOCS / "site").rglob("*.css"), *(DOCS / "images").glob("*.svg")]:
        text = file.read_text().replace("http://www.w3.org/", "")
        assert "http" not in text and "//cdn" not in text and "@import" not in text, file


@pytest.mark.skipif(importlib.util.find_spec("furo") is None, reason="not installed: pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d",
                           tmp_path / "trees", DOCS, tmp_path / "site"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = [f"{page.name}: {link}" for page in (tmp_path / "site").rglob("*.html") for link in re.findall(
        r"<(?:script|link|img|source)[^>]*(?:src|href)=\"(https?:[^\"]+)\"", page.read_text())]
    assert not loaded
