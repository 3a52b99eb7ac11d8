"""The in-house anchor: some classes are learned before the stream, the body is taken over, the head begins anew."""

import itertools

import pytest
import torch

from cl_framework.check_runs import Stop, Stopped, same
from cl_framework.checkpoint import Vault
from cl_framework.cli import main
from cl_framework.errors import ConfigError, DataError
from cl_framework.fingerprint import fingerprint, overlap_faults
from cl_framework.models import CNN, MLP
from cl_framework.pretraining import give_weights
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.scenario import Part, ResidentStream
from cl_framework.scenarios._anchor import pretraining
from cl_framework.scenarios._cut import Labelled
from cl_framework.scenarios.custom import Custom
from cl_framework.scenarios.split import SplitDigits
from cl_framework.scenarios.split_text import SplitReuters8
from cl_framework.sources import ImageSet
from cl_framework.strategies.er import ER
from cl_framework.strategies.ewc import EWC
from cl_framework.strategies.opcm import OPCM
from cl_framework.strategy import Strategy
from cl_framework.types import Setting, StreamInfo

NET = MLP(hidden=[16])
RECIPE = Recipe(epochs=2, batch_size=32, lr=0.1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "anchor-data"  # shared: orders of classes are dealt once
    monkeypatch.setenv("CLF_DATA", str(folder))
    return folder / "pretrained"


def opened(phase="single", order_seed=None, **fields):
    return SplitDigits(**{"pretrain_classes": 4, "n_experiences": 3} | fields).open(phase, order_seed)


def given(stream, net=NET, recipe=RECIPE, seed=0):
    """A model as a run begins with it."""
    model = build_model(net, stream.info, seed)
    give_weights(model, stream, net, recipe, seed=seed)
    return model


def body(model):
    return {name: value.clone() for name, value in model.body.state_dict().items()}


def raw(data):
    return data.raw.flatten(1)


def names(stream):
    return [name for experience in stream for name in experience.class_names]


# which classes


@pytest.mark.parametrize(("phase", "before", "after"), [
    ("single", range(4), range(4, 10)), ("tuning", [0, 1], [2, 3, 4]), ("evaluation", [5, 6], [7, 8, 9])])
def test_the_first_classes_are_learned_before_and_the_others_are_the_stream(phase, before, after):
    digits = SplitDigits().read().images
    stream = opened(phase, pretrain_classes=len(before), n_experiences=3)
    learned = stream.pretraining.data
    place = torch.isin(digits.train_y, torch.tensor([*before]))
    assert torch.equal(raw(learned), digits.train_x[place].flatten(1))
    assert torch.equal(learned.y + before[0], digits.train_y[place])
    assert names(stream) == [str(label) for label in after] and stream.info.n_classes == len(after)
    assert sorted(label for experience in stream for label in experience.classes) == [*range(len(after))]
    assert sum(len(experience.train) for experience in stream) + len(learned) == int(
        torch.isin(digits.train_y, torch.tensor([*before, *after])).sum())


def test_the_order_of_the_stream_is_not_that_of_the_anchor(home):
    streams = [opened(order_seed=seed) for seed in (None, 0, 3)]
    assert len({tuple(names(stream)) for stream in streams}) > 1
    assert {frozenset(names(stream)) for stream in streams} == {frozenset("456789")}
    bodies = [body(given(stream)) for stream in streams]
    assert all(same(bodies[0], other) for other in bodies[1:])


def test_own_data_are_normalised_by_what_is_learned_before(tmp_path):
    import numpy as np

    y = np.arange(6).repeat(8)
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).normal(y[:, None], 1.0, (48, 3)).astype("float32"), y=y)
    scenario = Custom(path=str(tmp_path / "own.npz"), pretrain_classes=2, n_experiences=2)
    streams = [scenario.open("single", seed) for seed in (None, 1, 2)]
    assert {(stream.info.mean, stream.info.std) for stream in streams} == {(streams[0].info.mean, streams[0].info.std)}
    assert streams[0].info.mean[0] == pytest.approx(float(streams[0].pretraining.data.raw[:, 0].mean()), abs=1e-5)


