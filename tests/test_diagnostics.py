"""The diagnostics of a run: signals against their definitions, files that survive a kill, a run that stays the same."""

import json
import math
import time

import numpy as np
import pytest
import torch

from cl_framework.checkpoint import Vault
from cl_framework.diagnostics import Diagnostics, matrices
from cl_framework.geometry import signals
from cl_framework.layer_signals import Moments, layer_signals
from cl_framework.models import CNN, MLP
from cl_framework.observer import Observer, Observers
from cl_framework.pooled_signals import pooled, whole_model
from cl_framework.protocol import build_model, run_stream
from cl_framework.registry import load
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learn(folder=None, strategy=None, toy=None, model=None, more=(), checkpoint_every=1e9, **options):
    stream = (toy or Toy()).open()
    model = model(stream) if model else toy_model(stream)
    watching = [*([] if folder is None else [Diagnostics(folder)]), *more]
    record = run_stream(strategy or Strategy(), stream, model, recipe=toy_recipe(checkpoint_every=checkpoint_every),
                        observer=Observers(watching), **options)
    return model, record


def entries(folder):
    return json.loads((folder / "diagnostics.json").read_text())["experiences"]


class Stop(Observer):
    """Stops like a kill, at a step or at a moment of an experience."""

    def __init__(self, step=None, moment=None):
        self.step, self.moment = step, moment

    def stepped(self, cursor, losses):
        if self.step is not None and cursor.stream_step >= self.step:
            raise KeyError("stopped")

    def reached(self, moment, index, model):
        if (moment, index) == self.moment:
            raise KeyError("stopped")


# signals of a layer


def sequence(n=4, *, is_expert=False):
    """A weight learned n times; experts begin at the origin and are averaged."""
    origin, moments, current = draw(12, 15), [], draw(12, 15)
    for t in range(n):
        start = origin if is_expert else current
        trained = start + 0.1 * draw(12, 15, seed=10 + t)
        experts = [each.trained for each in moments]
        deployed = torch.stack([*experts, trained]).mean(0) if is_expert else trained
        moments.append(Moments(start=start, trained=trained, deployed=deployed))
        current = deployed
    return origin, moments


def measured(origin, moments):
    found, known = [], []
    for t, now in enumerate(moments):
        before = moments[t - 1].deployed if t else origin
        found.append(layer_signals(origin, now, before, iter(moments[:t]), known))
        known = known + found[-1].pairs
    return found


@pytest.mark.parametrize("is_expert", [False, True])
def test_conflicts_of_a_step_are_those_of_gcwm(is_expert):
    origin, moments = sequence(is_expert=is_expert)
    for t, found in enumerate(measured(origin, moments)):
        state = (moments[t].deployed - origin).double()
        for prefix, updates in (("", [(each.trained - each.start).double() for each in moments[:t + 1]]),
                                ("cumulative/", [(each.trained - origin).double() for each in moments[:t + 1]])):
            ours = signals([(updates, state)], rank=None, energy=1.0)
            expected = {"active": ours.active, "state": ours.state, "overall": ours.overall,
                        "state_gap": ours.state_gap, "global_gap": ours.global_gap}
            for name, value in expected.items():
                assert found.signals[prefix + name] == pytest.approx(value, abs=1e-6, nan_ok=True), (prefix, name, t)
    if is_expert:
        assert found.signals["active"] == found.signals["cumulative/active"]


def test_pairs_against_numpy():
    origin, moments = sequence()
    last = measured(origin, moments)[-1]
    updates = [(each.trained - each.start).double().numpy() for each in moments]
    state = (moments[-1].deployed - origin).double().numpy()
    new = updates[-1]
    assert len(last.pairs) == 3
    for old, pair in zip(updates, last.pairs, strict=False):
        nuclear = np.linalg.svd(new @ old.T, compute_uv=False).sum()
        total = (new**2).sum() + (old**2).sum()
        assert pair["conflict"] == pytest.approx(1 - 2 * nuclear / total)
        assert pair["cosine"] == pytest.approx((new * old).sum() / np.linalg.norm(new) / np.linalg.norm(old))
        assert pair["held"] == pytest.approx((state * old).sum() / (old**2).sum(), rel=1e-5)
        assert 0 < pair["jaccard"] <= min(pair["o1"], pair["o2"]) <= 1
    assert last.signals["cosine/smallest"] == min(pair["cosine"] for pair in last.pairs)
    assert last.signals["sum_norm"] == pytest.approx(np.linalg.norm(sum(updates)))
    assert last.signals["lambda"] == pytest.approx(
        np.linalg.norm(sum(updates)) / np.mean([np.linalg.norm(update) for update in updates]))


