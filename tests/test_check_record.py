"""`clf check protocol=PATH`: a record against its runs, a comparison against its records, and what neither can show."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cl_framework import cli
from cl_framework.check_comparison import check_comparison
from cl_framework.check_record import check_record
from cl_framework.contest import contest
from cl_framework.errors import ConfigError
from cl_framework.plan import plans
from cl_framework.protocol_record import FILE
from cl_framework.seal import sealed

REFERENCE = Path(__file__).parent.parent / "runs" / "reference" / "protocols"
BASE = {"scenario": ["split_digits"], "strategy": ["naive", "er"], "scenario.sizes": [[2, 3]], "train.epochs": [1],
        "track.wandb": ["disabled"], "search.trials": [1], "search.seeds": [2]}


def words(values):
    return [f"{key}={','.join(json.dumps(each).strip(chr(34)) for each in given)}" for key, given in values.items()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison of two strategies, one trial each."""
    out = tmp_path_factory.mktemp("contest")
    assert cli.main(["protocol", *words(BASE), f"out={out}", "baselines=false"]) == 0
    (path,) = out.rglob("comparison.json")
    return path


@pytest.fixture
def copied(whole, tmp_path):
    """The study of naive, with its runs, elsewhere."""
    (record,) = (path for path in whole.parents[4].rglob(FILE) if "naive" in path.parts)
    shutil.copytree(record.parent, tmp_path / "study")
    return tmp_path / "study"


def verdicts(path):
    return {verdict.rule: verdict for verdict in check_record(path)}


def test_a_comparison_is_judged_by_the_rules_about_comparisons(whole, capsys):
    found = verdicts(whole)
    assert [found[name].kept for name in ("digest", "records", "numbers")] == [True, True, True]
    assert (found["R4"].kept, found["R11"].kept, found["R15"].kept) == (False, False, False)
    assert "no protocol preset is named" in found["R4"].reason and found["R15"].reason == "joint is missing"
    assert found["R5"].reason.startswith("opened while tuning: split_digits phase=tuning")
    assert [rule for rule in found if rule[0] == "R"] == [f"R{number}" for number in range(1, 16)]
    assert cli.main(["check", f"protocol={whole}"]) == 1
    assert "broken    R15" in capsys.readouterr().out
    assert verdicts(whole.parent)["R15"].kept is False


def test_both_verbs_say_non_compliant(whole, copied, capsys):
    assert cli.main(["report", f"protocol={whole}"]) == 0
    assert "NON-COMPLIANT, not a result of this protocol:" in capsys.readouterr().out
    assert cli.main(["evaluate", f"tuned={copied}"]) == 0
    said = capsys.readouterr().out
    assert "NON-COMPLIANT" in said and "R4 is broken" in said


@pytest.mark.parametrize(("change", "reason"), [
    (lambda made: made["rows"][0]["tuning"].update(mean=0.99), "tuning of naive is not that of its record"),
    (lambda made: made["ranks"]["split_digits"].update(kendall_tau=-1.0), "ranks is not that of the records"),
    (lambda made: made.update(metric="stability"), "metric is not that of the records")])
def test_a_number_that_the_records_do_not_give_is_found(whole, change, reason, tmp_path):
    made = json.loads(whole.read_text())
    change(made)
    (tmp_path / "comparison.json").write_text(json.dumps(made))
    assert verdicts(tmp_path)["digest"].kept is False
    (tmp_path / "comparison.json").write_text(json.dumps(sealed(made)))
    found = verdicts(tmp_path)
    assert (found["digest"].kept, found["numbers"].kept) == (True, False) and reason in found["numbers"].reason


def test_without_its_records_a_comparison_shows_nothing(whole, tmp_path):
    made = json.loads(whole.read_text())
    made["rows"][1]["record"] = "gone.json"
    (tmp_path / "comparison.json").write_text(json.dumps(sealed(made)))
    found = verdicts(tmp_path)
    assert found["records"].kept is None and "there is no gone.json of er" in found["records"].reason
    assert {verdict.kept for rule, verdict in found.items() if rule[0] == "R"} == {None}


