"""The tables of fast and slow weights on the page of results, from a record whose numbers are made by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import page_fast_slow

LEVELS = {"base_seed": 0.1, "base_evolved": 0.3, "trained_seed": 0.15, "trained_evolved": 0.5}
KINDS = ["sums", "sums", "words"]


def _run(matrix, samples, rollouts, **figures):
    costs = [{"samples": a, "rollouts": b, **figures} for a, b in zip(samples, rollouts, strict=True)]
    return {"seed": 0, "accuracy_matrix": matrix, "seconds": 2.0, "git_commit": "abc", "costs": costs,
            "channels": {**LEVELS, "slow": 0.05, "fast": 0.2, "together": 0.15, "base_rewards": [0.1, 0.1, 0.1]}}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The part, one entry a line, of a record with one seed of RL and of FST on two tasks."""
    rl = _run([[0.2, 0.2, 0.2], [0.3, 0.3, 0.3], [0.4, 0.4, 0.4]], (4, 8, 12), (32, 64, 96), kl_seed=0.02, kl_best=0.02)
    fst = _run([[0.4, 0.4, 0.4], [0.8, 0.6, 0.1], [0.0, 0.2, 0.9]], (4, 8, 12), (64, 128, 192), kl_seed=0.01,
               kl_best=0.03, reflector_calls=7)
    record = {"command": "x", "python": "3", "torch": "2", "git_commits": ["abc"], "kinds": KINDS, "steps_per_cycle": 3,
              "settings": {"scenario": {"n_train": 24, "n_test": 12, "n_samples": 4},
                           "model": {"rank": 8, "max_new_tokens": 16}, "train": {"batch_size": 4, "lr": 1e-4}},
              "rows": [{"row": "RL", "strategy": "rl", "fields": {}, "runs": [rl]},
                       {"row": "FST, K = 1", "strategy": "fst", "fields": {}, "runs": [fst]}],
              "probe": {"strategy": "rl", "scenario.kinds": ["topic"],
                        "curves": {"base": {"0": [[0, 0.1], [8, 0.6], [16, 0.5]]}, "FST": {}}}}
    (tmp_path / "fast_slow_smollm2.json").write_text(json.dumps(record))
    monkeypatch.setattr(page_fast_slow, "REFERENCE", tmp_path)
    return page_fast_slow.fast_slow()


def _cells(page, row, place):
    """The cells of the n-th table line that begins with a name."""
    return [line.strip("| ").split(" | ") for line in page if line.startswith(f"| {row} |")][place]


def test_a_tier_without_a_record_says_so(page):
    assert "It has not been run yet: `python benchmarks/fast_slow.py tiny`." in page
    assert len([line for line in page if "not been run" in line]) == 1


def test_who_proposed_the_prompts_is_said(page):
    assert sum(line.startswith("| FST (scripted reflector), K = 1 |") for line in page) == 3
    assert not any(line.startswith("| FST, K") for line in page)


def test_rewards_costs_and_ratios(page):
    """RL's peak over all tasks is 0.4, after 12 problems; FST has 0.4 after 4, for 64 replies where RL needs 96."""
    rl, fst = _cells(page, "RL", 0), _cells(page, "FST (scripted reflector), K = 1", 0)
    assert rl == ["RL", "1", "40.0", "35.0", "12", "96", "0", "20", "20", "1.0", "1.0", "2"]
    assert fst[1:] == ["1", "36.7", "80.0", "12", "192", "7", "10", "30", "3.0", "1.5", "2"]


def test_tasks_are_told_apart_and_normalised(page):
    """Sums: the best while they last is FST's 0.7, and RL is at 0.3 then; the untrained model is at 0.1."""
    assert _cells(page, "RL", 1) == ["RL", "30.0, 40.0 (50)", "40.0, 40.0 (17)"]
    assert _cells(page, "FST (scripted reflector), K = 1", 1)[1:] == ["70.0, 10.0 (0)", "90.0, 90.0 (100)"]


def test_channels_and_the_fourth_task(page):
    assert _cells(page, "RL", 2)[1:] == ["10.0", "30.0", "15.0", "50.0", "+5.0", "+20.0", "+15.0"]
    assert _cells(page, "base", 0) == ["base", "1", "10.0", "50.0", "60.0"]
    assert not any(line.startswith("| FST |") for line in page), "its weights have not been tried"
