"""Prompts of a run: written beside it, read back, shown as text whatever they hold."""

import json

import pytest
import yaml

from cl_framework.cli import main
from cl_framework.configuration import hash_of
from cl_framework.errors import PluginError
from cl_framework.prompt_pool import Prompt, as_plain
from cl_framework.prompt_records import read_prompts
from cl_framework.run_writer import Writer
from cl_framework.runs import RunFolder

PLANTED = '<script>window.planted = 1</script> {{7*7}} "\'&'
SEED = Prompt(name="p0", text="Answer the question.")
CHILD = Prompt(name="p1", text=f"Answer.\n{PLANTED}\x1b[2J", parent="p0", note="rule", cycle=2, score=0.75)
DOCUMENT = {"label": "FST (scripted reflector)", "best": "p1", "population": ["p1", "p1"],
            "lineage": as_plain([SEED, CHILD])}


def _run(root, strategy, document=None):
    tree = {"scenario": {"name": "verifiable"}, "model": {"name": "tiny_lm"}, "strategy": {"name": strategy},
            "train": {"lr": 0.01}, "seed": 0, "order_seed": None}
    content = {"scenario": "verifiable", "strategy": strategy, "model": "tiny_lm", "seed": 0, "order_seed": None,
               "phase": "single", "protocol": "single-phase", "config_hash": hash_of(tree), "git_commit": "c0ffee",
               "metrics": {"average_accuracy": 0.5}, "accuracy_matrix": [[0.5, None], [0.4, 0.6]], "seconds": 1.0,
               "status": "finished"}
    folder = root / strategy / "seed0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "summary.json").write_text(json.dumps(content))
    if document is not None:
        Writer(RunFolder(folder), 1).documented({"prompts": document})
    return folder


def test_what_is_written_is_read_back(tmp_path):
    record = read_prompts(_run(tmp_path, "fst", DOCUMENT))
    assert record.label == DOCUMENT["label"] and record.best == "p1" and record.population == ("p1", "p1")
    assert [known.text for known in record.lineage] == [SEED.text, CHILD.text]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"label": 1}', "null",
                                     json.dumps({**DOCUMENT, "lineage": [{"name": "p0"}]}),
                                     json.dumps({**DOCUMENT, "population": [3]}),
                                     json.dumps({**DOCUMENT, "lineage": [{**as_plain([CHILD])[0], "score": "high"}]})])
def test_a_file_that_is_none_counts_as_none(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    assert read_prompts(tmp_path) is None and read_prompts(tmp_path / "nowhere") is None


def test_tables_say_who_reflected(tmp_path, capsys):
    _run(tmp_path, "fst", DOCUMENT)
    _run(tmp_path, "rl")
    assert main(["report", f"runs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "fst: FST (scripted reflector)" in shown and "rl: " not in shown


def test_the_page_shows_prompts_as_text(tmp_path):
    pytest.importorskip("jinja2", reason="pip install cl-framework[report] brings the page")
    _run(tmp_path, "fst", DOCUMENT)
    _run(tmp_path, "rl")
    page = tmp_path / "page.html"
    assert main(["report", f"runs={tmp_path}", f"out={page}"]) == 0
    text = page.read_text()
    assert "FST (scripted reflector)" in text and "window.planted = 1" in text
    assert PLANTED.partition(" ")[0] not in text and "&lt;script&gt;window.planted" in text
    assert "{{7*7}}" in text and "\x1b" not in text and "Answer. ⏎ " in text


@pytest.mark.parametrize("name", ["summary", "environment", "../other", "a b", ""])
def test_a_document_cannot_take_the_place_of_another_file(tmp_path, name):
    with pytest.raises(PluginError, match="give it a name of letters, digits and underscores"):
        Writer(RunFolder(tmp_path), 1).documented({name: {}})
    assert not list(tmp_path.iterdir())
