"""SLDA, NCM, PackNet and independent models against scikit-learn, Avalanche, brute force and separate training."""

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import copy
import dataclasses
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cl_framework.check_runs import Stop, assert_same_result, learn
from cl_framework.checkpoint import Vault
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.evaluate import answer
from cl_framework.experience import Experience
from cl_framework.models import CNN, MLP
from cl_framework.observer import Observer
from cl_framework.protocol import build_model, check_needs, run_stream
from cl_framework.recipe import Recipe
from cl_framework.strategies.independent import Independent
from cl_framework.strategies.ncm import NCM
from cl_framework.strategies.packnet import PackNet
from cl_framework.strategies.slda import SLDA
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Setting

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import StreamingLDA


def labelled_rows(n=300, n_features=6, n_classes=4):
    """Gaussian classes that share a covariance and differ in size, float64."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1])[:n_classes], n, replacement=True, generator=generator)
    mixing = torch.randn(n_features, n_features, generator=generator).double()
    means = 2 * torch.randn(n_classes, n_features, generator=generator).double()
    return means[y] + torch.randn(n, n_features, generator=generator).double() @ mixing, y


def fresh_slda(n_features, n_classes, **fields):
    model = build_model(MLP(hidden=[n_features]), Toy(sizes=(n_classes,)).open().info, 0)
    strategy = SLDA(**fields)
    strategy.setup(model, Toy(sizes=(n_classes,)).open().info)
    return strategy


def features(model, data):
    model.eval()
    with torch.no_grad():
        return model(model.preprocess(data.raw)).features.double()


# SLDA


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1])
def test_slda_solves_the_stated_equations(shrinkage):
    rows, y = labelled_rows()
    strategy = fresh_slda(6, 4, shrinkage=shrinkage)
    strategy._add(rows, y)
    strategy._solve()
    z, labels = rows.numpy(), y.numpy()
    within = sum(np.cov(z[labels == k].T, bias=True) * (labels == k).mean() for k in range(4))
    lam = np.linalg.inv((1 - shrinkage) * within + shrinkage * np.eye(6))
    means = np.stack([z[labels == k].mean(0) for k in range(4)])
    assert np.allclose(strategy._weight.numpy(), means @ lam)
    assert np.allclose(strategy._bias.numpy(), [-0.5 * m @ lam @ m for m in means])


def test_slda_is_scikit_learns_lda_without_its_priors():
    rows, y = labelled_rows()
    strategy = fresh_slda(6, 4, shrinkage=1e-12)
    strategy._add(rows, y)
    strategy._solve()
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(rows.numpy(), y.numpy())
    assert np.allclose(strategy._weight.numpy(), lda.coef_)
    assert np.allclose(strategy._bias.numpy(), lda.intercept_ - np.log(lda.priors_))


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("order", ["drawn", "reversed", "by class"])
def test_neither_order_nor_batches_matter_to_slda(size, order):
    rows, y = labelled_rows()
    places = {"drawn": torch.arange(300), "reversed": torch.arange(299, -1, -1), "by class": y.argsort()}[order]
    strategy, whole = fresh_slda(6, 4), fresh_slda(6, 4)
    whole._add(rows, y)
    for part in places.split(size):
        strategy._add(rows[part], y[part])
    assert torch.allclose(strategy._scatter, whole._scatter, rtol=1e-11, atol=1e-10)
    assert torch.allclose(strategy._classes.means, whole._classes.means, rtol=1e-12)
    assert torch.equal(strategy._classes.counts, whole._classes.counts)


def test_one_row_of_slda_is_the_stated_update():
    rows, y = labelled_rows(50)
    strategy = fresh_slda(6, 4)
    mean, count, scatter = torch.zeros(4, 6).double(), [0] * 4, torch.zeros(6, 6).double()
    for z, k in zip(rows, y.tolist(), strict=True):
        d = z - mean[k]
        scatter += count[k] / (count[k] + 1) * torch.outer(d, d)
        mean[k] = (count[k] * mean[k] + z) / (count[k] + 1)
        count[k] += 1
        strategy._add(z.unsqueeze(0), torch.tensor([k]))
    assert torch.allclose(strategy._scatter, scatter) and torch.allclose(strategy._classes.means, mean)


def avalanche_slda(rows, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = StreamingLDA(slda_model=torch.nn.Identity(), criterion=torch.nn.CrossEntropyLoss(), input_size=6,
                              num_classes=4, evaluator=EvaluationPlugin(loggers=[]))
    for z, k in zip(rows.float(), y, strict=True):
        theirs.fit(z.unsqueeze(0), k.unsqueeze(0))
    return theirs


def test_avalanches_slda_differs_by_the_first_rows_of_classes_alone():
    """Their covariance weighs a deviation by the count of all rows, so it exceeds ours by those terms."""
    rows, y = labelled_rows()
    theirs, ours = avalanche_slda(rows, y), fresh_slda(6, 4)
    ours._add(rows, y)
    ours._solve()
    assert torch.allclose(theirs.muK.double(), ours._classes.means, atol=1e-4)
    extra, mean, count = torch.zeros(6, 6).double(), torch.zeros(4, 6).double(), torch.zeros(4)
    for t, (z, k) in enumerate(zip(rows, y.tolist(), strict=True)):
        d, c = z - mean[k], count[k].item()
        extra += (t / (t + 1) - c / (c + 1)) * torch.outer(d, d)
        mean[k] += d / (c + 1)
        count[k] += 1
    assert torch.allclose(theirs.Sigma.double(), (ours._scatter + extra) / 300, atol=1e-3)
    scores = rows @ ours._weight.T + ours._bias
    agree = (theirs.predict(rows.float()).argmax(1) == scores.argmax(1)).double().mean()
    assert agree > 0.97


@pytest.mark.parametrize("make", [SLDA, NCM])
@pytest.mark.parametrize("body", ["first", "frozen"])
def test_the_body_is_trained_in_the_first_experience_alone(make, body):
    toy = Toy()
    result = learn(make(body=body), toy.open())
    plain = toy_model(toy.open())
    if body == "first":
        class First(Observer):
            def evaluated(self, index, record, own):
                if index == 0:
                    weights.update(copy.deepcopy(plain.state_dict()))

        weights = {}
        run_stream(Strategy(), toy.open(), plain, recipe=toy_recipe(), observer=First())
    else:
        weights = plain.state_dict()
    for name, value in result.model.state_dict().items():
        if name.startswith("body"):
            assert torch.equal(value, weights[name]), name


def test_slda_answers_from_the_features_of_all_experiences():
    toy = Toy()
    result = learn(SLDA(body="frozen", shrinkage=0.01), toy.open())
    data = Dataset.concat([experience.train for experience in toy.open()])
    z = features(result.model, data).numpy()
    within = sum(np.cov(z[data.y == k].T, bias=True) / 6 for k in range(6))
    lam = np.linalg.inv(0.99 * within + 0.01 * np.eye(16))
    means = np.stack([z[data.y == k].mean(0) for k in range(6)])
    test = next(toy.open().test(1).data.batches(16))
    expected = features(result.model, test).numpy() @ lam @ means.T - 0.5 * ((means @ lam) * means).sum(1)
    assert np.allclose(answer(result.strategy, result.model, test).numpy(), expected, rtol=1e-4, atol=1e-3)
    assert result.strategy.metrics()["memory_bytes"] == 8 * (6 + 6 * 16 + 16 * 16 + 6 * 16 + 6)
    assert result.model.n_seen == 6


# NCM


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.DOMAIN])
def test_ncm_answers_with_the_nearest_mean(normalize, setting):
    toy = Toy(setting=setting)
    result = learn(NCM(body="frozen", normalize=normalize), toy.open())
    data = Dataset.concat([experience.train for experience in toy.open()])
    test = next(toy.open().test(1).data.batches(16))
    z, x = features(result.model, data).numpy(), features(result.model, test).numpy()
    if normalize:
        z, x = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (z, x))
    means = np.stack([z[data.y == k].mean(0) for k in range(int(data.y.max()) + 1)])
    if normalize:
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = -((x[:, None] - means) ** 2).sum(2)
    assert np.allclose(answer(result.strategy, result.model, test).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert result.strategy.metrics()["memory_bytes"] == 8 * len(means) * (1 + 16)


@pytest.mark.parametrize("make", [SLDA, NCM])
def test_class_statistics_hold_with_classes_that_come_in_pieces(make):
    """An experience with one class, classes that come again, and logits for classes not met."""
    stream = Toy(sizes=(4,)).open()
    model, strategy, data = toy_model(stream), make(), stream[0].train
    strategy.setup(model, stream.info)
    model.observe((0, 1, 2, 3))
    x = model.preprocess(data.raw)
    assert torch.equal(strategy.predict(model, x, None), model(x).logits)
    for label, start in ((2, 0), (0, 0), (2, 11), (0, 11)):
        rows = (data.y == label).nonzero().squeeze(1)[start:start + 11]
        experience = Experience(index=0, classes=(label,), class_names=("",), train=data.subset(rows))
        strategy.after_experience(model, experience)
    with torch.no_grad():
        logits = strategy.predict(model, x, None)
    assert bool((logits[:, [1, 3]] < logits[:, [0, 2]].min(1, keepdim=True).values).all())
    assert bool((logits.argmax(1) == data.y)[(data.y == 0) | (data.y == 2)].double().mean() > 0.9)
    for label in (0, 2):
        expected = features(model, data.subset((data.y == label).nonzero().squeeze(1))).mean(0)
        assert torch.allclose(strategy._classes.means[label], expected)


@pytest.mark.parametrize("make", [SLDA, NCM])
def test_class_statistics_resume_inside_the_experience_that_trains(make):
    recipe = toy_recipe(checkpoint_every=0.0)
    whole = learn(make(), Toy().open(), recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        vault = Vault(Path(folder), "check")
        assert learn(make(), Toy().open(), recipe=recipe, vault=vault, observer=Stop(after_step=11)).record is None
        assert_same_result(whole, learn(make(), Toy().open(), recipe=recipe, vault=vault))


# PackNet

TASKS = Toy(setting=Setting.TASK)
HARD = Recipe(optimizer="adam", lr=0.01, weight_decay=0.1, epochs=2, batch_size=4)


class Snapshots(Observer):
    """The weights, the owners and the answers of every task seen, after each experience."""

    def __init__(self, strategy, model, stream):
        self._strategy, self._model, self._stream = strategy, model, stream
        self.weights, self.owners, self.logits = [], [], []

    def evaluated(self, index, record, own):
        self.weights.append(copy.deepcopy(self._model.state_dict()))
        self.owners.append(copy.deepcopy(self._strategy._owner))
        batch = next(self._stream.test(0).data.batches(16))
        self.logits.append(answer(self._strategy, self._model, batch))


def packed(architecture, recipe, *, prune=0.6):
    stream = TASKS.open()
    strategy, model = PackNet(prune=prune), build_model(architecture, stream.info, 0)
    seen = Snapshots(strategy, model, stream)
    record = run_stream(strategy, stream, model, recipe=recipe, observer=seen)
    return strategy, model, seen, record


@pytest.mark.parametrize("architecture", [MLP(hidden=[16, 12]), MLP(hidden=[16], head="growing"), CNN(channels=[4, 6])])
@pytest.mark.parametrize("recipe", [
    HARD, dataclasses.replace(HARD, optimizer="sgd", momentum=0.9, nesterov=True, clip=1.0)], ids=["adam", "sgd"])
def test_what_a_task_has_learned_stays_to_the_bit(architecture, recipe):
    strategy, _, seen, record = packed(architecture, recipe)
    for early, late in ((0, 1), (1, 2), (0, 2)):
        for name, value in seen.weights[early].items():
            if name == "_extra_state":
                continue
            now = seen.weights[late][name]
            if name in strategy._owner:
                owned = (seen.owners[early][name] > 0)
                assert torch.equal(now[owned], value[owned]), name
                assert torch.equal(seen.owners[late][name][owned], seen.owners[early][name][owned])
            elif name.startswith("head."):
                rows = 2 * (early + 1)
                assert torch.equal(now[:rows], value[:rows]), name
            else:
                assert torch.equal(now, value), name
    whole = architecture.head == "whole"
    for logits in seen.logits[1:]:
        assert torch.allclose(logits[:, :2], seen.logits[0][:, :2], rtol=1e-6 if whole else 1e-5, atol=1e-6)
    assert record.accuracy[1, 0] == record.accuracy[0, 0] == record.accuracy[2, 0]
    assert float(record.accuracy[2].mean()) > 0.7


def test_masks_have_their_fraction_and_are_disjoint():
    strategy, _, seen, _ = packed(MLP(hidden=[16, 12]), HARD, prune=0.6)
    for name, owner in strategy._owner.items():
        free = owner.numel()
        for task in (1, 2, 3):
            own = free - int(0.6 * free)
            assert int((owner == task).sum()) == own, name
            free -= own
        assert int((owner == 0).sum()) == free
        assert not bool(seen.weights[2][name][owner == 0].any())
    total = sum(owner.numel() for owner in strategy._owner.values())
    assert strategy.metrics() == {"memory_bytes": 2 * total,
                                  "free_fraction": sum(int((o == 0).sum()) for o in strategy._owner.values()) / total}


def test_the_smallest_weights_are_freed_layer_by_layer():
    stream, strategy = TASKS.open(), PackNet(prune=0.75)
    model = toy_model(stream)
    strategy.setup(model, stream.info)
    model.observe(stream[0].classes, stream[0].task)
    strategy.before_experience(model, stream[0])
    weight = model.body[1].weight.detach().clone()
    strategy._free_smallest(model)
    cut = np.sort(weight.abs().numpy().ravel())[int(0.75 * weight.numel())]
    assert torch.equal(model.body[1].weight, torch.where(weight.abs() >= cut, weight, 0.0))
    assert torch.equal(strategy._owner["body.1.weight"] == 1, weight.abs() >= cut)


def test_rows_of_several_tasks_are_answered_together():
    strategy, model, _, _ = packed(MLP(hidden=[16]), HARD)
    batches = [next(TASKS.open().test(i).data.batches(5)) for i in range(3)]
    alone = torch.cat([answer(strategy, model, batch) for batch in batches])
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    mixed = batches[0]._replace(raw=torch.cat([b.raw for b in batches])[order],
                                task=torch.cat([b.task for b in batches])[order])
    assert torch.allclose(answer(strategy, model, mixed), alone[order], atol=1e-6)
    latest = batches[2]._replace(task=None)
    assert torch.equal(answer(strategy, model, latest), answer(strategy, model, batches[2]))


def test_later_tasks_train_against_the_first_ones_statistics():
    """What normalisation layers compute in a later experience's training is what they compute in evaluation."""
    stream = TASKS.open()
    model, outputs = build_model(CNN(channels=[4]), stream.info, 0), []

    class Watched(PackNet):
        def penalty(self, model, batch, output):
            modes = [module.training for module in model.body.modules() if isinstance(module, torch.nn.BatchNorm2d)]
            outputs.append((len(self._tasks), modes))
            return super().penalty(model, batch, output)

    run_stream(Watched(), stream, model, recipe=toy_recipe())
    assert {(1, (True,)), (2, (False,)), (3, (False,))} == {(n, tuple(modes)) for n, modes in outputs}
    assert model.training == all(module.training for module in model.modules())