def test_a_record_is_held_against_the_runs_beside_it(copied, tmp_path):
    found = verdicts(copied)
    assert (found["trials"].kept, found["trials"].reason) == (
        True, "2 of 2 runs of phase 1 are beside the record and hold its numbers")
    assert (found["runs"].kept, found["runs"].reason) == (
        True, "4 of 4 runs of phase 2 are beside the record and hold its numbers")
    shutil.copy(copied / FILE, tmp_path / FILE)
    alone = verdicts(tmp_path)
    assert (alone["trials"].kept, alone["runs"].kept) == (None, None)
    assert "0 of 4 runs of phase 2 are beside the record" in alone["runs"].reason


def edit(path, change):
    made = json.loads(path.read_text())
    change(made)
    path.write_text(json.dumps(made))


@pytest.mark.parametrize(("kind", "verdict"), [("runs", "trials"), ("evaluation", "runs"), ("default", "runs")])
@pytest.mark.parametrize("metric", ["average_incremental_accuracy", "average_accuracy"])
def test_every_number_of_every_run_is_compared(copied, kind, verdict, metric):
    summary = sorted(copied.glob(f"{kind}/*/*/*/seed1/summary.json"))[0]
    edit(summary, lambda made: made["metrics"].update({metric: 0.123}))
    found = verdicts(copied)[verdict]
    assert found.kept is False and f"measured {metric}=0.123" in found.reason


def test_a_run_listed_as_failed_that_finished_is_found(copied):
    edit(copied / FILE, lambda made: made["evaluation"][0]["runs"][1].update(failure="diverged", value=0.35))
    assert "the record lists it as failed (diverged)" in verdicts(copied)["runs"].reason


def test_a_run_with_other_hyperparameters_is_found_by_its_own_configuration(copied):
    file = sorted(copied.glob("evaluation/*/*/*/seed1/config.yaml"))[0]
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**tree, "train": {**tree["train"], "lr": 0.5}}))
    assert "ran with other hyperparameters" in verdicts(copied)["runs"].reason


@pytest.mark.skipif(not REFERENCE.exists(), reason="the committed records are not here")
def test_a_committed_comparison_of_format_1_is_judged():
    found = {verdict.rule: verdict for verdict in check_comparison(REFERENCE / "grey_lite" / "comparison.json")}
    assert [rule for rule, verdict in found.items() if verdict.kept is False] == []
    assert [rule for rule, verdict in found.items() if verdict.kept is None] == ["R5", "R7"]


def test_unequal_budgets_are_refused_before_anything_runs(tmp_path):
    """er has a grid of 2 x 3 x 3 values, naive one of 2."""
    made = plans({**BASE, "search.sampler": ["grid"], "search.trials": [1000], "search.space.train.lr": [0.1, 0.01]},
                 tmp_path)
    with pytest.raises(ConfigError, match=r"unequal budgets \(naive 2 trials x 2 seeds, er \d+ trials.*R4"):
        contest(made, 1, "clf protocol", Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def label(tmp_path, *more):
    return plans({**BASE, "strategy": ["naive"], **dict(more)}, tmp_path)[0].protocol


def test_a_preset_whose_content_was_changed_says_so_in_its_name(tmp_path):
    gtep, lite = ("protocol", ["gtep"]), ("protocol", ["gtep_lite"])
    full = (("search.trials", [30]), ("search.seeds", [5]))
    assert label(tmp_path) is None
    assert label(tmp_path, lite, ("search.trials", [10]), ("search.seeds", [3])) == "gtep_lite"
    assert label(tmp_path, lite, *full) == "gtep_lite (changed: search.trials, search.seeds)"
    assert label(tmp_path, gtep, *full, ("search.spaces", [None]), ("train.optimizer", ["adam"]),
                 ("train.momentum", [0.0]),
                 ("search.sampler", ["tpe"]), ("search.stop", ["median"]), ("search.experiences", [1]),
                 ("search.evaluation_seeds", [1]), ("search.metric", ["learning_accuracy"])) == (
        "gtep (changed: search.evaluation_seeds, search.sampler, search.metric, search.stop, search.experiences, "
        "search.spaces, train.optimizer, train.momentum)")
    rest = {"search.trials": [10], "search.seeds": [3]}.items()
    assert label(tmp_path, lite, *rest, ("strategy", ["er"]), ("train.lr", [0.01])) == "gtep_lite (changed: train.lr)"
    assert label(tmp_path, lite, *rest, ("search.space.train.lr", [0.1, 0.01])) == "gtep_lite (changed: search.space)"
    assert label(tmp_path, lite, *rest, ("search.evaluate", [["split_digits"]])) == "gtep_lite"