def test_nothing_learned_and_what_is_not_defined():
    origin, moments = sequence(1)
    still = Moments(start=moments[0].trained, trained=moments[0].trained, deployed=moments[0].trained)
    first, second = measured(origin, [moments[0], still])
    assert math.isnan(first.signals["active"]) and math.isnan(first.signals["conflict/before"])
    assert math.isnan(first.signals["retained"]) and first.signals["state"] == pytest.approx(0, abs=1e-9)
    assert first.signals["lambda"] == 1
    quiet = second.signals
    assert (quiet["update_norm"], quiet["update_rank"], quiet["sparsity/1e-4"], quiet["spectral_shift"]) == (0, 0, 1, 0)
    assert quiet["angle/left_max"] < 1e-7 and math.isnan(quiet["principal/0.1"]) and math.isnan(quiet["retained"])
    assert second.pairs[0]["conflict"] == 1 and second.pairs[0]["cosine"] == 0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_where_changes_lie_against_numpy(share):
    """Of the changed entries, those that are principal, small, and principal without being small."""
    weight, picked = draw(20, 30), draw(20, 30, seed=1) > 0.5
    moved = torch.where(picked, weight * 1.5, weight)
    found = measured(weight, [Moments(start=weight, trained=moved, deployed=moved)])[0].signals
    u, s, vt = np.linalg.svd(weight.double().numpy())
    rebuilt, size, n = np.abs((u[:, :8] * s[:8]) @ vt[:8]), np.abs(weight.numpy()), int(600 * share)
    principal, low = rebuilt >= np.sort(rebuilt, None)[-n], size <= np.sort(size, None)[n - 1]
    for name, mask in (("principal", principal), ("low", low), ("principal_not_low", principal & ~low)):
        assert found[f"{name}/{share}"] == pytest.approx(mask[picked.numpy()].mean())


def test_the_origin_is_compared_with_what_is_deployed():
    origin, moments = sequence(3, is_expert=True)
    last = measured(origin, moments)[-1].signals
    state = moments[-1].deployed - origin
    assert last["origin/update_norm"] == pytest.approx(float(state.norm()), rel=1e-5)
    assert last["origin/update_norm"] < last["update_norm"]


@pytest.mark.parametrize("rank", [5, 300])
def test_conflicts_of_large_updates_are_exact(rank):
    origin = torch.zeros(300, 320)
    updates = [draw(300, rank, seed=i) @ draw(rank, 320, seed=9 + i) for i in range(2)]
    moments = [Moments(start=origin, trained=update, deployed=update) for update in updates]
    found = measured(origin, moments)[-1]
    a, b = (update.double().numpy() for update in updates)
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    assert found.pairs[0]["conflict"] == pytest.approx(1 - 2 * nuclear / ((a**2).sum() + (b**2).sum()), abs=1e-6)


# over layers


def test_layers_are_weighted_by_how_much_they_moved():
    layers = [{"x": 1.0, "y": math.nan}, {"x": 4.0, "y": math.nan}, {"x": math.nan, "y": 7.0}]
    found = pooled(layers, [2.0, 1.0, 5.0])
    assert found.signals == {"x": 2.0, "y": 7.0} and found.means["x"] == found.medians["x"] == 2.5
    assert pooled([{"x": 3.0}], [0.0]).signals == {"x": 3.0}
    assert math.isnan(pooled([{"x": math.nan}], [1.0]).signals["x"])


def test_norms_are_those_of_the_whole_model():
    layers = [{"update_norm": 3.0, "sum_norm": 6.0, "origin/update_norm": 1.0, "cosine/smallest": 0.2},
              {"update_norm": 4.0, "sum_norm": 8.0, "origin/update_norm": 0.0, "cosine/smallest": -0.5}]
    found = whole_model(layers, [5.0])
    assert found == {"update_norm": 5.0, "update_norm/sum": 7.0, "origin/update_norm": 1.0, "sum_norm": 10.0,
                     "lambda": 2.0, "cosine/smallest": -0.5}


# a run


def test_a_run_writes_the_signals_of_each_experience(tmp_path):
    class Weights(Observer):
        def __init__(self):
            self.seen = {}

        def reached(self, moment, index, model):
            self.seen[moment, index] = matrices(model)["body.1.weight"]

    watch = Weights()
    learn(tmp_path, load("strategy", "opcm")(), more=[watch])
    found = entries(tmp_path)
    assert [entry["experience"] for entry in found] == [0, 1, 2]
    assert list(found[0]["layers"]) == ["body.1.weight"]
    assert [pair["earlier"] for pair in found[2]["pairs"]] == [0, 1]
    assert [pair["earlier"] for pair in found[2]["layers"]["body.1.weight"]["pairs"]] == [0, 1]
    origin = watch.seen["start", 0]
    for t, entry in enumerate(found):
        assert torch.equal(watch.seen["start", t], origin)
        update = watch.seen["trained", t] - origin
        state = watch.seen["deployed", t] - origin
        assert entry["signals"]["update_norm"] == pytest.approx(float(update.norm()), rel=1e-5)
        assert entry["signals"]["origin/update_norm"] == pytest.approx(float(state.norm()), rel=1e-5)
        assert entry["layers"]["body.1.weight"]["shape"] == [16, 16]
    assert not torch.equal(watch.seen["trained", 2], watch.seen["deployed", 2])
    assert not (tmp_path / "diagnostics").exists()