def test_an_online_stream_passes_once():
    toy = dataclasses.replace(TASKS, is_online=True)
    result = learn(PackNet(), toy.open(), recipe=toy_recipe(epochs=1))
    assert bool(result.record.online.isfinite().all()) and float(result.record.online.max()) <= 1


# independent models


@pytest.mark.parametrize("head", ["whole", "growing"])
@pytest.mark.parametrize("from_previous", [False, True])
def test_independent_models_are_trained_apart(head, from_previous):
    architecture = CNN(channels=[3], head=head)
    stream = TASKS.open()
    strategy, model = Independent(from_previous=from_previous), build_model(architecture, stream.info, 0)
    initial, begun, learned = copy.deepcopy(model.state_dict()), [], []

    class Watch(Observer):
        def experience_started(self, experience, n_steps):
            begun.append(copy.deepcopy(model.state_dict()))

        def evaluated(self, index, record, own):
            learned.append(copy.deepcopy(model))

    record = run_stream(strategy, stream, model, recipe=toy_recipe(), observer=Watch())
    for index, state in enumerate(begun):
        expected = learned[index - 1].state_dict() if from_previous and index else initial
        for name, value in expected.items():
            if name != "_extra_state":
                assert torch.equal(state[name][:len(value)] if value.dim() else state[name], value), (index, name)
    for index in range(3):
        batch = next(stream.test(index).data.batches(16))
        own = answer(Strategy(), learned[index], batch)
        assert torch.allclose(answer(strategy, model, batch)[:, :own.shape[1]], own, atol=1e-6)
        assert record.accuracy[2, index] == record.accuracy[index, index]


def test_independent_models_declare_every_copy():
    result = learn(Independent(), TASKS.open())
    weights = 4 * sum(param.numel() for param in result.model.parameters())
    assert result.strategy.metrics()["memory_bytes"] == 4 * weights
    result = learn(Independent(from_previous=True), TASKS.open())
    assert result.strategy.metrics()["memory_bytes"] == 3 * weights


@pytest.mark.parametrize("make", [PackNet, Independent])
def test_a_stream_without_task_labels_is_refused(make):
    with pytest.raises(ConfigError, match=f"{make.__name__} needs task_labels, which the scenario does not offer"):
        check_needs(make(), Toy().open().info)


@pytest.mark.parametrize("make", [PackNet, Independent, SLDA, NCM])
def test_an_experience_of_one_class_is_one(make):
    result = learn(make(), dataclasses.replace(TASKS, sizes=(1, 1, 2)).open())
    assert result.record.n_done == 3
