"""The report: reading runs, statistics over seeds, and what a user sees."""

import csv
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cl_framework.cli import main
from cl_framework.errors import ConfigError, DataError
from cl_framework.report import FORMATS, as_text, groups, product_table, report, run_table
from cl_framework.summaries import parse_summary

MAIN = ("average_accuracy", "average_incremental_accuracy", "forgetting/max", "backward_transfer", "learning_accuracy")


def summary(seed=0, accuracy=0.5, **changes):
    """The content of a summary.json."""
    return {
        "scenario": "split_digits", "strategy": "er", "model": "mlp", "seed": seed, "order_seed": 0, "phase": "single",
        "protocol": "single-phase", "config_hash": "0123456789ab", "git_commit": "c0ffee",
        "metrics": {**dict.fromkeys(MAIN, 0.25), "average_accuracy": accuracy, "strategy/penalty": 2.0},
        "accuracy_matrix": [[accuracy, None], [0.25, 0.75]], "seconds": 10.0 + seed, "status": "finished", **changes,
    }


def write(root, content, name=None):
    """Write a run folder; its path."""
    folder = root / (name or f"{content['scenario']}/{content['strategy']}/{content['config_hash']}/"
                             f"seed{content['seed']}")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def shown(renderable, width=80):
    """What a console of a width prints."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def five(tmp_path):
    """Five seeds with accuracies 0.1 .. 0.5: mean 0.3, sample deviation sqrt(0.025)."""
    for seed in range(5):
        write(tmp_path, summary(seed, 0.1 * (seed + 1)))
    return tmp_path


def test_mean_and_sample_deviation_over_seeds(five):
    [group] = groups(five)
    stat = group.metrics["average_accuracy"]
    assert (group.n, group.seeds, stat.n) == (5, (0, 1, 2, 3, 4), 5)
    assert stat.mean == pytest.approx(0.3)
    assert stat.std == pytest.approx(0.025 ** 0.5)
    assert group.seconds.mean == 12.0
    assert group.accuracy_matrix[0] == (pytest.approx(0.3), None)
    assert group.accuracy_matrix[1] == (0.25, 0.75)


def test_one_run_has_no_deviation(tmp_path):
    write(tmp_path, summary())
    [group] = groups(tmp_path)
    assert group.metrics["average_accuracy"].std is None
    assert "±" not in as_text([group]).splitlines()[4]


@pytest.mark.parametrize("change", [{"strategy": "ewc"}, {"config_hash": "f" * 12}, {"order_seed": None},
                                    {"model": "cnn"}, {"phase": "evaluation"}, {"protocol": "gtep"},
                                    {"scenario": "split_mnist"}])
def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(tmp_path, change):
    write(tmp_path, summary(0))
    write(tmp_path, summary(1, **change), "other")
    assert [group.n for group in groups(tmp_path)] == [1, 1]


def test_groups_are_sorted_by_scenario_then_strategy(tmp_path):
    for scenario, strategy in (("b", "y"), ("a", "z"), ("b", "x"), ("a", "naive")):
        write(tmp_path, summary(scenario=scenario, strategy=strategy))
    assert [(each.scenario, each.strategy) for each in groups(tmp_path)] == [
        ("a", "naive"), ("a", "z"), ("b", "x"), ("b", "y")]


def test_a_metric_that_some_runs_lack_says_over_how_many_it_is(tmp_path):
    write(tmp_path, summary(0))
    lacking = summary(1)
    del lacking["metrics"]["forgetting/max"]
    write(tmp_path, lacking)
    [group] = groups(tmp_path)
    assert group.metrics["forgetting/max"].n == 1
    assert "(n=1)" in as_text([group])


def test_a_number_that_was_not_measured_is_left_out(tmp_path):
    write(tmp_path, summary(metrics={"stability": None, "learning_accuracy": 1}))
    [group] = groups(tmp_path)
    assert list(group.metrics) == ["learning_accuracy"]


def test_a_number_that_is_not_finite_is_damage(tmp_path):
    write(tmp_path, summary(metrics={"average_accuracy": float("nan")}))
    with pytest.raises(ConfigError, match="metric 'average_accuracy' is nan"):
        groups(tmp_path)


def test_json_is_one_object_a_group_with_unrounded_numbers(tmp_path, capsys):
    write(tmp_path, summary(0, 1 / 3))
    write(tmp_path, summary(1, 2 / 3))
    report(tmp_path, "json")
    [group] = json.loads(capsys.readouterr().out)
    stat = group["metrics"]["average_accuracy"]
    assert (stat["mean"], stat["std"], stat["n"]) == (0.5, pytest.approx(18 ** -0.5, abs=1e-15), 2)
    assert stat["values"] == [1 / 3, 2 / 3] and group["blocks"] == [[0, 0], [0, 1]]
    assert group["metrics"]["strategy/penalty"]["mean"] == 2.0
    assert {name: group[name] for name in ("scenario", "strategy", "model", "order_seed", "phase", "protocol", "n",
                                           "config_hash", "git_commits", "seeds")} == {
        "scenario": "split_digits", "strategy": "er", "model": "mlp", "order_seed": 0, "phase": "single", "n": 2,
        "protocol": "single-phase", "config_hash": "0123456789ab", "git_commits": ["c0ffee"], "seeds": [0, 1]}
    assert group["accuracy_matrix"] == [[0.5, None], [0.25, 0.75]]


def test_csv_is_one_line_a_group(five, capsys):
    write(five, summary(strategy="naive", metrics={}))
    report(five, "csv")
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (first["strategy"], first["seeds"], second["strategy"]) == ("er", "0 1 2 3 4", "naive")
    assert float(first["average_accuracy"]) == pytest.approx(0.3)
    assert float(first["average_accuracy/std"]) == pytest.approx(0.025 ** 0.5)
    assert first["average_accuracy/n"] == "5"
    assert (second["average_accuracy"], second["average_accuracy/n"]) == ("", "0")


def test_markdown_is_a_table(five, capsys):
    report(five, "markdown")
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "| er | mlp | order seed 0 · single-phase | 01234567 | 5 | 30.0 ± 15.8 | 10.4 to 49.6 |" in lines[2]


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 200])
def test_text_loses_no_number_at_any_width(five, width):
    text = as_text(groups(five), width=width)
    assert "…" not in text and "..." not in text
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for number in ("30.0", "± 15.8", "25.0", "12.0", "± 1.6", "single-phase", "er", "order seed 0", "10.4 to 49.6"):
        assert number in flat, number


def test_text_has_one_line_a_strategy_where_it_fits(five):
    assert "er        5  30.0 ± 15.8  10.4 to 49.6   25.0 ± 0.0" in as_text(groups(five), width=120)


def test_perplexity_is_no_share(tmp_path, capsys):
    for strategy, factor in (("er", 1), ("naive", 2)):
        for seed in range(3):
            content = summary(seed, strategy=strategy, config_hash=strategy * 6)
            content["metrics"] |= {"perplexity": factor * (8.0 + seed), "perplexity_increase": 1.5}
            write(tmp_path, content)
    for words in ([], ["metric=perplexity"]):
        assert main(["report", f"runs={tmp_path}", "format=markdown", *words]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "| er |" in line)
        assert "9.000 ± 1.000" in line and "1.500 ± 0.000" in line and "50.0 ± 0.0" in line
    assert "perplexity: 9.000 ± 1.000" in shown(as_text(groups(tmp_path)), width=60)
    assert main(["report", f"runs={tmp_path}", "metric=perplexity", "format=latex"]) == 0
    table = capsys.readouterr().out
    assert table.index("er & 3") < table.index("naive & 3")
    assert r"9.000 $\pm$ 1.000" in table and "+9.000" in table


def test_two_configurations_of_a_strategy_can_be_told_apart(five):
    write(five, summary(0, config_hash="f" * 12))
    text = as_text(groups(five), width=120)
    assert "er 01234567" in text and "er ffffffff" in text


def test_few_seeds_and_mixed_commits_are_warned_of(tmp_path):
    write(tmp_path, summary(0))
    write(tmp_path, summary(1, git_commit="decaf"))
    assert ("Warnings: few seeds (under 3): er on split_digits (n=2); runs of different commits in one group: "
            "er on split_digits") in as_text(groups(tmp_path), width=200)


def test_enough_seeds_give_no_warning(five):
    assert "Warnings" not in as_text(groups(five))


@pytest.fixture
def troubled(tmp_path):
    """One finished run, one stopped, one failed, one with a cut file, one with a wrong type."""
    write(tmp_path, summary(0))
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped/config.yaml").write_text("")
    write(tmp_path, summary(1, status="failed"), "failed")
    write(tmp_path, summary(2), "cut")
    (tmp_path / "cut/summary.json").write_text('{"scenario": "spl')
    write(tmp_path, {**summary(3), "seed": "3"}, "wrong")
    return tmp_path


def test_text_counts_and_names_what_is_left_out(troubled, capsys):
    report(troubled, "text")
    out, err = capsys.readouterr()
    assert err == ""
    assert "Note: 1 unfinished run left out (stopped or still running); continue with: clf resume run=" in out
    assert f"clf resume run={troubled / 'stopped'}" in out
    assert "Note: 1 failed run left out" in out
    assert f"{troubled / 'cut/summary.json'} cannot be read" in out
    assert f"{troubled / 'wrong/summary.json'} is damaged: 'seed' is '3'; remove it" in out


@pytest.mark.parametrize("style", ["json", "csv", "markdown"])
def test_machine_formats_put_what_is_left_out_on_stderr(troubled, capsys, style):
    report(troubled, style)
    out, err = capsys.readouterr()
    assert "left out" not in out
    assert len(err.splitlines()) == 4
    assert all(line.startswith("clf: ") for line in err.splitlines())


def test_a_copied_run_counts_once_and_is_named(tmp_path, capsys):
    write(tmp_path, summary(0))
    write(tmp_path, summary(0), "copy")
    report(tmp_path, "text")
    assert f"{tmp_path / 'copy'} left out: " in capsys.readouterr().out
    assert groups(tmp_path)[0].n == 1


def test_no_folder_no_run_and_no_finished_run_are_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere; expected run folders below it"):
        groups(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"there are no runs below .*; start one with clf train out="):
        groups(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"there is no finished run below .*\n1 unfinished run left out"):
        groups(tmp_path)


def test_an_unknown_format_is_explained(five):
    with pytest.raises(ConfigError, match="unknown format 'xml'; there are text, json, csv, markdown"):
        report(five, "xml")
    assert list(FORMATS) == ["text", "json", "csv", "markdown"]


@pytest.mark.parametrize(("change", "fault"), [
    ({"metrics": {"a": "high"}}, "metric 'a' is 'high'"),
    ({"metrics": {"a": True}}, "metric 'a' is True"),
    ({"metrics": []}, r"'metrics' is \[\]"),
    ({"metrics": {"strategy/penalty": 1e200}}, "metric 'strategy/penalty' is 1e\\+200"),
    ({"seconds": -math.inf}, "'seconds' is -inf"), ({"seconds": -1.0}, "'seconds' is -1.0"),
    ({"seconds": True}, "'seconds' is True"), ({"seconds": 10 ** 400}, "'seconds' is 1000"),
    ({"accuracy_matrix": [[1.0], [1.0, 2.0]]}, "'accuracy_matrix' is no square matrix"),
    ({"accuracy_matrix": [1.0]}, "'accuracy_matrix' is no square matrix"),
])
def test_a_damaged_summary_says_what_is_wrong(tmp_path, change, fault):
    with pytest.raises(DataError, match=f"summary.json is damaged: {fault}"):
        parse_summary(summary(**change), tmp_path)


@pytest.mark.parametrize("content", [None, 3, [], "text"])
def test_a_summary_that_is_no_object_is_refused(tmp_path, content):
    with pytest.raises(DataError, match=r"expected an object.*remove it and give the command"):
        parse_summary(content, tmp_path)


def test_a_missing_key_is_named(tmp_path):
    content = summary()
    del content["phase"]
    with pytest.raises(DataError, match="'phase' is missing"):
        parse_summary(content, tmp_path)


def test_null_commit_matrix_and_seconds_are_allowed(tmp_path):
    read = parse_summary(summary(git_commit=None, accuracy_matrix=None, seconds=None), tmp_path)
    assert (read.git_commit, read.accuracy_matrix, read.seconds) == ("unknown", (), None)


def test_one_run_shows_its_lower_triangle_metrics_and_folder():
    content = summary(7, 0.5, accuracy_matrix=[[0.5, 0.11], [0.25, 0.75]], path="runs/a/seed7")
    text = shown(run_table(content))
    lines = [line.split() for line in text.splitlines()]
    assert text.startswith("split_digits · er · mlp · seed 7 · order seed 0 · single-phase")
    assert ["0", "50.0"] in lines and ["1", "25.0", "75.0"] in lines
    assert "11.0" not in text, "above the diagonal"
    for line in (["average", "accuracy", "50.0", "%"], ["incremental", "accuracy", "25.0", "%"],
                 ["forgetting/max", "25.0", "%"], ["backward", "transfer", "25.0", "%"],
                 ["learning", "accuracy", "25.0", "%"], ["seconds", "17.0"]):
        assert line in lines
    assert lines[-1] == ["run", "folder:", "runs/a/seed7"]


def test_a_metric_that_is_absent_is_not_shown_as_zero():
    text = shown(run_table(summary(metrics={"average_accuracy": 0.5}, accuracy_matrix=[[0.5]], path="x")))
    assert "forgetting" not in text and "backward" not in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_matrix_wider_than_the_console_goes_on_below(width):
    n = 20
    matrix = [[(20 * i + j) / 1000 if j <= i else None for j in range(n)] for i in range(n)]
    text = shown(run_table(summary(accuracy_matrix=matrix, path="x")), width)
    words = text.split()
    for i in range(n):
        for j in range(i + 1):
            assert f"{(20 * i + j) / 10:.1f}" in words
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_a_large_matrix_is_pointed_to():
    matrix = [[0.5] * 21] * 21
    folder = "runs/" + "x" * 100
    text = shown(run_table(summary(accuracy_matrix=matrix, path=folder)))
    assert "accuracy of 21 x 21 experiences:" in text
    assert text.replace("\n", "").count(folder) == 2, "nothing of the path is lost"
    assert f"{folder}/accuracy.csv" in text.replace("\n", "")


def test_a_product_shows_a_row_a_group_and_the_common_folder():
    runs = [summary(seed, strategy=strategy, path=f"runs/split_digits/{strategy}/0/seed{seed}")
            for strategy in ("naive", "joint") for seed in range(3)]
    text = shown(product_table(runs), 120)
    rows = [line.split()[:3] for line in text.splitlines()]
    assert ["joint", "3", "50.0"] in rows and ["naive", "3", "50.0"] in rows
    assert text.rstrip().endswith("run folders: runs/split_digits")


def test_names_with_brackets_are_shown_as_they_are():
    text = shown(product_table([summary(strategy="my[red]:Own", path="a"), summary(strategy="er", path="b")]), 120)
    assert "my[red]:Own" in text


def test_the_report_imports_no_torch():
    code = "import sys, cl_framework.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent).returncode == 0


def test_an_order_without_a_seed_has_its_own_table(tmp_path):
    for seed, order_seed in enumerate((None, 10, 9)):
        write(tmp_path, summary(seed, order_seed=order_seed))
    found = groups(tmp_path)
    assert [each.order_seed for each in found] == [None, (9, 10)]
    text = as_text(found)
    assert text.index("natural order") < text.index("2 order seeds")
