"""`clf dashboard` and `clf sweep`: what they write is what runs log, and what W&B's agent turns into commands."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cl_framework import cli
from cl_framework.completion import candidates
from cl_framework.config import resolve
from cl_framework.dashboard_charts import charts
from cl_framework.dashboard_panels import Chart, Curve, Listing, Picture, Points, sections
from cl_framework.grammar import parse
from cl_framework.metrics import StreamRecord, compute_all, installed_metrics
from cl_framework.sweep import word
from cl_framework.wandb_about import about
from cl_framework.wandb_content import numbers, tables
from cl_framework.wandb_keys import EXPERIENCE, EXPERIENCES, HEATMAP, SECTIONS, STREAM_STEP

FAST = ["scenario=split_digits", "strategy=er", "train.epochs=1", "search.trials=3", "search.seeds=2",
        "search.space.strategy.memory_size=10,20", "search.space.strategy.replay_batch_size=null"]


@pytest.fixture
def record():
    """Three experiences, learned."""
    made = StreamRecord(n_experiences=3)
    for i, row in enumerate(((0.9,), (0.5, 0.8), (0.25, 0.75, 1.0))):
        for j, value in enumerate(row):
            made.accuracy[i, j] = value
    made.strategy_metrics = [{}, {}, {}]
    made.memory_bytes, made.n_parameters = 100, 10
    return made


@pytest.fixture
def logged(record, tmp_path):
    """What the logger gives W&B of such a run: keys of its lines, tables with their columns, names of its summary."""
    job = resolve({"scenario": "split_digits", "strategy": "er"})
    (tmp_path / "experiences.csv").write_text("experience,name\n0,a\n")
    measured = compute_all(record, installed_metrics())
    found = tables(record, job, tmp_path, measured, is_labelled=True)
    lines = numbers(2, record, measured, installed_metrics(), 30, is_labelled=True)
    keys = {*lines, "train/loss", "train/online_error", "experience/average_accuracy", "experience/accuracy/0",
            "experience/online_error", "experience/clean_accuracy", "experience/strategy/memory_bytes", EXPERIENCE}
    summary = {key.partition("/")[2] for key in lines}
    return keys, {key: tuple(sheet.columns) for key, sheet in found.items()}, summary


def panels():
    return [(section, panel) for section in sections() for panel in section.panels]


def test_panels_draw_what_runs_log_against_the_axis_of_its_section(logged):
    keys, sheets, summary = logged
    rare = {"transfer/", "calibration/", "drift/"}
    for _, panel in panels():
        if isinstance(panel, Curve):
            drawn = set(panel.keys) or {key for key in keys if key.startswith(panel.prefix)}
            assert drawn <= keys and (drawn or panel.prefix in rare)
            assert {SECTIONS[key.partition("/")[0]] for key in drawn} <= {panel.axis}
        elif isinstance(panel, Points):
            assert {panel.x, panel.y} <= summary
        elif isinstance(panel, Chart):
            assert set(panel.columns) <= set(sheets[panel.table]) and panel.chart in charts()
        elif isinstance(panel, Listing):
            assert panel.table in sheets or panel.table == EXPERIENCES
        else:
            assert isinstance(panel, Picture) and panel.key == HEATMAP


def test_every_section_of_keys_is_drawn():
    drawn = {(panel.prefix or key).partition("/")[0] for _, panel in panels() if isinstance(panel, Curve)
             for key in panel.keys or [""]}
    assert drawn == SECTIONS.keys() - {"tables", "charts"}


def test_stability_and_plasticity_stand_side_by_side():
    (section,) = (section for section in sections() if section.title == "Stability and plasticity")
    assert [panel.keys[0] for panel in section.panels[:2]] == ["stability/stability", "plasticity/learning_accuracy"]


def test_the_charts_draw_every_cell_and_every_run(record, tmp_path):
    library = pytest.importorskip("vl_convert", reason="the extra report is not installed")
    jobs = [resolve({"scenario": "split_digits", "strategy": "er", "seed": seed}) for seed in range(2)]
    rows, measured = {name: [] for name in charts()}, compute_all(record, installed_metrics())
    for number, job in enumerate(jobs):
        for panel in (panel for _, panel in panels() if isinstance(panel, Chart)):
            sheet = tables(record, job, tmp_path, measured, is_labelled=True)[panel.table]
            rows[panel.chart] += [{**dict(zip(sheet.columns, row, strict=True)), "name": "run", "id": str(number)}
                                  for row in sheet.rows]
    for name, spec in charts().items():
        text = re.sub(r"\$\{field:(\w+)\}", r"\1", json.dumps(spec)).replace("${string:title}", "a title")
        assert "${" not in text
        picture = library.vegalite_to_svg({**json.loads(text), "data": {"values": rows[name]}})
        marks = [len(group) for group in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")
                 if "role-mark" in group.get("class", "")]
        if name == "clf_accuracy_matrix":
            assert marks == [6] * 4  # cells and numbers of two runs
            assert [picture.count(f">{value}%<") for value in ("90.0", "80.0", "25.0", "75.0")] == [2] * 4
        else:
            assert marks == [2, 1]  # the runs, and the mean of their group


def test_offline_the_specification_is_a_file_that_wandb_reads(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces", reason="the extra dashboard is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["dashboard", "entity=team", "project=mine"]) == 0
    assert capsys.readouterr().out.startswith("dashboard.json: ")
    made = json.loads(Path("dashboard.json").read_text())
    assert (made["entity"], made["project"], set(made["charts"])) == ("team", "mine", set(charts()))
    from wandb_workspaces.workspaces.internal import WorkspaceViewspec

    view = WorkspaceViewspec.model_validate(made["workspace"])
    banks = view.section.panel_bank_config.sections
    assert [bank.name for bank in banks] == [section.title for section in sections()]
    assert made["workspace"]["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    curves = [panel["config"] for bank in made["workspace"]["section"]["panelBankConfig"]["sections"]
              for panel in bank["panels"] if panel["viewType"] == "Run History Line Plot"]
    expected = [panel for _, panel in panels() if isinstance(panel, Curve)]
    assert [(curve["xAxis"], curve["metrics"]) for curve in curves] == [
        (panel.axis, list(panel.keys)) for panel in expected]
    assert {curve["xAxis"] for curve in curves} == {STREAM_STEP, EXPERIENCE}
    grids = [block for block in made["report"]["blocks"] if block["type"] == "panel-grid"]
    assert [len(grid["metadata"]["panelBankSectionConfig"]["panels"]) for grid in grids] == [
        len(section.panels) for section in sections()]


@pytest.mark.parametrize(("words", "said"), [
    (["dashboard"], "say whose project it is"), (["dashboard", "entity=t", "mode=on"], "unknown mode 'on'"),
    (["dashboard", "entity=t", "seed=1"], "unknown key 'seed'"),
    (["sweep", "strategy=er,lwf", "scenario=split_digits"], "a sweep has one strategy, got 2"),
    (["sweep", "strategy=er", "protocol=gtep", "track.wandb=offline"], "track.wandb is not for clf sweep"),
    (["sweep", "strategy=er", "scenario=split_digits", "seed=1"], "search.seeds says how many"),
])
def test_mistakes(words, said, capsys):
    assert cli.main(words) == 2 and said in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert cli.main(["dashboard", "entity=t", "mode=offline"]) == 2
    assert "pip install 'cl-framework[dashboard]'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_server_that_refuses_is_one_sentence(monkeypatch, capsys, tmp_path):
    pytest.importorskip("wandb_workspaces", reason="the extra dashboard is not installed")
    import wandb

    def broken():
        raise OSError("no route")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb, "Api", broken)
    assert cli.main(["dashboard", "entity=t", "mode=online"]) == 1
    assert "W&B did not take the dashboard (OSError: no route)" in capsys.readouterr().err


@pytest.mark.parametrize(("sampler", "method"), [("random", "random"), ("tpe", "bayes")])
def test_the_commands_of_wandbs_agent_are_runs_on_the_tuning_stream(tmp_path, monkeypatch, sampler, method):
    monkeypatch.chdir(tmp_path)
    given = [*FAST, f"search.sampler={sampler}", "search.space.train.clip=[null,1.0]", "search.space.train.lr=0.1,1e-5",
             "search.space.train.reset_optimizer=true,false", "model.hidden=[8,8]", "track.entity=team"]
    assert cli.main(["sweep", *given]) == 0
    made = yaml.safe_load(Path("sweep.yaml").read_text())
    assert (made["method"], made["run_cap"], made["entity"]) == (method, 6, "team")
    assert made["metric"] == {"name": "average_incremental_accuracy", "goal": "maximize"}
    assert made["parameters"].keys() == {"train.lr", "train.clip", "train.reset_optimizer", "strategy.er.memory_size",
                                         "seed"}
    seen = set()
    for at in range(2):
        args = {key: {"value": grid["values"][at]} for key, grid in made["parameters"].items()}
        shell, _, script, name, *words = [
            piece for each in create_sweep_command(made["command"]) for piece in
            (create_sweep_command_args({"args": args})["args_no_hyphens"] if each == "${args_no_hyphens}" else [each])]
        assert (shell, name) == ("/bin/sh", "clf")
        monkeypatch.setenv("WANDB_RUN_ID", f"w{at}")
        said = _shell(script.replace("exec clf", "printf '%s\\n' clf"), words)
        assert said[:2] == ["clf", "train"] and f"out=runs/sweep/w{at}" in said
        chosen = {key: value for key, (value,) in parse(said[1:]).values.items() if key != "out"}
        job = resolve(chosen)
        assert (job.phase.value, job.seed, job.recipe.epochs, job.tracking.wandb) == ("tuning", at, 1, "online")
        assert job.tree["model"]["hidden"] == [8, 8]
        seen.add((job.recipe.lr, job.recipe.clip, job.recipe.reset_optimizer, job.strategy.memory_size))
    assert seen == {(0.1, None, True, 10), (1e-5, 1.0, False, 20)}


def _shell(script, words):
    done = subprocess.run(["/bin/sh", "-c", script, "clf", *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_run_of_a_sweep_says_that_it_was_tuned_elsewhere(tmp_path, monkeypatch):
    job = resolve({"scenario": "split_digits", "strategy": "er"})
    assert about(job, tmp_path)["chosen_by"] == "the command"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert about(job, tmp_path)["chosen_by"] == "tuned elsewhere: W&B sweep abc"


@pytest.mark.parametrize("value", [1, 1.5, 1e-30, True, None, "null", "true", "1e3", "a b", "a,b", "0..3", "[1]", "",
                                   "it's", [1, None, True], {"a": [1.5]}, ["x,y"]])
def test_values_are_read_back_as_they_were(value):
    key, _, _ = word("strategy.x", value).partition("=")
    (read,) = parse(["train", word(key, value)]).values[key]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("line", "expected"), [
    ("clf dashboard mo", ["mode="]), ("clf dashboard mode=off", ["mode=offline"]),
    ("clf sweep strategy=er search.tri", ["search.trials="]), ("clf dashb", ["dashboard"]), ("clf swe", ["sweep"]),
])
def test_completion(line, expected):
    assert [text for text, _ in candidates(line, dict.fromkeys(cli.VERBS, ""))] == expected
