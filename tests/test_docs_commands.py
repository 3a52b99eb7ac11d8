"""Every `clf` line of the documentation is a command: names, keys, values and ranges hold up to where work begins."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cl_framework import (
    checks,
    cli,
    contest,
    evaluation,
    keys,
    launch,
    merge_files,
    new,
    plan,
    report_page,
    sources,
    tuning,
    working,
)
from cl_framework.errors import ClfError
from cl_framework.grammar import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "results.md")]
"""All but the page whose commands are copied from records of runs."""
PLACEHOLDER = re.compile(r"\b(PATH|NAME|VERB|HEAD|FILE)\b|\{KEY|experiment=my_method")
PAST = ("resume", "watch", "diagnose", "evaluate")
"""Verbs whose lines name a run or a search that somebody has made."""
CODE = re.compile(r"`(\w+\.py)`[^\n`]*:\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHECK_JOB, LOAD = launch.check_job, sources.Source.load


def blocks(page: Path) -> list[str]:
    """Fenced blocks that are no Python, and indented ones; lines that go on are joined."""
    text = re.sub(r"^```(python|toml|yaml)\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    \S.*\n(?:^ +\S.*\n)*)+", text, re.MULTILINE)
    return [block.replace("\\\n", " ") for block in [*fenced, *indented]]


def commands(page: Path) -> list[tuple[str, str]]:
    """Each command with the line that a transcript shows below it."""
    found = []
    for block in blocks(page):
        lines = block.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            told = re.match(r" *(?:\$ )?(?:\.venv/bin/)?(clf [a-z].*)", line)
            if told:
                found.append((re.split(r"   +| > |  ?#", told.group(1))[0].strip(), after))
    return found


def words(line: str) -> list[str]:
    """The arguments, as a shell would give them."""
    return shlex.split(re.sub(r"\$\(\w+\)|\$\w+", "0", line))[1:]


LINES = sorted({(line, page.name) for page in PAGES for line, after in commands(page) if not after.startswith("clf: ")})
REFUSED = sorted({(line, after) for page in PAGES for line, after in commands(page) if after.startswith("clf: ")})


class Reached(ClfError):
    """All that stands before the work has been passed."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """A folder with what pages tell a reader to write, and verbs that end where their work would begin."""
    folder = tmp_path_factory.mktemp("reader")
    for page in PAGES:
        for name, code in CODE.findall(page.read_text()):
            (folder / name).write_text(code)
    np.savez(folder / "data.npz", x=np.zeros((60, 4), "float32"), y=np.repeat(np.arange(6), 10))
    for name in ("base", "a", "b"):
        save_file({"weight": torch.zeros(2, 2)}, folder / f"{name}.safetensors")
    (folder / "shards").mkdir()
    save_file({"weight": torch.zeros(2, 2)}, folder / "shards" / "model.safetensors")
    (folder / "merged").mkdir()
    for strategy in ("er", "naive"):
        run = folder / "runs" / "split_digits" / strategy / "0123456789" / "seed0"
        run.mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({
            "scenario": "split_digits", "strategy": strategy, "model": "mlp", "seed": 0, "order_seed": None,
            "phase": "single", "protocol": "single-phase", "config_hash": "0123456789", "git_commit": None,
            "metrics": {"average_accuracy": 0.5, "forgetting/max": 0.1}, "status": "finished", "seconds": 1.5,
            "accuracy_matrix": [[0.9, None], [0.5, 0.5]], "strategy_fields": {}}))
    (folder / "runs" / "reproduce").symlink_to(folder / "runs" / "split_digits")

    def stop(*_, **__):
        raise Reached("the work would begin here")

    @contextlib.contextmanager
    def launched(values):
        yield keys.launcher_of(values)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr(cli.atexit, "register", lambda *_: None)
        patch.setattr(working, "_launched", launched)
        patch.setattr(launch, "check_job", lambda *_: None)
        patch.setattr(plan, "check_job", lambda *_: None)
        for module, name in ((launch, "execute_all"), (tuning, "tune"), (evaluation, "evaluate"), (contest, "contest"),
                             (checks, "run_checks"), (merge_files, "merge_files"), (new, "write_package"),
                             (report_page, "write_page"), (report_page, "write_pictures"), (sources.Source, "load")):
            patch.setattr(module, name, stop)
        yield folder


def outcome(line: str) -> tuple[int, str]:
    """Exit status and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words(line))
    return status, err.getvalue()


def test_the_pages_have_commands():
    """Else the expressions above have gone blind."""
    assert len(LINES) > 100 and len(REFUSED) >= 2


@pytest.mark.parametrize(("line", "page"), LINES, ids=lambda value: value[:60])
def test_the_command_holds(line, page, stand):
    if PLACEHOLDER.search(line):
        return
    command = parse(words(line))
    assert command.verb in cli.VERBS, f"{page}: {line}"
    if command.verb in PAST:
        return
    status, said = outcome(line)
    assert status == 0 or "the work would begin here" in said, f"{page}: {line}\n{said}"


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_what_is_shown_as_refused_is_refused_with_these_words(line, said, stand, monkeypatch):
    monkeypatch.setattr(launch, "check_job", CHECK_JOB)
    monkeypatch.setattr(sources.Source, "load", LOAD)
    assert outcome(line) == (2, said + "\n")