def test_corpora_may_have_an_anchor_too(monkeypatch):
    rows = torch.arange(16, dtype=torch.float32).view(-1, 1).repeat(1, 4)
    y = torch.arange(8).repeat(2)
    data = Labelled(name="toy", images=ImageSet(rows, y, rows, y, "d"), class_names=tuple("abcdefgh"))
    monkeypatch.setattr(SplitReuters8, "read", lambda self: data)
    assert names(SplitReuters8(pretrain_classes=4).open("single", None)) == [*"efgh"]
    short = SplitReuters8(pretrain_classes=2, n_classes=4, n_experiences=2).open("single", None)
    assert names(short) == [*"cdef"] and short.info.n_classes == 4
    assert short.pretraining.data.y.unique().tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"but this phase has 6 classes; take at most 6 .*pretrain_classes=2"):
        SplitReuters8(pretrain_classes=2, n_classes=7).open("single", None)


# phases


def test_the_phases_share_no_row_and_a_leak_is_seen():
    tuning, evaluation = (opened(phase, pretrain_classes=2) for phase in ("tuning", "evaluation"))
    assert overlap_faults(fingerprint(tuning), fingerprint(evaluation), "evaluation") == []
    bare = opened("tuning", pretrain_classes=2)
    bare.pretraining = None
    ours, other = fingerprint(tuning), fingerprint(bare)
    assert ours.images > other.images and (ours.n_rows, ours.classes) == (other.n_rows, other.classes)
    leaking = opened("tuning", pretrain_classes=2)
    leaking.pretraining = evaluation.pretraining
    n = len({row.numpy().tobytes() for row in raw(evaluation.pretraining.data)})
    assert overlap_faults(fingerprint(leaking), fingerprint(evaluation), "evaluation") == [
        f"evaluation shares {n} images with the tuning stream: the phases must share none (rule R1)"]


# weights


def test_the_body_is_the_trained_one_and_the_head_is_fresh():
    stream, images = opened(), SplitDigits().read().images
    place = torch.isin(images.train_y, torch.arange(4))
    info = StreamInfo(n_experiences=1, n_classes=4, input_shape=(1, 8, 8), mean=stream.info.mean, std=stream.info.std)
    data = pretraining(SplitDigits().read(), range(4), None).data
    trained = build_model(NET, info, 7)
    part = Part(train=data, test=data, classes=(0, 1, 2, 3), class_names=("0", "1", "2", "3"))
    run_stream(Strategy(), ResidentStream(info, [part]), trained, recipe=RECIPE, seed=7)
    answers = trained(trained.preprocess(images.train_x[place])).logits.argmax(1)
    assert float((answers == images.train_y[place]).double().mean()) > 0.8  # it has learned something
    model, fresh = given(stream, seed=7), build_model(NET, stream.info, 7)
    assert same(body(model), body(trained)) and not same(body(model), body(fresh))
    assert same(dict(model.head.state_dict()), dict(fresh.head.state_dict())) and model.n_seen == 0


@pytest.mark.parametrize("net", [MLP(hidden=[8], norm="batch", head="growing"), MLP(hidden=[8], head="full"),
                                 CNN(channels=[4])])
def test_every_kind_of_head_and_running_statistics(net):
    stream = opened()
    model, fresh = given(stream, net), build_model(net, stream.info, 0)
    assert same(dict(model.head.state_dict()), dict(fresh.head.state_dict()))
    assert model.n_seen == fresh.n_seen and not same(body(model), body(fresh))
    moved = [name for name in body(model) if name.endswith("running_mean")]
    assert all(body(model)[name].any() for name in moved) and len(moved) == (0 if net.head == "full" else 1)
    run_stream(Strategy(), stream, model, recipe=RECIPE)


def test_a_seed_of_its_own_holds_for_all_runs():
    mine, fixed = opened(), opened(pretrain_seed=5)
    assert not same(body(given(mine, seed=0)), body(given(mine, seed=1)))
    assert same(body(given(fixed, seed=0)), body(given(fixed, seed=1)))
    assert same(body(given(fixed, seed=0)), body(given(mine, seed=5)))


