"""What a long stream needs: evaluations that can be rarer, states and files that grow with what was measured."""

import csv
import json
from dataclasses import asdict, replace

import pytest
import torch

from cl_framework import cli
from cl_framework.checkpoint import Vault
from cl_framework.config import resolve
from cl_framework.configuration import hash_of
from cl_framework.errors import ClfError
from cl_framework.metrics import compute_all, installed_metrics
from cl_framework.observer import Observer
from cl_framework.packing import Packer, unpacked
from cl_framework.protocol import run_stream
from cl_framework.recipe import Recipe
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Setting

SIX = (2, 2, 2, 2, 2, 2)


class Stop(Observer):
    def evaluated(self, index, record, own):
        if index == 3:
            raise KeyError("stopped")


def learn(every, toy, **options):
    stream = toy.open()
    model = toy_model(stream)
    recipe = replace(toy_recipe(epochs=1), evaluate_every=every)
    return model, run_stream(Strategy(), stream, model, recipe=recipe, **options)


@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.DOMAIN])
def test_rarer_evaluations_are_a_part_of_all(setting):
    """The diagonal, every fourth row and the last one are those of a run that measures everything; weights too."""
    toy = Toy(sizes=SIX, setting=setting)
    (full, everything), (model, record) = learn(1, toy), learn(4, toy)
    assert all(torch.equal(a, b) for a, b in zip(full.parameters(), model.parameters(), strict=True))
    known = ~record.accuracy.isnan()
    width = 6 if setting is Setting.DOMAIN else 0
    expected = torch.eye(6, dtype=torch.bool)
    expected[3, : width or 4] = expected[5] = True
    assert torch.equal(known, expected) and torch.equal(record.accuracy[known], everything.accuracy[known])
    metrics, others = (compute_all(each, installed_metrics()) for each in (record, everything))
    for name in ("average_accuracy", "backward_transfer", "forgetting/first", "learning_accuracy", "stability"):
        assert metrics[name] == others[name], name
    assert "average_incremental_accuracy" not in metrics and "forgetting/max" not in metrics, "absent, never a NaN"


def test_a_run_with_rare_evaluations_goes_on(tmp_path):
    vault, toy = Vault(tmp_path, "run"), Toy(sizes=SIX)
    _, whole = learn(4, toy)
    with pytest.raises(KeyError):
        learn(4, toy, vault=vault, observer=Stop())
    _, record = learn(4, toy, vault=vault)
    assert torch.equal(record.accuracy.nan_to_num(-1), whole.accuracy.nan_to_num(-1))


def test_tables_are_unpacked_and_what_was_never_packed_passes():
    table, counts = torch.full((3, 3), torch.nan, dtype=torch.float64), torch.tensor([[0, 3], [0, 0]])
    table[1, 0], table[2, 2] = 0.0, 0.5
    small = {"table": {"shape": [3, 3], "at": torch.tensor([3, 8]), "values": torch.tensor([0.0, 0.5]).double()},
             "counts": Packer()({"counts": counts}, 2)["counts"], "row": counts[0], "n": 3, "joint": None}
    assert len(small["counts"]["values"]) == 1
    back = unpacked(small, {"table": table, "counts": counts})
    assert torch.equal(back["table"].nan_to_num(-1), table.nan_to_num(-1)) and torch.equal(back["counts"], counts)
    assert back["row"] is small["row"] and back["n"] == 3 and back["joint"] is None


@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.DOMAIN])
@pytest.mark.parametrize("every", [1, 4])
def test_each_checkpoint_of_a_run_has_every_entry_though_rows_are_looked_at_once(tmp_path, monkeypatch, setting, every):
    whole, given = list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]](), Packer.__call__

    def look(packer, tables, n_rows):
        found = given(packer, tables, n_rows)
        whole.append(({name: table.clone() for name, table in tables.items()}, unpacked(found, tables)))
        return found

    monkeypatch.setattr(Packer, "__call__", look)
    toy, vault = Toy(sizes=SIX, setting=setting), Vault(tmp_path, "run")
    with pytest.raises(KeyError):
        learn(every, toy, vault=vault, observer=Stop())
    learn(every, toy, vault=vault)
    assert len(whole) >= len(SIX)
    for expected, found in whole:
        assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_counts_in_float64_are_0_where_nothing_was_counted():
    hits = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    small = Packer()({"hits": hits}, 1)
    assert len(small["hits"]["values"]) == 1 and torch.equal(unpacked(small, {"hits": hits})["hits"], hits)
    del small["hits"]["nothing"]  # as an earlier version wrote it, with all entries
    earlier = {"hits": {**small["hits"], "at": torch.arange(4), "values": hits.flatten()}}
    assert torch.equal(unpacked(earlier, {"hits": hits})["hits"], hits)


