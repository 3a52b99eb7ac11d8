"""The Python of the documentation runs, and what is shown below it is what comes out."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cl_framework.checks import checks_of, outcome_of, run_checks
from cl_framework.registry import load

DOCS = Path(__file__).resolve().parent.parent / "docs"
README = DOCS.parent / "README.md"
NAMED = re.compile(r"`(\w+\.py)`[^\n`]*:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
AUTHORING = (DOCS / "authoring.md").read_text()


def block(page, words):
    """The one block of Python on a page that has these words."""
    (found,) = [code for code in BLOCK.findall((DOCS / page).read_text()) if words in code]
    return found


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The files of a page in the folder that the reader stands in; modules of other readers are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text):
        for name, code in NAMED.findall(text):
            (tmp_path / name).write_text(code)
            monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        return tmp_path

    return write


def failed(kind, name, only=None):
    """Lines of `clf check`, as it prints them, of checks that fail."""
    plugin = load(kind, name)()
    outcomes = [outcome_of(plugin, check) for check in checks_of(plugin) if only is None or check.__name__ in only]
    return [f"  {outcome.status:<8} {outcome.name:<36} {outcome.reason}" for outcome in outcomes if not outcome.is_fine]


def test_a_method_from_its_paper_is_short_and_passes_every_check(reader):
    code = (reader(AUTHORING) / "aligned.py").read_text()
    assert len(code.splitlines()) < 80
    outcomes = run_checks("strategy", "aligned:Aligned")
    assert all(outcome.is_fine for outcome in outcomes), outcomes
    assert f"ends with `{len(outcomes)} of {len(outcomes)} checks hold`" in AUTHORING
    assert f"strategy=mine:SmallFeatures: {len(outcomes)} of {len(outcomes)} checks hold" in AUTHORING
    assert f"# {len(outcomes)} checks: resume" in README.read_text()


@pytest.mark.parametrize(("mistake", "cut"), [
    ("Without\n`state_dict` and `load_state_dict`", lambda code: code[: code.index("    def state_dict")]),
    ("Without the two lines about `was_training`", lambda code: re.sub(r".*was_training.*\n", "", code))])
def test_its_two_mistakes_are_caught_as_shown(mistake, cut, reader):
    shown = AUTHORING[AUTHORING.index(mistake):].split("```\n")[1].splitlines()
    file = reader(AUTHORING) / "aligned.py"
    file.write_text(cut(file.read_text()))
    suspects = {"mode_is_restored", "resumes_between_experiences", "resumes_inside_an_experience"}
    assert failed("strategy", "aligned:Aligned", suspects) == shown[:-1]
    total = len(checks_of(load("strategy", "aligned:Aligned")()))
    assert shown[-1] == f"strategy=aligned:Aligned: {total - len(shown) + 1} of {total} checks hold"


def test_the_strategy_of_the_readme_is_that_of_the_authoring_page(reader):
    fields = {}
    for text in (AUTHORING, README.read_text()):
        reader(text)
        plugin = load("strategy", "mine:SmallFeatures")()
        fields[text] = vars(plugin)
        rules = {"hooks_match_the_contract", "documents_itself", "runs_a_stream"}
        assert not failed("strategy", "mine:SmallFeatures", rules)
        sys.modules.pop("mine")
    assert len({str(value) for value in fields.values()}) == 1


def test_the_first_strategy_lacks_what_the_page_says_that_it_lacks(reader):
    reader((DOCS / "index.md").read_text())
    faults = failed("strategy", "near:Near", {"runs_a_stream", "resumes_inside_an_experience", "documents_itself"})
    assert [fault.split()[1] for fault in faults] == ["resumes_inside_an_experience"]


def test_scenario_and_metric_pass_their_checks(reader):
    reader(AUTHORING)
    assert all(outcome.is_fine for outcome in run_checks("scenario", "turned:TurnedDigits"))
    assert all(outcome.is_fine for outcome in run_checks("metric", "worst:worst_accuracy"))


def test_model_and_logger_work_in_a_run(reader):
    folder = reader(AUTHORING)
    program = block("authoring.md", "observer=Lines").replace("MLP()", "Linear()").replace(
        "from cl_framework.models import MLP", "from linear import Linear")
    exec(compile(program, "logger", "exec"), {})
    lines = (folder / "log.txt").read_text().splitlines()
    assert len(lines) == 5 and lines[1].startswith("1: ") and len(lines[4].split("{")[0].split()) == 6


@pytest.mark.parametrize("page", ["authoring.md", "scenarios.md"])
def test_five_lines_make_a_stream_of_your_own(page, reader, capsys):
    reader(AUTHORING)
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 20)
    names = {"x": rng.normal(size=(120, 5)).astype("float32") + y[:, None], "y": y}
    code = block(page, "stream = Custom(")
    assert len(code.splitlines()) == 5
    exec(compile(code, page, "exec"), names)
    assert len(names["stream"]) == 3
    if page == "authoring.md":
        exec(compile(block(page, "run_stream(Strategy(), stream, model, recipe=Recipe(epochs=5"), page, "exec"), names)
        assert names["record"].accuracy.shape == (3, 3)


def test_the_made_up_data_of_the_first_page_is_a_stream(reader):
    folder = reader((DOCS / "index.md").read_text())
    subprocess.run([sys.executable, "make_data.py"], cwd=folder, check=True)
    assert len(load("scenario", "custom")(path="data.npz", n_experiences=3).open("single", order_seed=None)) == 3


def test_the_loop_for_users_of_avalanche_runs():
    names = {}
    exec(compile(block("from-avalanche.md", "run_stream").replace("epochs=5", "epochs=1"), "loop", "exec"), names)
    assert names["record"].accuracy.shape == (5, 5)
