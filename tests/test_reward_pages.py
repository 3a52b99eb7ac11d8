"""Rewards and their cost on the report page, from run folders whose numbers are made by hand."""

import json

import pytest
import yaml

from cl_framework.configuration import hash_of
from cl_framework.fast_slow_metrics import Saturation
from cl_framework.page_content import content
from cl_framework.page_rewards import reward_figures, reward_table, rewards
from cl_framework.page_theme import PAPER
from cl_framework.report import groups, measure_named
from cl_framework.sheets import sheets


def run(root, strategy, rows, lines, *, seed=0, **metrics):
    """Write a run folder: an accuracy matrix, and what a strategy said of itself after each experience."""
    tree = {"scenario": {"name": "verifiable"}, "model": {"name": "tiny_lm"}, "strategy": {"name": strategy},
            "train": {"lr": 0.01}, "seed": seed, "order_seed": None}
    folder = root / strategy / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / "summary.json").write_text(json.dumps({
        "scenario": "verifiable", "strategy": strategy, "model": "tiny_lm", "seed": seed, "order_seed": None,
        "phase": "single", "protocol": "single-phase", "config_hash": hash_of(tree), "git_commit": "c0ffee0123456789",
        "metrics": {"average_accuracy": 0.5, **{f"strategy/{name}": value for name, value in metrics.items()}},
        "accuracy_matrix": rows, "seconds": 1.0, "status": "finished"}))
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps({"experience": index, "strategy": line}) + "\n" for index, line in enumerate(lines)))
    return folder


def spent(samples, rollouts):
    return [{"samples": a, "rollouts": b} for a, b in zip(samples, rollouts, strict=True)]


def flat(*rewards):
    """An accuracy matrix whose rows have the same reward everywhere."""
    return [[reward] * len(rewards) for reward in rewards]


def table(root, against=None):
    """The cells of the table by row and heading, and what is said below it."""
    found = groups(root)
    sheet, = sheets(found, measure_named("average_accuracy", found), against)
    grid = reward_table(sheet, rewards(sheet))
    cells = {row[0].text: dict(zip(grid.headings, (cell.text for cell in row), strict=True)) for row in grid.rows}
    return cells, " ".join(grid.notes)


@pytest.fixture
def stream(tmp_path):
    """RL's best is 0.4, after 12 problems and 96 replies; FST first has 0.4 after 4 problems and 64 replies."""
    run(tmp_path, "rl", flat(0.2, 0.3, 0.4), spent((4, 8, 12), (32, 64, 96)), rollouts=96.0, kl_seed_held_out=0.02,
        kl_best_held_out=0.0304)
    run(tmp_path, "fst", [[0.4, 0.4, 0.4], [0.8, 0.6, 0.1], [0.0, 0.2, 0.9]], spent((4, 8, 12), (64, 128, 192)),
        rollouts=192.0, reflector_calls=7.0, kl_seed_held_out=-0.00001)
    return tmp_path


def test_efficiency_is_that_of_the_curves(stream):
    cells, notes = table(stream, "rl")
    assert cells["fst"] == {
        "strategy": "fst", "reward at the end": "36.7", "best on the way": "50.0", "samples": "12", "replies": "192",
        "prompts asked for": "7", "KL, seed prompt": "0.0", "KL, best prompt": "-", "asymptote by replies": "-",
        "asymptote by samples": "-", "efficiency in replies": "1.5", "efficiency in samples": "3"}
    assert (cells["rl"]["KL, seed prompt"], cells["rl"]["KL, best prompt"]) == ("20.0", "30.4")
    assert cells["rl"]["efficiency in samples"] == "1" and "than rl a row needs" in notes


def test_without_a_reference_there_is_no_efficiency_and_a_note_says_how(stream):
    cells, notes = table(stream)
    assert "efficiency in samples" not in cells["rl"] and "give against=STRATEGY" in notes


