"""The table of merged language models on the page of results, from a record whose numbers are made by hand."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from page_merging_language import merging_language


def nats(*perplexities):
    return [math.log(value) for value in perplexities]


RUN = {"order": None, "topics": ["sports", "business"], "seconds": 12.4, "git_commit": "abc",
       "loss": {"before": nats(40, 90), "own": nats(8, 9), "last": nats(10, 40)},
       "choice": {"before": [0.25, 0.25], "own": [0.5, 0.5], "last": [0.75, 0.5]}}
EXPERTS = [{"topic": "business", "loss": math.log(9), "choice": 0.5, "seconds": 1.0},
           {"topic": "sports", "loss": math.log(4), "choice": 1.0, "seconds": 1.0}]
RECORD = {"command": "x", "python": "3", "torch": "2", "git_commits": ["abc"], "rates": {"lora": 1e-3, "none": 5e-5},
          "settings": {"model": "smollm2", "scenario.topics": ["business", "sports"], "scenario.n_train": 8,
                       "scenario.n_test": 10, "scenario.n_bytes": 80, "train.epochs": 2},
          "rows": [{"row": "opcm", "adapter": "lora", "runs": [RUN], "experts": EXPERTS}]}


@pytest.fixture
def page(tmp_path):
    (tmp_path / "merging_language.json").write_text(json.dumps(RECORD))
    return merging_language(tmp_path)


def test_perplexities_are_exp_of_mean_losses(page):
    """sqrt(10 * 40), and the factor by which sports grew, 10 / 8; topics in alphabetical order."""
    assert "| method | perplexity | increase | choice | business | sports | seconds |" in page
    assert "| opcm | 20.0 | 1.250 | 62.5 | 40.0 | 10.0 | 12 |" in page
    assert "| weights before the stream | 60.0 | - | 25.0 | 90.0 | 40.0 | - |" in page
    assert "| individual experts | 6.0 | - | 75.0 | 9.0 | 4.0 | - |" in page


def test_lines_are_ordered_and_the_table_that_was_not_run_is_left_out(page):
    names = [line.split(" | ")[0].strip("| ") for line in page if line.startswith("|")]
    assert names[2:] == ["individual experts", "opcm", "weights before the stream"]
    assert not any("all weights trained" in line for line in page) and "5.0 points" in " ".join(page)


def test_without_a_record_there_is_nothing(tmp_path):
    assert merging_language(tmp_path) == []