def test_a_damaged_file_is_trained_anew(home, caplog):
    stream = opened(pretrain_seed=11)
    first = body(given(stream))
    file = max(home.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
    assert same(body(given(stream)), first) and "is damaged and is trained anew" in caplog.text


def test_a_model_that_is_trained_already_is_told_apart():
    class Trained(MLP):
        brings_weights = True

    with pytest.raises(ConfigError, match=r"trained already; leave scenario\.pretrain_classes out"):
        given(opened(), Trained(hidden=[16]))


# runs


@pytest.mark.parametrize("strategy", [OPCM, ER, EWC])
@pytest.mark.parametrize("stop", [Stop(after_experience=0), Stop(after_step=20)])
def test_a_run_that_is_taken_up_ends_with_the_same_bits(strategy, stop, tmp_path):
    stream, recipe = opened(), Recipe(epochs=2, batch_size=32, lr=0.1, checkpoint_every=0.0)
    whole, model = strategy(), given(stream)
    record = run_stream(whole, stream, model, recipe=recipe)
    with pytest.raises(Stopped):
        run_stream(strategy(), stream, given(stream), recipe=recipe, vault=Vault(tmp_path, "a"), observer=stop)
    other, again = strategy(), given(stream)
    resumed = run_stream(other, stream, again, recipe=recipe, vault=Vault(tmp_path, "a"))
    assert same(model.state_dict(), again.state_dict()) and same(record.accuracy, resumed.accuracy)
    assert same(whole.state_dict(), other.state_dict())


def test_experts_begin_at_the_anchor():
    stream, begun = opened(incremental="task"), []

    class Noted(OPCM):
        def before_experience(self, model, experience):
            super().before_experience(model, experience)
            begun.append(body(model))

    model = given(stream)
    before = body(model)
    run_stream(Noted(), stream, model, recipe=RECIPE)
    assert len(begun) == 3 and all(same(each, before) for each in begun)


def test_strategies_of_one_command_share_one_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    command = ["train", "scenario=split_digits", "strategy=naive,opcm", "scenario.n_experiences=3", "train.epochs=1",
               "track.wandb=disabled", f"out={tmp_path / 'runs'}"]
    assert main([*command, "scenario.pretrain_classes=4"]) == 0
    assert len(list((tmp_path / "data/pretrained").glob("*.safetensors"))) == 1
    assert capsys.readouterr().err.count("trains mlp before the stream") == 1
    assert main([*command[:3], "scenario.sizes=[2,2,6]", *command[4:]]) == 0  # without one
    folders = {path.parent for path in (tmp_path / "runs").rglob("seed0")}
    assert len(folders) == 4 and len(list((tmp_path / "data/pretrained").glob("*.safetensors"))) == 1


# faults


@pytest.mark.parametrize(("fields", "message"), [
    ({"pretrain_classes": -1}, "SplitDigits.pretrain_classes must be at least 0, got -1"),
    ({"pretrain_classes": 8}, "scenario.pretrain_classes=8 leaves 2 of the 10 classes of this phase for 3 experiences; "
                              "take 2 to 7, or 0"),
    ({"pretrain_classes": 11}, "leaves 0 of the 10 classes of this phase for 3 experiences"),
    ({"pretrain_classes": 1}, "pretrain_classes=1 leaves nothing to tell apart before the stream; take 2 to 7, or 0"),
    ({"pretrain_classes": 9, "n_experiences": 9}, "for 9 experiences; take 0, or fewer experiences"),
    ({"pretrain_classes": 4, "sizes": [2, 2]}, r"sums to 4; give positive numbers of classes that sum to the 6 classes "
                                              r"of this phase \(scenario.pretrain_classes=4 has taken the others\)"),
    ({"pretrain_classes": 9, "first": 2, "step": 2, "n_experiences": 5}, "leaves 1 of the 10 classes .* for 2 exp"),
    ({"pretrain_classes": 4, "n_experiences": 5}, "the 6 classes of this phase do not divide"),
    ({"pretrain_seed": -1}, "SplitDigits.pretrain_seed must be at least 0"),
])
def test_what_cannot_be_is_one_sentence(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
        opened(**fields)
    assert len(error.value.faults) == 1


def test_a_class_without_rows_is_named():
    y = torch.tensor([0, 0, 2, 2])
    data = Labelled(name="toy", images=ImageSet(torch.zeros(4, 1), y, torch.zeros(4, 1), y, ""), class_names=(*"abc",))
    with pytest.raises(DataError, match="class 'b' has no training rows; add some, or leave the class out"):
        pretraining(data, range(3), None)


@pytest.mark.parametrize(("incremental", "fields"), [
    *itertools.product(["class", "task", "domain"], [{}, {"is_online": True}]), ("class", {"blurry": 0.2})])
def test_every_setting_learns_with_an_anchor(incremental, fields):
    stream = opened(incremental=incremental, **fields)
    model = given(stream, recipe=Recipe(epochs=1, batch_size=32, lr=0.1))
    record = run_stream(Strategy(), stream, model, recipe=Recipe(epochs=1, batch_size=32, lr=0.1))
    assert record.n_done == 3 and stream.info.setting is Setting(incremental)
