"""What the two phases of the protocol share, and what not: splits, orders, budgets and both kinds of transfer."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from cl_framework import cli
from cl_framework.errors import ConfigError
from cl_framework.evaluation import evaluate
from cl_framework.fingerprint import fingerprint
from cl_framework.frozen import read_tuned
from cl_framework.scenario import FirstExperiences
from cl_framework.scenarios._cut import Labelled
from cl_framework.scenarios._split import Split
from cl_framework.sources import ImageSet
from cl_framework.types import Phase
from cl_framework.winner import targets


@dataclass(kw_only=True)
class Like100(Split):
    """A hundred classes of 500 training and 100 held-out rows as CIFAR-100 has them; each row is its own number."""

    def read(self):
        """Rows in the order of their numbers."""
        parts = []
        for n, start in ((500, 0), (100, 50_000)):
            number = torch.arange(start, start + 100 * n)
            rows = torch.stack([number // 2 ** (8 * place) % 256 for place in range(4)], dim=1).to(torch.uint8)
            parts += [rows.view(-1, 1, 2, 2), torch.arange(100).repeat(n)]
        return Labelled(name="toy", images=ImageSet(*parts, ""), class_names=tuple(map(str, range(100))))


def test_cifar_50_halves_have_25000_and_5000_rows_that_nothing_else_has():
    """GTEP's CIFAR-50-1 and CIFAR-50-2: classes 0 to 49, and 50 to 99 under the labels 0 to 49."""
    seen = {}
    for phase, names in ((Phase.TUNING, range(50)), (Phase.EVALUATION, range(50, 100))):
        stream = Like100(n_experiences=10).open(phase, None)
        train = [each.train for each in stream]
        held_out = [stream.test(index).data for index in range(len(stream))]
        assert (sum(map(len, train)), sum(map(len, held_out))) == (25_000, 5_000)
        assert torch.cat([data.y for data in train]).unique().tolist() == list(range(50))
        assert [name for each in stream for name in each.class_names] == [str(name) for name in names]
        raw = torch.cat([data.raw for data in (*train, *held_out)]).flatten(1).long()
        numbers = (raw * 256 ** torch.arange(4)).sum(dim=1)
        labels = torch.cat([data.y for data in (*train, *held_out)])
        assert torch.equal(numbers % 100, labels + min(names)), "row n has class n modulo 100"
        seen[phase] = (set(numbers.tolist()), fingerprint(stream).images)
    (first, images), (second, others) = seen.values()
    assert len(first) == len(second) == len(images) == len(others) == 30_000
    assert not first & second and not images & others


@dataclass(kw_only=True)
class Hundred(Split):
    """A hundred classes of five rows."""

    def read(self):
        """Generated rows."""
        y = torch.arange(100).repeat(5)
        x = torch.arange(500, dtype=torch.uint8).view(-1, 1, 1, 1)
        return Labelled(name="toy", images=ImageSet(x, y, x, y, ""), class_names=tuple(map(str, range(100))))


@pytest.mark.parametrize(("fields", "sizes"), [({"n_experiences": 10}, [5] * 10),
                                               ({"first": 25, "step": 5}, [25, 5, 5, 5, 5, 5])])
def test_halves_of_a_hundred_classes(fields, sizes):
    tuning, evaluation = (Hundred(**fields).open(phase, 0) for phase in (Phase.TUNING, Phase.EVALUATION))
    assert [len(part.classes) for part in tuning] == [len(part.classes) for part in evaluation] == sizes
    names = [{name for part in stream for name in part.class_names} for stream in (tuning, evaluation)]
    assert names == [{str(label) for label in range(50)}, {str(label) for label in range(50, 100)}]
    assert all(max(max(part.classes) for part in stream) == 49 for stream in (tuning, evaluation))


def test_increments_that_do_not_divide_are_refused():
    for phase in (Phase.TUNING, Phase.EVALUATION):
        with pytest.raises(ConfigError, match="first"):
            Hundred(first=25, step=6).open(phase, 0)


def test_the_order_is_a_function_of_the_seed_alone_and_the_same_in_both_phases():
    def order(phase, seed):
        stream = Hundred(n_experiences=10).open(phase, seed)
        return np.array([int(name) for part in stream for name in part.class_names])

    for seed in range(4):
        np.testing.assert_array_equal(order(Phase.TUNING, seed), order(Phase.TUNING, seed))
        np.testing.assert_array_equal(order(Phase.TUNING, seed) + 50, order(Phase.EVALUATION, seed))
    assert len({tuple(order(Phase.TUNING, seed)) for seed in range(4)}) == 4


def test_what_any_seed_takes_counts_as_taken():
    starts = [FirstExperiences(Hundred(n_experiences=10).open(Phase.SINGLE, seed), 2) for seed in range(3)]
    alone = [fingerprint(start) for start in starts]
    together = fingerprint(*starts)
    assert together.images == frozenset.union(*(each.images for each in alone)) > alone[0].images
    assert set(together.classes) == {label for each in alone for label in each.classes}
    assert together.n_rows == alone[0].n_rows


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A study that reports on its own data set among others, with more seeds than it tunes with."""
    out = tmp_path_factory.mktemp("study")
    assert cli.main(["tune", "scenario=split_digits", "strategy=naive", "scenario.sizes=[2,3]", "train.epochs=1",
                     "search.trials=2", "search.seeds=1", "search.evaluation_seeds=3",
                     "search.evaluate=[split_digits]", f"out={out}"]) == 0
    (path,) = out.glob("tune/*/*/*/best.yaml")
    return path


def test_the_tuned_scenario_among_the_reported_ones_halves_every_phase(tuned):
    made = read_tuned(tuned).made
    assert made["phase"] == "tuning" and made["classes"] == [f"digits:{label}" for label in range(5)]
    with_another = targets({**made, "evaluate": ["split_mnist", "split_digits"]})
    assert [(each.scenario, each.phase, each.flavour) for each in with_another] == [
        ("split_mnist", "evaluation", "across data sets"),
        ("split_digits", "evaluation", "other classes of the same data set")]
    assert [each.phase for each in targets({**made, "evaluate": ["split_mnist"]})] == ["single"]


def test_more_seeds_may_be_reported_than_tuned_with(tuned):
    record = evaluate(tuned, None, 1, "clf evaluate", Console(quiet=True)).record
    (part,) = record["evaluation"]
    assert [run["seed"] for run in part["runs"]] == [0, 1, 2] and part["result"]["n"] == 3
    assert record["tuning"]["result"]["n"] == 1 and "R9" not in record["broken"] and "R5" not in record["broken"]


def test_a_changed_number_of_seeds_is_found(tuned, tmp_path):
    made = yaml.safe_load(tuned.read_text())
    made["evaluation_seeds"] = [0]
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    with pytest.raises(ConfigError, match="evaluation_seeds"):
        read_tuned(path)
