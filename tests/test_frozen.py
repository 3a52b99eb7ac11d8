"""Property 7 of the protocol: whatever is changed in `best.yaml` between the phases, phase 2 does not begin."""

import copy
import json
import shutil

import pytest
import yaml

from cl_framework import cli
from cl_framework.config import resolve
from cl_framework.configuration import hash_of
from cl_framework.errors import ConfigError
from cl_framework.frozen import read_tuned, seal_faults
from cl_framework.seal import digest_of, sealed
from cl_framework.trial_faults import trial_faults
from cl_framework.trials import Score, Trial
from cl_framework.tuned import digest
from cl_framework.tuning_runs import held_against
from cl_framework.winner import hashes_of, tree_of

TUNE = ["tune", "scenario=split_digits", "strategy=er", "scenario.sizes=[2,3]", "train.epochs=1", "search.trials=4",
        "search.seeds=2", "track.wandb=disabled", "search.space.train.lr=0.1,0.01,0.001"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A study of 4 trials x 2 seeds."""
    out = tmp_path_factory.mktemp("study")
    assert cli.main([*TUNE, f"out={out}"]) == 0
    (path,) = out.glob("tune/*/*/*/best.yaml")
    return path


def leaves(value, path=()):
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def another(value):
    """Something of the same kind, where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {str: "another", list: ["another"], dict: {"another": 1}, type(None): "another"}[type(value)]


def at(made, path):
    for key in path:
        made = made[key]
    return made


def test_any_leaf_that_is_changed_gives_another_digest(tuned):
    made = yaml.safe_load(tuned.read_text())
    assert seal_faults(made) == []
    paths = [path for path in leaves(made) if path != ("digest",)]
    assert len(paths) > 200
    for path in paths:
        edited = copy.deepcopy(made)
        at(edited, path[:-1])[path[-1]] = another(at(made, path))
        assert "changed by hand" in seal_faults(edited)[0], path


def test_a_field_of_each_kind_keeps_phase_2_from_beginning(tuned, tmp_path):
    made, seen = yaml.safe_load(tuned.read_text()), set()
    for path in leaves(made):
        if path[0] in seen:
            continue
        seen.add(path[0])
        edited = copy.deepcopy(made)
        at(edited, path[:-1])[path[-1]] = another(at(made, path))
        (tmp_path / "best.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
        with pytest.raises(ConfigError):
            read_tuned(tmp_path)
    assert seen == set(made)


def test_json_and_yaml_give_one_digest(tuned):
    made = yaml.safe_load(tuned.read_text())
    assert digest_of(json.loads(json.dumps(made))) == digest_of(made) == made["digest"]


def loser(made):
    """The number of a trial that did not win, with other values than the winner's."""
    return next(each["trial"] for each in made["trials"] if each["values"] != made["winner"]["values"])


def name_winner(made, number):
    made["winner"].update({key: made["trials"][number][key] for key in ("trial", "values", "mean", "std", "hash")})


def prune_the_better(made):
    number = loser(made)
    for trial in made["trials"]:
        if trial["mean"] >= made["trials"][number]["mean"] and trial["trial"] != number:
            trial["state"] = "pruned"
    name_winner(made, number)


def lift(made, by):
    trial = made["trials"][loser(made)]
    for score in trial["seeds"].values():
        score["value"] += by
    trial["mean"] += by
    name_winner(made, trial["trial"])


def drop_the_others(made):
    number = loser(made)
    made["trials"] = [made["trials"][number]]
    name_winner(made, number - number)


def fail_the_winner(made):
    trial = made["trials"][made["winner"]["trial"]]
    for score in trial["seeds"].values():
        score.update(value=made["chance"], average_accuracy=made["chance"], failure="diverged")
    trial.update(state="failed", mean=made["chance"])
    others = [each for each in made["trials"] if each is not trial]
    name_winner(made, max(others, key=lambda each: each["mean"])["trial"])


def drop_a_seed(made):
    del made["trials"][3]["seeds"][1]


FORGED = {
    "is pruned, but search.stop is none": prune_the_better,
    "which is no accuracy between 0 and 1": lambda made: lift(made, 0.9),
    "its run measured average_incremental_accuracy=": lambda made: lift(made, 0.004),
    "trials 0 to 3 belong there": drop_the_others,
    "is listed as failed": fail_the_winner,
    r"with the seeds \[0\], but every trial has": drop_a_seed,
    "but search.evaluate is": lambda made: made.update(evaluate=["split_mnist"]),
    r"phase is single, but with evaluate=\[\]": lambda made: made.update(phase="single"),
}


@pytest.mark.parametrize("message", FORGED)
def test_a_forger_who_seals_again_is_found_where_the_runs_are_there(tuned, message):
    made = yaml.safe_load(tuned.read_text())
    FORGED[message](made)
    path = tuned.with_name("forged.yaml")
    path.write_text(yaml.safe_dump(sealed(made), sort_keys=False))
    with pytest.raises(ConfigError, match=message):
        read_tuned(path)
    path.unlink()


def test_a_pruned_trial_that_was_above_every_complete_one_is_found():
    """One that is above all complete trials is not below their median."""
    def trial(number, values, state="complete"):
        return Trial(number=number, values={}, state=state, scores={
            seed: Score(value=value, average_accuracy=0.5, n_parameters=1.0, seconds=1.0)
            for seed, value in enumerate(values)})

    made = {"search": {"trials": 2, "stop": "median"}, "seeds": [0, 1], "chance": 0.1}
    below, above = trial(1, [0.4], "pruned"), trial(1, [0.6], "pruned")
    assert trial_faults(made, [trial(0, [0.5, 0.9]), below]) == []
    assert trial_faults(made, [trial(0, [0.5, 0.9]), above]) == [
        "trial 1 is pruned, but no complete trial was above it with as many seeds"]
    assert "before its last" in trial_faults(made, [trial(0, [0.5, 0.9]), trial(1, [0.4, 0.4], "pruned")])[0]


def test_the_runs_of_a_whole_study_hold_its_numbers(tuned, tmp_path):
    made = read_tuned(tuned).made
    held = held_against(made, tuned.parent)
    assert (held.faults, held.n_there, held.n_all) == ([], 8, 8)
    elsewhere = held_against(made, tmp_path)
    assert (elsewhere.faults, elsewhere.n_there, elsewhere.n_all) == ([], 0, 8)


PLUGIN = '''
from dataclasses import dataclass
from cl_framework.strategies.naive import Naive

@dataclass(kw_only=True)
class Mine(Naive):
    """Fine-tuning, once more."""
'''


def test_a_comment_in_a_plugin_is_a_note_and_no_fault(tmp_path, monkeypatch, capsys):
    """The source of a plugin that is named by its path counts in the hash of its runs; the study stays readable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "frozen_mine.py").write_text(PLUGIN)
    assert cli.main(["tune", "scenario=split_digits", "strategy=frozen_mine:Mine", "train.epochs=1", "search.trials=1",
                     "search.seeds=1", "track.wandb=disabled", f"out={tmp_path / 'out'}"]) == 0
    (path,) = tmp_path.glob("out/tune/*/*/*/best.yaml")
    made = yaml.safe_load(path.read_text())
    assert len(made["code"]["strategy frozen_mine:Mine"]["frozen_mine"]) == 64
    assert "cl_framework.strategies.naive" in made["code"]["strategy frozen_mine:Mine"]
    assert "scenario split_digits" in made["code"] and "model mlp" in made["code"]
    (tmp_path / "frozen_mine.py").write_text(PLUGIN + "# a comment\n")
    capsys.readouterr()
    assert cli.main(["evaluate", f"tuned={path}", "defaults=false"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the source of strategy frozen_mine:Mine (frozen_mine) has changed since tuning" in said
    shutil.rmtree(tmp_path / "out")


def test_the_hash_of_the_values_is_that_of_the_winner(tuned):
    made = read_tuned(tuned).made
    assert made["winner"]["hash"] == digest(made["winner"]["values"])


def test_a_record_outlives_new_fields_of_a_plugin():
    """Hashes of a record from before a field existed: those of the winner and those of the defaults."""
    tree = resolve({"scenario": "split_digits", "strategy": "er", "order_seed": 3, "seed": 3}).tree
    del tree["scenario"]["pad"], tree["strategy"]["er"]["policy"]
    searched = {"train.lr": tree["train"].pop("lr"), "strategy.er.replay_batch_size":
                tree["strategy"]["er"].pop("replay_batch_size")}
    base = {key: tree[key] for key in ("scenario", "strategy", "model", "train", "trainer")}
    made = {"base": base, "tracking": tree["track"], "winner": {"values": searched}, "scenario": "split_digits",
            "protocol": None}
    then = tree_of(made, searched, 3, "single")
    for values in (searched, {}):
        assert hash_of(then) in hashes_of(made, values, 3, "single")
    assert hash_of(then) not in hashes_of(made, {"train.lr": 0.5}, 3, "single")
