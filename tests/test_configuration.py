"""Which runs are one configuration: over order seeds, told by the `config.yaml` of each and its hash."""

import json
import sys

import pytest
import yaml

from cl_framework.config import resolve
from cl_framework.configuration import UNKNOWN, hash_of, read_configuration
from cl_framework.report import as_text, groups, report
from cl_framework.report_files import as_json

PLUGIN = '''"""Nothing, after Nobody (2000)."""

from dataclasses import dataclass

from cl_framework import Strategy


@dataclass(kw_only=True, eq=False)
class {name}(Strategy):
    """Learns as it comes."""
'''


def write(root, accuracy, **chosen):
    """The run folder of a configuration as `clf train` would leave it; the job."""
    job = resolve({"scenario": "split_digits", "strategy": "naive", **chosen})
    folder = root / f"{job.hash}-seed{job.seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(job.yaml())
    (folder / "summary.json").write_text(json.dumps({
        "scenario": job.name("scenario"), "strategy": job.name("strategy"), "model": job.name("model"),
        "seed": job.seed, "order_seed": job.order_seed, "phase": "single", "protocol": "single-phase",
        "config_hash": job.hash, "git_commit": None, "metrics": {"average_accuracy": accuracy},
        "accuracy_matrix": None, "seconds": 1.0, "status": "finished"}))
    return job


def test_runs_over_orders_and_seeds_are_one_group(tmp_path):
    jobs = [write(tmp_path, 0.5 + seed / 10 + order / 100, order_seed=order, seed=seed)
            for order in (3, 11) for seed in (0, 1)]
    [group] = groups(tmp_path)
    assert (group.order_seed, group.seeds, group.n) == ((3, 11), (0, 1, 0, 1), 4)
    assert [run.block for run in group.runs] == [(3, 0), (3, 1), (11, 0), (11, 1)]
    tree = {key: value for key, value in jobs[0].tree.items() if key != "order_seed"}
    assert group.config_hash == hash_of(tree)  # the framework's own hash, of the configuration without the order
    assert "2 order seeds" in as_text([group])
    plain, = json.loads(as_json([group]))
    assert plain["order_seed"] == [3, 11] and plain["blocks"] == [[3, 0], [3, 1], [11, 0], [11, 1]]
    assert plain["config_hashes"] == [job.hash for job in jobs] and len(set(plain["config_hashes"])) == 2
    assert plain["metrics"]["average_accuracy"]["values"] == pytest.approx([0.53, 0.63, 0.61, 0.71])


def test_one_order_keeps_its_seed_and_hash_and_the_natural_order_stands_alone(tmp_path):
    natural, third = write(tmp_path, 0.5), write(tmp_path, 0.5, order_seed=3)
    first, second = groups(tmp_path)
    assert (first.order_seed, first.config_hash) == (None, natural.hash)
    assert (second.order_seed, second.config_hash) == (3, third.hash)
    text = as_text([first, second])
    assert "natural order" in text and "order seed 3" in text


def test_other_hyperparameters_are_another_group_and_other_bookkeeping_is_not(tmp_path):
    write(tmp_path, 0.5, order_seed=0)
    write(tmp_path, 0.5, order_seed=1, **{"train.checkpoint_every": 7.0, "track.wandb": "disabled"})
    write(tmp_path, 0.5, order_seed=2, **{"train.lr": 0.5})
    assert sorted(str(group.order_seed) for group in groups(tmp_path)) == ["(0, 1)", "2"]


def test_another_length_of_the_stream_is_another_table(tmp_path):
    for n in (2, 5):
        for strategy in ("naive", "er"):
            for seed in (0, 1):
                write(tmp_path, 0.5, strategy=strategy, seed=seed, **{"scenario.n_experiences": n})
    found = groups(tmp_path)
    text = as_text(found, width=200)
    assert "single-phase · n_experiences=2" in text and "single-phase · n_experiences=5" in text
    assert [row["compared"]["ranking"]["n"] for row in json.loads(as_json(found))] == [2] * 4


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The file of a strategy of one's own in the folder one stands in; its name."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(name="Own"))
    yield name
    sys.modules.pop(name, None)


def test_a_strategy_by_path_is_pooled_while_its_source_is_the_same(tmp_path, plugin, capsys):
    for order in (0, 1):
        write(tmp_path / "runs", 0.5, strategy=f"{plugin}:Own", order_seed=order)
    assert [group.n for group in groups(tmp_path / "runs")] == [2]
    (tmp_path / f"{plugin}.py").write_text(PLUGIN.format(name="Own") + "\n# changed\n")
    assert [group.n for group in groups(tmp_path / "runs")] == [1, 1]
    report(tmp_path / "runs")
    said = capsys.readouterr().out
    assert f"2 configurations of {plugin}:Own on split_digits are not pooled over order seeds" in said


@pytest.mark.parametrize("content", [None, "", "seed: 0\n", "{", "[1]", "scenario: {name: x}\n", b"\xff\xfe\xfa"])
def test_a_configuration_that_cannot_be_read_is_not_known(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_configuration(tmp_path, "0123456789") == UNKNOWN


def test_an_edited_file_gives_no_digest(tmp_path):
    job = write(tmp_path, 0.5, order_seed=1)
    folder = tmp_path / f"{job.hash}-seed0"
    known = read_configuration(folder, job.hash)
    (folder / "config.yaml").write_text(yaml.safe_dump({**job.tree, "order_seed": 2}))
    assert known.digest is not None and read_configuration(folder, job.hash).digest is None