@pytest.mark.parametrize("name", ["naive", "ewc", "opcm"])
def test_nothing_of_a_run_changes(tmp_path, name):
    toy = Toy()
    plain, watched = (learn(folder, load("strategy", name)(), toy) for folder in (None, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(plain[0].parameters(), watched[0].parameters(), strict=True))
    assert torch.equal(plain[1].accuracy.nan_to_num(), watched[1].accuracy.nan_to_num())
    assert plain[1].strategy_metrics == watched[1].strategy_metrics


def test_generators_are_left_alone(tmp_path):
    model = toy_model(Toy().open())
    watch = Diagnostics(tmp_path)
    before = torch.get_rng_state()
    for moment in ("start", "trained", "deployed"):
        watch.reached(moment, 0, model)
    assert torch.equal(before, torch.get_rng_state()) and len(entries(tmp_path)) == 1


def test_the_time_of_observers_is_not_training_time():
    class Slow(Observer):
        def reached(self, moment, index, model):
            time.sleep(0.4)

    stream = Toy(sizes=(2,)).open()
    record = run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(epochs=1), observer=Slow())
    began = time.monotonic()
    run_stream(Strategy(), stream, toy_model(stream), recipe=toy_recipe(epochs=1))
    assert float(record.seconds.sum()) < time.monotonic() - began + 0.4


@pytest.mark.parametrize(("name", "stop"), [
    ("opcm", Stop(step=30)), ("opcm", Stop(moment=("start", 1))), ("opcm", Stop(moment=("trained", 2))),
    ("opcm", Stop(moment=("deployed", 1))), ("opcm", Stop(moment=("deployed", 2))), ("er", Stop(step=60))],
    ids=range(6))
def test_a_run_taken_up_again_has_the_same_diagnostics(tmp_path, name, stop):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    learn(whole, load("strategy", name)())
    options = {"vault": Vault(tmp_path / "checkpoints", "a")}
    with pytest.raises(KeyError):
        learn(cut, load("strategy", name)(), more=[stop], checkpoint_every=0, **options)
    assert (cut / "diagnostics").is_dir()
    learn(cut, load("strategy", name)(), **options)
    assert entries(cut) == entries(whole)


def test_a_run_begun_without_them_goes_on_without_them(tmp_path, caplog):
    options = {"vault": Vault(tmp_path / "checkpoints", "a")}
    with pytest.raises(KeyError):
        learn(None, more=[Stop(moment=("trained", 1))], **options)
    learn(tmp_path, **options)
    assert [record.message for record in caplog.records] == [
        "diagnostics are off: this run was begun without them, or what they kept was removed; give its command with "
        "track.diagnostics=true and another out=DIR"]
    assert not (tmp_path / "diagnostics.json").exists()


def test_a_head_that_grows_and_a_head_of_many_classes(tmp_path):
    def growing(stream):
        return build_model(MLP(hidden=[16], head="growing"), stream.info, 0)

    learn(tmp_path, toy=Toy(sizes=(9, 2, 3), n_train=6), model=growing)
    found = entries(tmp_path)
    assert [list(entry["layers"]) for entry in found] == [["body.1.weight", "head.weight"]] * 3
    assert all(math.isfinite(entry["layers"]["head.weight"]["signals"]["update_norm"]) for entry in found)
    body = found[2]["layers"]["body.1.weight"]["signals"]
    assert found[2]["signals"]["spectral_shift"] == pytest.approx(body["spectral_shift"])


def test_convolutions_are_matrices_and_small_ones_are_left_out(tmp_path):
    def convolutional(stream):
        return build_model(CNN(channels=[4, 8, 9]), stream.info, 0)

    model, _ = learn(tmp_path, model=convolutional)
    shapes = {name: layer["shape"] for name, layer in entries(tmp_path)[0]["layers"].items()}
    expected = {name: [value.shape[0], value[0].numel()] for name, value in model.named_parameters()
                if value.dim() == 4 and min(value.shape[0], value[0].numel()) >= 8}
    assert shapes == expected and len(shapes) == 2


def test_a_model_without_matrices(tmp_path):
    def small(stream):
        return build_model(MLP(hidden=[4]), stream.info, 0)

    learn(tmp_path, model=small)
    assert [(entry["signals"], entry["layers"]) for entry in entries(tmp_path)] == [({}, {})] * 3


def test_a_stream_without_labels(tmp_path):
    toy = Toy(is_labelled=False)
    learn(tmp_path, load("strategy", "tent")(), toy)
    assert len(entries(tmp_path)) == len(toy.sizes)


def test_weights_that_are_not_finite_are_left_to_the_run(tmp_path):
    model = toy_model(Toy().open())
    watch = Diagnostics(tmp_path)
    with torch.no_grad():
        model.body[1].weight[0, 0] = math.nan
    for moment in ("start", "trained", "deployed"):
        watch.reached(moment, 0, model)
    assert not (tmp_path / "diagnostics.json").exists()