def test_a_reference_that_counts_nothing_is_said(stream):
    run(stream, "naive", flat(0.1, 0.1, 0.1), [{}, {}, {}])
    cells, notes = table(stream, "naive")
    assert "naive" not in cells and "no efficiency: naive does not tell" in notes and "against=STRATEGY" not in notes


def test_prompts_alone_have_no_samples(stream):
    run(stream, "gepa", flat(0.1, 0.2, 0.5), [{"rollouts": n} for n in (16, 32, 48)], rollouts=48.0)
    cells, _ = table(stream, "rl")
    assert (cells["gepa"]["samples"], cells["gepa"]["efficiency in samples"]) == ("0", "-")
    assert cells["gepa"]["efficiency in replies"] == "2.2", "96 / (32 + 16 * 2 / 3)"


def test_a_small_ratio_is_not_never(tmp_path):
    run(tmp_path, "rl", flat(0.1), spent((4,), (32,)))
    run(tmp_path, "late", flat(0.2), spent((100,), (800,)))
    run(tmp_path, "dull", flat(0.05), spent((4,), (32,)))
    cells, _ = table(tmp_path, "rl")
    assert (cells["late"]["efficiency in samples"], cells["dull"]["efficiency in samples"]) == ("0.04", "never")


def test_a_cost_that_stands_still_makes_no_ratio_and_no_asymptote(tmp_path):
    """As of a strategy that learns on without replies."""
    run(tmp_path, "rl", flat(*(0.1 * k for k in range(1, 7))), spent(range(4, 28, 4), range(32, 224, 32)))
    run(tmp_path, "skill_transfer", flat(0.1, 0.3, 0.5, 0.6, 0.6, 0.6), spent([4] * 6, [32] * 6))
    cells, _ = table(tmp_path, "rl")
    own = cells["skill_transfer"]
    assert [own[f"{what} {name}"] for what in ("efficiency in", "asymptote by") for name in ("samples", "replies")] == [
        "-"] * 4


def test_an_asymptote_is_fitted_through_five_points(tmp_path):
    known = Saturation(0.6, 0.1, 30.0, 1.5)
    samples = [4 * 2**k for k in range(8)]
    rows = flat(*(known.at(cost) for cost in samples))
    run(tmp_path, "rl", rows, spent(samples, range(1, 9)))
    cells, _ = table(tmp_path)
    assert cells["rl"]["asymptote by samples"] == "60.0" != cells["rl"]["asymptote by replies"]


@pytest.mark.parametrize(("rewards", "end"), [
    ([0.1 * k for k in range(1, 9)], "-"), ([0.0, 0.0, 0.0, 0.0, 0.05], "-"), ([0.0] * 8, "-"), ([0.1] * 4, "-"),
    ([0.5, 1.0, 1.0, 1.0, 1.0], "100.0"), ([0.5, 0.3, 0.0, 0.0, 0.0, 0.0], "0.0")])
def test_a_curve_whose_end_is_not_seen_has_no_asymptote(tmp_path, rewards, end):
    """A straight line, one that rises at its last point alone, rewards that are all the same, four points; and two
    whose ends are those of the scale."""
    costs = [4 * (k + 1) for k in range(len(rewards))]
    run(tmp_path, "rl", flat(*rewards), spent(costs, costs))
    assert table(tmp_path)[0]["rl"]["asymptote by samples"] == end


def test_an_experience_that_was_not_evaluated_whole_is_no_point(tmp_path):
    run(tmp_path, "rl", [[0.2, None], [0.3, 0.5]], spent((4, 8), (32, 64)))
    run(tmp_path, "fst", [[0.2, 0.4], [0.3, None]], spent((4, 8), (32, 64)))
    cells, _ = table(tmp_path)
    assert cells["rl"]["best on the way"] == cells["rl"]["reward at the end"] == "40.0"
    assert cells["fst"]["best on the way"] == "30.0" and cells["fst"]["reward at the end"] == "-"


