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
from cl_framework.groups import Group, Stat
from cl_framework.presets import preset, preset_names, published_section
from cl_framework.published import Comparison, Published, compare, published

ROWS = [name for name in preset_names("experiment") if published_section(name)]


def group(config_hash, mean, std, n):
    return Group("split_mnist", "naive", "mlp", None, "single", "single-phase", config_hash, ("abc",), tuple(range(n)),
                 {"average_accuracy": Stat(mean, std, n)}, None, (), ())


def row(mean=20.0, std=1.0, n=10, **fields):
    return Published(**{"experiment": "x", "table": "t", "row": "r", "metric": "average_accuracy", "mean": mean,
                        "std": std, "n": n, **fields})


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
    with pytest.raises(ConfigError, match="did you mean 'hsu2018/class"):
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


def test_a_deviation_that_was_not_published_is_taken_to_be_ours():
    assert Comparison(published=row(std=None), ours=Stat(20.89, 1.0, 10)).verdict == "inside"
    assert Comparison(published=row(std=None), ours=Stat(20.90, 1.0, 10)).verdict == "outside"


def test_nothing_is_judged_by_a_guide_or_by_one_run():
    assert Comparison(published=row(is_guide=True), ours=Stat(50.0, 1.0, 10)).verdict == "guide"
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
             Comparison(published=row(std=None, n=None, is_guide=True, experiment="hsu2018/class/gem"), ours=None)]
    text = comparison.as_text(found, width=120)
    assert "20.00 ± 1.00" in text and "25.00 ± 0.72" in text and "outside" in text and "+5.00" in text
    assert "one thing | another" in text and "(guide)" in text
    assert "not run: clf train experiment=hsu2018/class/gem seed=0..2" in text
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


HSU = {  # from the released scripts and table 2: coefficient (the penalty has no 1/2), mean, deviation
    "class": {"adam": (None, 19.71, 0.08), "sgd": (None, 19.46, 0.04), "l2": (100, 22.52, 1.08),
              "ewc": (600, 19.80, 0.05), "online_ewc": (100, 19.77, 0.04), "si": (600, 19.67, 0.09),
              "mas": (1, 19.52, 0.29), "lwf": (None, 24.17, 0.33), "gem": (0.5, 92.20, 0.12),
              "rehearsal": (1100, 90.78, 0.85), "rehearsal_c": (4400, 95.59, 0.49), "offline": (None, 97.53, 0.30)},
    "domain": {"adam": (None, 55.16, 1.38), "sgd": (None, 63.20, 0.35), "l2": (0.5, 66.00, 3.73),
               "ewc": (100, 58.85, 2.59), "online_ewc": (700, 57.33, 1.44), "si": (3000, 64.76, 3.09),
               "mas": (10000, 68.57, 6.85), "lwf": (None, 71.02, 1.26), "gem": (0.5, 96.16, 0.35),
               "rehearsal": (1100, 95.16, 0.49), "rehearsal_c": (4400, 97.11, 0.34), "offline": (None, 98.59, 0.15)},
    "task": {"adam": (None, 93.46, 2.01), "sgd": (None, 97.98, 0.09), "l2": (0.01, 98.18, 0.96),
             "ewc": (100, 97.70, 0.81), "online_ewc": (400, 98.04, 1.10), "si": (300, 98.56, 0.49),
             "mas": (1, 99.22, 0.21), "lwf": (None, 99.60, 0.03), "gem": (0.5, 98.42, 0.10),
             "rehearsal": (1100, 99.40, 0.08), "rehearsal_c": (4400, 99.57, 0.07), "offline": (None, 99.52, 0.16)},
}
OURS = {"l2": ("l2.importance", 2), "ewc": ("ewc.importance", 2), "online_ewc": ("online_ewc.importance", 2),
        "si": ("si.importance", 1), "gem": ("gem.memory_strength", 1), "rehearsal": ("er.memory_size", 1),
        "rehearsal_c": ("er.memory_size", 1)}
OUTPUTS = {"class": 10, "domain": 2, "task": 2}


@pytest.mark.parametrize("setting", HSU)
def test_the_presets_of_hsu_hold_what_the_scripts_and_the_table_say(setting):
    assert {name.rpartition("/")[2] for name in ROWS if name.startswith(f"hsu2018/{setting}/")} == set(HSU[setting])
    for name, (coefficient, mean, std) in HSU[setting].items():
        flat = preset("experiment", f"hsu2018/{setting}/{name}")
        (each,) = published([f"hsu2018/{setting}/{name}"])
        assert (each.mean, each.std, each.n) == (mean, std, 10)
        assert flat["scenario.incremental"] == setting and flat["scenario.pad"] == 2
        assert (flat["train.epochs"], flat["train.batch_size"], flat["train.reset_optimizer"]) == (4, 128, False)
        rate = ("sgd", 0.01) if name in ("sgd", "gem") else ("adam", 0.001)
        assert (flat["train.optimizer"], flat["train.lr"]) == rate
        if name in OURS:
            key, factor = OURS[name]
            assert flat[f"strategy.{key}"] == factor * coefficient
        if name == "mas":  # theirs averages over the outputs, ours sums
            assert flat["strategy.mas.importance"] == coefficient / OUTPUTS[setting]


DER = {  # from the released best_args.py: lr, minibatch, alpha, beta
    "split": {"sgd": (0.03,), "er200": (0.01, 10), "er500": (0.1, 10), "er5120": (0.1, 10), "agem200": (0.1, 128),
              "agem500": (0.1, 128), "icarl200": (0.1,), "der200": (0.03, 10, 0.2), "der500": (0.03, 128, 1.0),
              "derpp200": (0.03, 128, 0.2, 1.0), "derpp500": (0.03, 10, 1.0, 0.5), "derpp5120": (0.1, 64, 0.2, 0.5)},
    "permuted": {"sgd": (0.2,), "er200": (0.2, 128), "er500": (0.2, 128), "er5120": (0.2, 128), "agem200": (0.1, 128),
                 "agem500": (0.1, 128), "der200": (0.2, 128, 1.0), "der500": (0.2, 128, 1.0),
                 "derpp200": (0.1, 128, 1.0, 1.0), "derpp500": (0.2, 128, 1.0, 0.5),
                 "derpp5120": (0.2, 128, 0.5, 1.0)},
}


@pytest.mark.parametrize("kind", DER)
def test_the_presets_of_der_hold_what_its_code_says(kind):
    for name, (lr, *rest) in DER[kind].items():
        flat = preset("experiment", f"der2020_mnist/{kind}/{name}")
        part = name.rstrip("0123456789")
        size = name.removeprefix(part)
        assert flat["train.lr"] == lr and flat["train.batch_size"] == {"split": 10, "permuted": 128}[kind]
        keys = ("reference_batch_size",) if part == "agem" else ("replay_batch_size", "alpha", "beta")
        assert [flat[f"strategy.{part}.{key}"] for key, _ in zip(keys, rest, strict=False)] == rest
        assert not size or flat[f"strategy.{part}.memory_size"] == int(size)
        assert flat["scenario.normalise"] is False and flat["model.init"] == "xavier"
