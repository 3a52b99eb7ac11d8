"""`comparison.json`: its tests are SciPy's, it is read back and drawn, and a change by hand is found."""

import json
import statistics

import pytest
from scipy import stats

from cl_framework import cli
from cl_framework.compared import FILE, read_comparison
from cl_framework.contest import compare
from cl_framework.errors import ConfigError
from cl_framework.evaluation import Evaluated
from cl_framework.files import write_json

VALUES = {"er": [0.71, 0.74, 0.69, 0.75, 0.72, 0.70], "lwf": [0.41, 0.52, 0.44, 0.49, 0.47, 0.40],
          "joint": [0.91, 0.90, 0.93, 0.92, 0.94, 0.89]}
TUNED = {"er": 0.95, "lwf": 0.3, "joint": 0.9}


def result(values):
    mean = statistics.fmean(values)
    return {"mean": mean, "std": statistics.stdev(values), "n": len(values), "interval": [mean - 0.01, mean + 0.01]}


def record(strategy, scenarios):
    """What a comparison needs of a record."""
    parts = [{"scenario": scenario, "flavour": "across data sets", "default": None, "result": result(VALUES[strategy]),
              "runs": [{"seed": seed, "order_seed": seed, "value": value, "metrics": {"n_parameters": 10.0,
                        "forgetting/max": 0.1}} for seed, value in enumerate(VALUES[strategy])]}
             for scenario in scenarios]
    return {"strategy": strategy, "protocol": "gtep_lite", "scenario": "split_fashion", "metric": "average_accuracy",
            "tuning": {"result": result([TUNED[strategy], TUNED[strategy] + 0.01])}, "evaluation": parts,
            "costs": {"tuning": {"train_seconds": 60.0}}}


def made(tmp_path, *scenarios):
    """A comparison.json of three strategies."""
    content = compare([Evaluated(tmp_path, record(strategy, scenarios)) for strategy in VALUES])
    write_json(tmp_path / FILE, content)
    return content


def test_the_tests_of_each_stream_are_scipys(tmp_path):
    content = made(tmp_path, "near", "far/away")
    assert content["format"] == 2 and set(content["tests"]) == {"near", "far/away"}
    tests = content["tests"]["near"]
    assert tests["reference"] == "joint" and [each["strategy"] for each in tests["contrasts"]] == ["er", "lwf"]
    for each in tests["contrasts"]:
        expected = stats.ttest_rel(VALUES[each["strategy"]], VALUES["joint"])
        assert each["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
        assert (each["n"], each["p_permutation"], each["p_holm"]) == (6, 2 / 64, 4 / 64)
    assert tests["ranking"]["friedman_p"] == pytest.approx(stats.friedmanchisquare(*VALUES.values()).pvalue)


def test_a_comparison_is_printed_again_and_drawn_beside_its_file(tmp_path, capsys):
    made(tmp_path, "near")
    assert cli.main(["report", f"protocol={tmp_path / FILE}"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "reported on near" in text and "compared on shared (order, seed) pairs" in text
    assert {path.name for path in tmp_path.iterdir()} == {FILE} | {
        f"{stem}{suffix}" for stem in ("slope", "critical_difference") for suffix in (".svg", ".pdf", ".png")}


def test_several_streams_have_pictures_of_their_own(tmp_path, capsys):
    made(tmp_path, "near", "far/away")
    assert cli.main(["report", f"protocol={tmp_path}", f"out={tmp_path / 'pictures'}"]) == 0
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {
        "slope_near", "slope_far_away", "critical_difference_near", "critical_difference_far_away"}


def test_a_comparison_of_before_has_no_tests_and_is_still_read(tmp_path, capsys):
    from cl_framework.seal import sealed

    content = made(tmp_path, "near")
    write_json(tmp_path / FILE, sealed({name: content[name] for name in content if name not in ("tests", "digest")}))
    assert cli.main(["report", f"protocol={tmp_path}"]) == 0
    assert "compared on shared" not in capsys.readouterr().out and (tmp_path / "slope.svg").exists()


@pytest.mark.parametrize(("change", "message"), [
    (lambda content: content["rows"].pop(), "was changed after it was written"),
    (lambda content: content.update(format=3), "has format 3, this clf reads 2"),
    (lambda content: content.pop("ranks"), "is no comparison: missing ranks")])
def test_a_file_that_is_no_comparison_is_refused(tmp_path, change, message):
    content = made(tmp_path, "near")
    change(content)
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        read_comparison(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_comparison(tmp_path)


def test_keys_that_belong_to_runs_are_refused_beside_a_comparison(tmp_path, capsys):
    made(tmp_path, "near")
    assert cli.main(["report", f"protocol={tmp_path}", "runs=runs", "metric=stability"]) == 2
    assert "takes out=FOLDER and no runs or metric" in capsys.readouterr().err