def test_means_over_seeds(tmp_path):
    run(tmp_path, "rl", [[0.2, 0.4], [0.3, 0.5]], spent((4, 8), (32, 64)))
    run(tmp_path, "rl", [[0.4, 0.6], [0.5, 0.7]], spent((4, 8), (32, 96)), seed=1)
    cells, _ = table(tmp_path)
    assert (cells["rl"]["reward at the end"], cells["rl"]["replies"]) == ("50.0", "80")


@pytest.mark.parametrize("second", [
    [{"experience": 0, "strategy": {"samples": 4, "rollouts": 32}}],
    [{"experience": 0, "strategy": {"samples": 4, "rollouts": 32}}] * 2,
    [{"experience": index, "strategy": {"rollouts": 32}} for index in range(2)]])
def test_a_seed_that_does_not_tell_its_costs_leaves_its_row_out_and_says_so(stream, second):
    """A line is missing, is there twice, or lacks a cost that the other seed has."""
    run(stream, "odd", flat(0.2, 0.2), spent((4, 8), (32, 64)), rollouts=64.0)
    folder = run(stream, "odd", flat(0.2, 0.2), [], seed=1, rollouts=64.0)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in second))
    cells, notes = table(stream)
    assert "odd" not in cells and "left out: odd;" in notes


def test_the_page_has_table_points_and_figures(stream):
    page = content(stream, "average_accuracy", "rl", PAPER)
    part, = page.parts
    assert "reward and what it cost" in [grid.caption for grid in part.grids]
    points = next(grid for grid in part.folded if grid.caption.startswith("reward and what had been spent"))
    assert [cell.text for cell in points.rows[-1]] == ["rl", "2", "40.0", "96", "12"]
    assert [figure.name for figure in part.figures][-2:] == ["reward by replies", "reward by samples"]


def test_figures_have_who_spends_some(stream):
    run(stream, "gepa", flat(0.1, 0.2, 0.3), [{"rollouts": n} for n in (10, 20, 30)])
    found = groups(stream)
    sheet, = sheets(found, measure_named("average_accuracy", found), None)
    replies, samples = reward_figures(sheet, rewards(sheet), PAPER)
    assert {row["label"] for row in replies.spec["data"]["values"]} == {"rl", "fst", "gepa"}
    assert {row["label"] for row in samples.spec["data"]["values"]} == {"rl", "fst"}
    assert [(row["x"], row["y"]) for row in samples.spec["data"]["values"] if row["label"] == "rl"] == [
        (4, pytest.approx(20)), (8, pytest.approx(30)), (12, pytest.approx(40))]


@pytest.mark.parametrize("text", [
    "", "{", "[]\n", "3\n", '{"experience": 0, "strategy": {"samples": 1}}\n', "[" * 100_000,
    '{"experience": 0, "strategy": {"samples": true, "rollouts": 3}}\n', '{"strategy": {"rollouts": 3}}\n',
    '{"experience": 0, "strategy": {"samples": 1, "rollouts": NaN}}\n', '{"experience": 0, "strategy": 3}\n',
    '{"experience": 0, "strategy": {"rollouts": 1' + "0" * 400 + "}}\n", "\x00\xff"])
def test_costs_that_a_run_did_not_write_leave_the_table_out(tmp_path, text):
    folder = run(tmp_path, "rl", flat(0.2), spent((4,), (32,)))
    (folder / "metrics.jsonl").write_text(text)
    page = content(tmp_path, "average_accuracy", None, PAPER)
    assert not any("reward" in grid.caption for grid in (*page.parts[0].grids, *page.parts[0].folded))


def test_a_reference_that_is_never_rewarded_has_no_peak(tmp_path):
    run(tmp_path, "rl", flat(0.0), spent((4,), (32,)))
    run(tmp_path, "fst", flat(0.5), spent((4,), (32,)))
    assert table(tmp_path, "rl")[0]["fst"]["efficiency in samples"] == "-"