def test_a_checkpoint_does_not_grow_with_the_square_of_the_stream(tmp_path):
    sizes = []
    for n in (10, 80):
        class Once(Observer):
            def evaluated(self, index, record, own):
                raise KeyError("stopped")

        vault = Vault(tmp_path / str(n), "run")
        with pytest.raises(KeyError):
            learn(1, Toy(sizes=(1,) * n, n_train=4, n_test=2), vault=vault, observer=Once())
        sizes.append(vault.files()[0].stat().st_size)
    assert sizes[1] - sizes[0] < 70 * 500, "three tables of counts alone would be 80 x 80 x 24 = 154 kB"


def test_tables_of_a_run_that_goes_on_are_whole(tmp_path):
    """Half a line, as a kill leaves it, is mended when the run goes on."""
    words = ["train", "scenario=split_digits", "strategy=naive", "train.epochs=1", "train.evaluate_every=3",
             "track.wandb=disabled"]
    assert cli.main([*words, f"out={tmp_path / 'whole'}"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_framework.launch.progress_for", lambda console, label: Stop())
        assert cli.main([*words, f"out={tmp_path / 'cut'}"]) == 1
    whole, cut = (next((tmp_path / name).rglob("metrics.jsonl")).parent for name in ("whole", "cut"))
    for name in ("metrics.jsonl", "accuracy.csv"):
        (cut / name).write_bytes((cut / name).read_bytes()[:-9])
    assert cli.main([*words, f"out={tmp_path / 'cut'}"]) == 0
    lines = [[json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()] for each in (whole, cut)]
    assert [line["accuracy"] for line in lines[0]] == [line["accuracy"] for line in lines[1]]
    assert [line["average_accuracy"] is None for line in lines[0]] == [False, True, False, True, False]
    rows = [[*csv.reader((each / "accuracy.csv").read_text().splitlines())] for each in (whole, cut)]
    assert rows[0] == rows[1] and len(rows[0]) == 6 and "nan" not in str(rows)


def test_later_fields_leave_old_hashes_alone():
    """The hash of a configuration from before the fields came is that of one that has them at their defaults."""
    tree = resolve({"scenario": "split_digits", "strategy": "er"}).tree
    old = {**tree, "train": {name: value for name, value in tree["train"].items()
                             if name not in ("on_nonfinite", "evaluate_every")}}
    assert hash_of(old) == hash_of(tree)
    for change in ({"on_nonfinite": "skip"}, {"evaluate_every": 2}):
        assert hash_of({**tree, "train": {**tree["train"], **change}}) != hash_of(tree)
    assert asdict(Recipe())["on_nonfinite"] == "stop"


def test_the_frame_of_prompts_came_later_too():
    tree = resolve({"scenario": "verifiable", "strategy": "rl", "model": "smollm2"}).tree
    assert hash_of(tree) == "b57306ad8e"
    assert hash_of({**tree, "model": {**tree["model"], "frame": "plain"}}) == "5a7a646808"


@pytest.mark.parametrize("shape", [[1 << 20, 1 << 20], [2, 3], [4], "much", None])
def test_a_table_of_another_shape_is_refused_before_it_is_made(shape):
    hits = torch.tensor([[1, 0], [0, 0]])
    small = Packer()({"hits": hits}, 1)
    with pytest.raises(ValueError, match="the table hits has shape"):
        unpacked({"hits": {**small["hits"], "shape": shape}}, {"hits": hits})
    with pytest.raises(ValueError, match="expected no table"):
        unpacked({"other": small["hits"]}, {"hits": hits})


def test_a_checkpoint_that_promises_a_huge_stream_is_refused_at_once(tmp_path):
    toy = Toy(sizes=SIX)
    learn(1, toy, vault=Vault(tmp_path, "run"))
    state = Vault(tmp_path, "run").load()
    state["record"]["n_experiences"] = 1 << 40
    Vault(tmp_path, "run").save(state, 6, 1 << 20)
    with pytest.raises(ClfError, match="another stream than one of 6 experiences"):
        learn(1, toy, vault=Vault(tmp_path, "run"))
