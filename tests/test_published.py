"""Published numbers beside ours: presets in folders, the comparison's arithmetic, and the report."""

import json
import math
import subprocess
import sys

import pytest
import yaml
from scipy import stats

from cl_framework import comparison, presets
from cl_framework.config import resolve
from cl_framework.errors import ConfigError
from cl_framework.presets import preset, preset_names, published_section
from cl_framework.published import Comparison, Published, compare, published
from cl_framework.summaries import Group, Stat

ROWS = [name for name in preset_names("experiment") if published_section(name)]


def group(config_hash, mean, std, n):
    return Group("split_mnist", "naive", "mlp", None, "single", "single-phase", config_hash, ("abc",), tuple(range(n)),
                 {"average_accuracy": Stat(mean, std, n)}, None, (), ())


def row(mean=20.0, std=1.0, n=10, **fields):
    return Published(experiment="x", table="t", row="r", metric="average_accuracy", mean=mean, std=std, n=n, **fields)


@pytest.mark.parametrize("name", ROWS)
def test_every_preset_resolves_and_gives_its_command(name):
    resolve({"experiment": name})
    header = presets._preset_text("experiment", name).splitlines()[0]
    assert header.startswith(f"# clf train experiment={name} seed=0..")
    assert all(each.source and each.table and each.row for each in published([name]))


def test_no_two_presets_are_the_same_run():
    hashes = [resolve({"experiment": name}).hash for name in ROWS]
    assert len(set(hashes)) == len(hashes)


def test_what_a_folder_shares_counts_less_than_the_preset():
    flat = preset("experiment", "hsu2018/class/sgd")
    assert flat["train.optimizer"] == "sgd" and flat["train.epochs"] == 4  # its own, and the folder's
    assert flat["scenario.incremental"] == "class" and flat["scenario"] == "split_mnist"
    assert not any(key.startswith("published") for key in flat)


def test_a_shared_file_is_no_preset():
    assert not any(name.endswith("_shared") for name in preset_names("experiment"))
    with pytest.raises(ConfigError, match="unknown experiment"):
        resolve({"experiment": "hsu2018/_shared"})


def test_the_nearest_name_is_told_for_a_folder():
    with pytest.raises(ConfigError, match="did you mean 'hsu2018/class'"):
        published(["hsu2018/clas"])
    with pytest.raises(ConfigError, match="no published number"):
        published(["online"])


def test_a_group_belongs_to_a_row_by_its_configuration_alone():
    wanted = published(["hsu2018/class/adam"])
    own = resolve({"experiment": "hsu2018/class/adam"}).hash
    changed = resolve({"experiment": "hsu2018/class/adam", "train.lr": 0.002}).hash
    found = compare(wanted, [group(changed, 0.5, 0.1, 3), group(own, 0.197, 0.001, 10)])
    assert found[0].ours is not None and found[0].ours.mean == pytest.approx(19.7)
    assert compare(wanted, [group(changed, 0.5, 0.1, 3)])[0].verdict == "not run"


@pytest.mark.parametrize(("mean", "verdict"), [(20.89, "inside"), (20.91, "outside"), (19.11, "inside"),
                                               (19.09, "outside")])
def test_inside_is_two_standard_errors_in_either_direction(mean, verdict):
    """s = s' = 1, n = n' = 10: two standard errors of the difference are 2 sqrt(0.2) = 0.8944."""
    assert Comparison(published=row(), ours=Stat(mean, 1.0, 10)).verdict == verdict


def test_a_number_without_deviation_is_held_against_our_error_alone():
    assert Comparison(published=row(std=None), ours=Stat(20.6, 1.0, 10)).verdict == "inside"
    assert Comparison(published=row(std=None), ours=Stat(20.7, 1.0, 10)).verdict == "outside"
    assert Comparison(published=row(), ours=Stat(20.0, None, 1)).verdict == "one run"


def test_the_interval_is_students():
    values = [19.0, 20.0, 22.0, 21.5]
    each = Comparison(published=row(), ours=Stat.of(values))
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert each.half_width == pytest.approx((high - low) / 2)
    assert Comparison(published=row(), ours=Stat(1.0, None, 1)).half_width is None


def test_the_report_says_everything_in_every_format():
    found = [Comparison(published=row(differs="one thing | another", source="Paper."), ours=Stat(25.0, 1.0, 10),
                        seeds=tuple(range(10)), git_commits=("abc",)),
             Comparison(published=row(std=None, n=None, is_guide=True), ours=None)]
    text = comparison.as_text(found, width=120)
    assert "20.00 ± 1.00" in text and "25.00 ± 0.72" in text and "outside" in text and "+5.00" in text
    assert "one thing | another" in text and "not run: clf train experiment=x" in text and "(guide)" in text
    assert "one thing \\| another" in comparison.as_markdown(found)
    plain = json.loads(comparison.as_json(found))
    assert plain[0]["mean"] == 25.0 and math.isclose(plain[0]["half_width"], 0.7153, abs_tol=1e-4)
    assert plain[1]["n"] == 0 and plain[1]["mean"] is None
    assert len(comparison.as_csv(found).splitlines()) == 3


def test_the_command_line_compares(tmp_path):
    def clf(*words):
        return subprocess.run([sys.executable, "-m", "cl_framework.cli", *words], capture_output=True, text=True,
                              cwd=tmp_path)
    assert clf("train", "scenario=split_digits", "strategy=naive", "train.epochs=1").returncode == 0
    done = clf("report", "experiment=hsu2018/class,hsu2018/task", "format=csv")
    assert done.returncode == 0 and done.stdout.count("not run") == 24, done.stderr
    wrong = clf("report", "experiment=hsu")
    assert wrong.returncode == 2 and "unknown experiment 'hsu'" in wrong.stderr


def test_presets_are_plain_yaml():
    for name in ROWS:
        content = yaml.safe_load(presets._preset_text("experiment", name))
        assert set(content) <= {"scenario", "strategy", "model", "train", "published"}, name
