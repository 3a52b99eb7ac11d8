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
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"strategy": line}) + "\n" for line in lines))
    return folder


def spent(samples, rollouts):
    return [{"samples": a, "rollouts": b} for a, b in zip(samples, rollouts, strict=True)]


def table(root, against=None):
    """The cells of the table by row and heading."""
    found = groups(root)
    sheet, = sheets(found, measure_named("average_accuracy", found), against)
    grid = reward_table(sheet, rewards(sheet))
    return {row[0].text: dict(zip(grid.headings, (cell.text for cell in row), strict=True)) for row in grid.rows}, grid


@pytest.fixture
def stream(tmp_path):
    """RL's best is 0.4, after 12 problems and 96 replies; FST first has 0.4 after 4 problems and 64 replies."""
    run(tmp_path, "rl", [[0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [0.4, 0.4, 0.4]], spent((4, 8, 12), (32, 64, 96)),
        samples=12.0, rollouts=96.0, kl_seed_held_out=0.02, kl_best_held_out=0.02)
    run(tmp_path, "fst", [[0.4, 0.4, 0.4], [0.8, 0.6, 0.1], [0.0, 0.2, 0.9]], spent((4, 8, 12), (64, 128, 192)),
        samples=12.0, rollouts=192.0, reflector_calls=7.0)
    return tmp_path


def test_efficiency_is_that_of_the_curves(stream):
    cells, _ = table(stream, "rl")
    assert cells["fst"] == {
        "strategy": "fst", "reward at the end": "36.7", "best on the way": "50.0", "samples": "12", "replies": "192",
        "prompts asked for": "7", "KL, seed prompt": "-", "KL, best prompt": "-", "asymptote by replies": "-",
        "asymptote by samples": "-", "efficiency in replies": "1.5", "efficiency in samples": "3.0"}
    assert cells["rl"]["efficiency in samples"] == "1.0" and cells["rl"]["KL, seed prompt"] == "20"


def test_without_a_reference_there_is_no_efficiency_and_a_note_says_how(stream):
    cells, grid = table(stream)
    assert "efficiency in samples" not in cells["rl"] and "against=STRATEGY" in grid.notes[-1]


def test_an_asymptote_is_fitted_through_five_points(tmp_path):
    known = Saturation(0.6, 0.1, 30.0, 1.5)
    samples = [4 * 2**k for k in range(8)]
    rows = [[known.at(cost)] * 8 for cost in samples]
    run(tmp_path, "rl", rows, spent(samples, [8 * cost for cost in samples]), samples=512.0, rollouts=4096.0)
    cells, _ = table(tmp_path)
    assert cells["rl"]["asymptote by samples"] == cells["rl"]["asymptote by replies"] == "60.0"


def test_a_curve_that_does_not_bend_has_no_asymptote(tmp_path):
    run(tmp_path, "rl", [[0.1 * k] * 8 for k in range(1, 9)], spent(range(4, 36, 4), range(4, 36, 4)),
        samples=32.0, rollouts=32.0)
    cells, _ = table(tmp_path)
    assert cells["rl"]["asymptote by samples"] == "-"


def test_an_experience_that_was_not_evaluated_whole_is_no_point(tmp_path):
    run(tmp_path, "rl", [[0.2, None], [0.3, 0.5]], spent((4, 8), (32, 64)), samples=8.0, rollouts=64.0)
    cells, _ = table(tmp_path)
    assert cells["rl"]["best on the way"] == "40.0"


def test_means_over_seeds_take_the_experiences_that_all_have(tmp_path):
    run(tmp_path, "rl", [[0.2, 0.4], [0.3, 0.5]], spent((4, 8), (32, 64)), samples=8.0, rollouts=64.0)
    run(tmp_path, "rl", [[0.4, 0.6], [0.5, 0.7]], spent((4, 8), (32, 96)), seed=1, samples=8.0, rollouts=96.0)
    cells, _ = table(tmp_path)
    assert (cells["rl"]["reward at the end"], cells["rl"]["replies"]) == ("50.0", "80")


def test_figures_have_who_spends_some(stream):
    run(stream, "gepa", [[0.1] * 3, [0.2] * 3, [0.3] * 3], spent((0, 0, 0), (10, 20, 30)), rollouts=30.0)
    found = groups(stream)
    sheet, = sheets(found, measure_named("average_accuracy", found), None)
    replies, samples = reward_figures(sheet, rewards(sheet), PAPER)
    assert {row["label"] for row in replies.spec["data"]["values"]} == {"rl", "fst", "gepa"}
    assert {row["label"] for row in samples.spec["data"]["values"]} == {"rl", "fst"}
    assert [row["y"] for row in samples.spec["data"]["values"] if row["label"] == "rl"] == pytest.approx([20, 30, 40])


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"strategy": {"samples": 1}}\n',
                                  '{"strategy": {"samples": true, "rollouts": 3}}\n',
                                  '{"strategy": {"samples": 1, "rollouts": NaN}}\n', '{"strategy": 3}\n', "\x00\xff"])
def test_costs_that_a_run_did_not_write_leave_the_table_out(tmp_path, text):
    folder = run(tmp_path, "rl", [[0.2]], spent((4,), (32,)), samples=4.0, rollouts=32.0)
    (folder / "metrics.jsonl").write_text(text)
    page = content(tmp_path, "average_accuracy", None, PAPER)
    assert not any("reward" in grid.caption for grid in (*page.parts[0].grids, *page.parts[0].folded))


def test_a_reference_that_is_never_rewarded_has_no_peak(tmp_path):
    run(tmp_path, "rl", [[0.0]], spent((4,), (32,)), samples=4.0, rollouts=32.0)
    run(tmp_path, "fst", [[0.5]], spent((4,), (32,)), samples=4.0, rollouts=32.0)
    cells, _ = table(tmp_path, "rl")
    assert cells["fst"]["efficiency in samples"] == "-"
