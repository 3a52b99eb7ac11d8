"""L2, online EWC, SI, MAS and RWalk in float64 against closed forms, loops, and Avalanche."""

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cl_framework.chain import Chain
from cl_framework.check_runs import Stop, Stopped, fresh, same
from cl_framework.checkpoint import Vault
from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.functional import cross_entropy, grown
from cl_framework.models import MLP, Head, Model
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.strategies.er import ER
from cl_framework.strategies.l2 import L2
from cl_framework.strategies.mas import MAS
from cl_framework.strategies.online_ewc import OnlineEWC
from cl_framework.strategies.rwalk import RWalk
from cl_framework.strategies.si import SI
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy, toy_recipe
from cl_framework.types import NOT_YET, Batch, Output, StreamInfo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins.ewc import EWCPlugin
    from avalanche.training.plugins.mas import MASPlugin
    from avalanche.training.plugins.rwalk import RWalkPlugin
    from avalanche.training.plugins.synaptic_intelligence import SynapticIntelligencePlugin

INFO = StreamInfo(n_experiences=3, n_classes=6, input_shape=(3,))
NOTHING = Batch(NOT_YET, NOT_YET, NOT_YET), Output(NOT_YET, NOT_YET)


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(is_growing=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Head(4, 0 if is_growing else 6)
        return Model(nn.Identity(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()), head).double()


def experience(index, n=14):
    rows = Dataset(randn(n, 3, seed=index), torch.arange(n) % 2 + 2 * index)
    return Experience(index=index, classes=(2 * index, 2 * index + 1), class_names=("a", "b"), train=rows)


def meet(strategy, model, now):
    model.observe(now.classes)
    strategy.before_experience(model, now)


def wander(model, seed):
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param.add_(0.3 * randn(*param.shape, seed=100 * seed + i))


def snapshot(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def rows_of(model, data, scalar, magnitude):
    """A loop over rows: the mean magnitude of the gradient of `scalar(logits, label)`."""
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for i in range(len(data)):
        row = data.subset(torch.tensor([i]))
        value = scalar(model(row.raw).logits, row.y)
        for name, g in zip(total, torch.autograd.grad(value, list(model.parameters())), strict=True):
            total[name] += magnitude(g) / len(data)
    return total


def quadratic(model, anchor, importance):
    return sum((importance[name] * (param[:len(anchor[name])] - anchor[name]) ** 2).sum()
               for name, param in model.named_parameters())


def assert_same_penalty(strategy, model, expected, tolerance=1e-9):
    """Value and gradient, at a point away from the anchor."""
    wander(model, 77)
    ours, params = strategy.penalty(model, *NOTHING), list(model.parameters())
    theirs = expected()
    assert theirs.item() > 0
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    for a, b in zip(torch.autograd.grad(ours, params), torch.autograd.grad(theirs, params), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=1e-12)


# what is measured after an experience


@pytest.mark.parametrize("is_growing", [False, True])
def test_l2_is_half_the_squared_distance_to_the_last_weights(is_growing):
    model, strategy = network(is_growing), L2(importance=3.0)
    strategy.setup(model, INFO)
    for index in range(2):
        meet(strategy, model, experience(index))
        wander(model, index)
        last = snapshot(model)
        strategy.after_experience(model, experience(index))
    model.observe((4, 5))
    assert_same_penalty(strategy, model, lambda: 1.5 * quadratic(model, last, dict.fromkeys(last, 1.0)))


@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_online_ewc_decays_what_it_had(gamma, is_growing):
    model, strategy = network(is_growing), OnlineEWC(importance=5.0, gamma=gamma, labels="data")
    strategy.setup(model, INFO)
    fishers = []
    for index in range(3):
        now = experience(index)
        meet(strategy, model, now)
        wander(model, index)
        fishers.append(rows_of(model, now.train, cross_entropy, torch.square))
        last = snapshot(model)
        strategy.after_experience(model, now)
    total = {name: sum(gamma ** (2 - k) * grown(fishers[k][name], torch.zeros_like(last[name])) for k in range(3))
             for name in last}
    for name, value in strategy.state_dict()["importance"].items():
        torch.testing.assert_close(value, total[name], rtol=1e-9, atol=1e-14)
    if gamma:
        assert_same_penalty(strategy, model, lambda: 5.0 / 2 * gamma * quadratic(model, last, total))


@pytest.mark.parametrize("is_growing", [False, True])
def test_mas_sums_the_mean_absolute_gradient_of_single_rows(is_growing):
    model, strategy = network(is_growing), MAS(importance=2.0)
    strategy.setup(model, INFO)
    measured = []
    for index in range(2):
        now = experience(index)
        meet(strategy, model, now)
        wander(model, index)
        measured.append(rows_of(model, now.train, lambda z, y: (z ** 2).sum(), torch.abs))
        last = snapshot(model)
        strategy.after_experience(model, now)
    total = {name: grown(measured[0][name], torch.zeros_like(last[name])) + measured[1][name] for name in last}
    assert_same_penalty(strategy, model, lambda: 2.0 * quadratic(model, last, total))


def test_mas_looks_at_the_outputs_of_the_rows_own_task_and_at_no_label():
    model, strategy = network(), MAS()
    strategy.setup(model, INFO)
    model.observe((0, 1), task=0)
    model.observe((2, 3), task=1)
    raw = randn(10, 3, seed=1)
    for y in (torch.full((10,), 2), torch.arange(10) % 2 + 2):
        strategy.setup(model, INFO)
        data = Dataset(raw, y, None, torch.ones(10, dtype=torch.int64))
        now = Experience(index=1, classes=(2, 3), class_names=("a", "b"), train=data, task=1)
        strategy.after_experience(model, now)
        expected = rows_of(model, data, lambda z, y: (z[:, 2:4] ** 2).sum(), torch.abs)
        for name, value in strategy.state_dict()["importance"].items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-14)
        assert (expected["head.weight"][[0, 1, 4, 5]] == 0).all() and (expected["head.weight"][2:4] > 0).all()


def test_mas_measures_as_many_rows_as_it_is_told():
    model, strategy = network(), MAS(n_samples=1)
    strategy.setup(model, INFO)
    now = experience(0)
    meet(strategy, model, now)
    strategy.after_experience(model, now)
    found = strategy.state_dict()["importance"]["head.weight"]
    single = [rows_of(model, now.train.subset(torch.tensor([i])), lambda z, y: (z ** 2).sum(), torch.abs)["head.weight"]
              for i in range(len(now.train))]
    assert sum(torch.allclose(found, one, rtol=1e-9) for one in single) == 1


# what is measured along the way: every weight slides down a parabola of its own, 1/2 a (theta - b)^2


class Slope:
    """A loss whose gradient is known without autograd."""

    def __init__(self, model, seed):
        self.a = {name: randn(*param.shape, seed=seed + i).abs() + 0.1
                  for i, (name, param) in enumerate(model.named_parameters())}
        self.b = {name: randn(*param.shape, seed=seed + 50 + i)
                  for i, (name, param) in enumerate(model.named_parameters())}

    def of(self, model):
        return sum((self.a[name] / 2 * (param - self.b[name]) ** 2).sum() for name, param in model.named_parameters())

    def gradient(self, theta):
        return {name: self.a[name] * (theta[name] - self.b[name]) for name in theta}


def slide(strategy, model, slope, optimizer, n_steps, clip=None):
    """Train as the learner does; returns the weights before each step, and after the last."""
    path = [snapshot(model)]
    for _ in range(n_steps):
        model.zero_grad(set_to_none=True)
        (slope.of(model) + strategy.penalty(model, *NOTHING)).backward()
        strategy.after_backward(model)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        strategy.after_step(model, *NOTHING)
        path.append(snapshot(model))
    return path


def fallen(slope, path):
    """Step by step, what each weight's movement took off the slope's own loss."""
    total = {name: torch.zeros_like(value) for name, value in path[0].items()}
    for before, after in pairwise(path):
        for name, g in slope.gradient(before).items():
            total[name] -= g * (after[name] - before[name])
    return total


def test_si_on_a_parabola_has_the_closed_form_and_for_small_steps_the_loss_fallen():
    model, strategy, lr, n = network(), SI(xi=0.05), 1e-3, 200
    strategy.setup(model, INFO)
    meet(strategy, model, experience(0))
    slope = Slope(model, 7)
    first, begun = slope.of(model).item(), snapshot(model)
    path = slide(strategy, model, slope, torch.optim.SGD(model.parameters(), lr), n)
    omega = strategy.state_dict()["path"]["total"]
    for name, a in slope.a.items():
        q, u = 1 - lr * a, begun[name] - slope.b[name]
        torch.testing.assert_close(omega[name], lr * a**2 * u**2 * (1 - q ** (2 * n)) / (1 - q**2), rtol=1e-10, atol=0)
    drop = first - slope.of(model).item()
    assert sum(value.sum().item() for value in omega.values()) == pytest.approx(drop, rel=2e-3)
    strategy.after_experience(model, experience(0))
    for name, value in strategy.state_dict()["anchor"]["importance"].items():
        moved = path[-1][name] - begun[name]
        torch.testing.assert_close(value, omega[name] / (moved**2 + 0.05), rtol=1e-12, atol=0)


@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_si_integrates_the_losss_own_gradient_whatever_pulls_and_clips(rule, is_growing):
    model, strategy = network(is_growing), SI(importance=0.7, xi=0.02)
    strategy.setup(model, INFO)
    omegas = {name: torch.zeros(()) for name, _ in model.named_parameters()}
    for index in range(3):
        meet(strategy, model, experience(index))
        slope, params = Slope(model, 10 * index), model.parameters()
        optimizer = torch.optim.Adam(params, 0.05) if rule == "adam" else torch.optim.SGD(params, 0.05, momentum=0.9)
        path = slide(strategy, model, slope, optimizer, 12, clip=0.5)
        strategy.after_experience(model, experience(index))
        for name, value in fallen(slope, path).items():
            new = value / ((path[-1][name] - path[0][name]) ** 2 + 0.02)
            old = grown(omegas[name], torch.zeros_like(new)) if omegas[name].dim() else torch.zeros_like(new)
            omegas[name] = (old + new).clamp(min=0)
            torch.testing.assert_close(strategy.state_dict()["anchor"]["importance"][name], omegas[name], rtol=1e-8,
                                       atol=1e-10)
    anchor, importance = path[-1], omegas
    strategy.before_experience(model, experience(2))
    assert_same_penalty(strategy, model, lambda: 0.7 * quadratic(model, anchor, importance))


def test_si_gives_no_reward_for_running_away():
    model, strategy = network(), SI()
    strategy.setup(model, INFO)
    meet(strategy, model, experience(0))
    path = slide(strategy, model, slope := Slope(model, 3), torch.optim.SGD(model.parameters(), 0.01, maximize=True), 5)
    assert all((value <= 0).all() for value in fallen(slope, path).values())
    strategy.after_experience(model, experience(0))
    assert all((value == 0).all() for value in strategy.state_dict()["anchor"]["importance"].values())


class Witness(Strategy):
    """Recomputes, in a real run, the gradient of the loss alone and where each step led."""

    def setup(self, model, info):
        self.omega, self.done = {}, []

    def before_experience(self, model, experience):
        self.omega = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
        self.start = snapshot(model)

    def loss(self, model, batch, output):
        self.batch = batch
        return super().loss(model, batch, output)

    def after_backward(self, model):
        with torch.enable_grad():
            loss = super().loss(model, self.batch, model(self.batch.x))
            self.gradient = torch.autograd.grad(loss, list(model.parameters()))
        self.before = snapshot(model)

    def after_step(self, model, batch, output):
        for (name, param), g in zip(model.named_parameters(), self.gradient, strict=True):
            self.omega[name] -= g * (param.detach() - self.before[name])

    def after_experience(self, model, experience):
        self.done.append((self.omega, {name: param - self.start[name] for name, param in snapshot(model).items()}))


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_si_in_a_run_with_momentum_clipping_and_penalty(head):
    stream, si, witness = Toy(sizes=(2, 3, 1)).open(), SI(importance=5.0), Witness()
    model = build_model(MLP(hidden=[8], head=head), stream.info, 0).double()
    recipe = Recipe(optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, clip=0.2, batch_size=8)
    stream = Toy(sizes=(2, 3, 1)).open()
    model.preprocess.register_forward_hook(lambda module, arguments, output: output.double())
    run_stream(Chain(si, witness), stream, model, recipe=recipe)
    for name, found in si.state_dict()["anchor"]["importance"].items():
        expected = torch.zeros_like(found)
        for omega, moved in witness.done:
            new = omega[name] / (moved[name] ** 2 + 1e-3)
            expected = (expected + grown(new, torch.zeros_like(found))).clamp(min=0)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def rwalk_by_hand(slopes, paths, alpha, interval, eps):
    """A number at a time: one weight's Fisher information and score, told from its slopes and positions. An experience
    before its row existed has no path."""
    fisher, past = 0.0, None
    for (a, b), path in zip(slopes, paths, strict=True):
        score, gain, start = 0.0, 0.0, path[0] if path else 0.0
        for t in range(len(path) - 1):
            g = a * (path[t] - b)
            fisher = alpha * g * g + (1 - alpha) * fisher
            gain -= g * (path[t + 1] - path[t])
            if (t + 1) % interval == 0 or t == len(path) - 2:
                score += max(0.0, gain) / (0.5 * fisher * (path[t + 1] - start) ** 2 + eps)
                gain, start = 0.0, path[t + 1]
        past = score if past is None else 0.5 * (past + score)
    return fisher, past


def largest(values):
    return max(value.max() for value in values.values())


@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize("interval", [1, 4, 100])
def test_rwalk_told_one_weight_at_a_time(interval, is_growing):
    model, strategy = network(is_growing), RWalk(importance=0.3, alpha=0.4, interval=interval, eps=0.01)
    strategy.setup(model, INFO)
    slopes, paths = [], []
    for index in range(3):
        meet(strategy, model, experience(index))
        slopes.append(Slope(model, 10 * index))
        paths.append(slide(strategy, model, slopes[-1], torch.optim.Adam(model.parameters(), 0.1), 10, clip=1.0))
        strategy.after_experience(model, experience(index))
    fisher, score = snapshot(model), snapshot(model)
    for name, param in model.named_parameters():
        for at in [tuple(place) for place in (param == param).nonzero().tolist()]:
            known = [at[0] < len(path[0][name]) for path in paths]
            fisher[name][at], score[name][at] = rwalk_by_hand(
                [(slope.a[name][at].item(), slope.b[name][at].item()) if is_known else (0.0, 0.0)
                 for slope, is_known in zip(slopes, known, strict=True)],
                [[point[name][at].item() for point in path] if is_known else []
                 for path, is_known in zip(paths, known, strict=True)], 0.4, interval, 0.01)
    importance = {name: fisher[name] / largest(fisher) + score[name] / largest(score) for name in fisher}
    for name, value in strategy.state_dict()["anchor"]["importance"].items():
        torch.testing.assert_close(value, importance[name], rtol=1e-8, atol=1e-12)
    anchor = paths[-1][-1]
    strategy.before_experience(model, experience(2))
    assert_same_penalty(strategy, model, lambda: 0.3 * quadratic(model, anchor, importance))


@pytest.mark.parametrize("strategy", [SI(), RWalk()])
def test_a_path_that_leads_nowhere_gives_no_importance(strategy):
    model = network()
    strategy.setup(model, INFO)
    meet(strategy, model, experience(0))
    strategy.after_experience(model, experience(0))
    assert all((value == 0).all() for value in strategy.state_dict()["anchor"]["importance"].values())


# Avalanche, where it says the same, and where it does not


@pytest.fixture
def in_float64():
    """Avalanche allocates in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Logits(nn.Module):
    """Our network as a module that returns logits alone."""

    def __init__(self, model):
        super().__init__()
        self.body, self.head = model.body, model.head

    def forward(self, x):
        return self.head(self.body(x))


class Pairs(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.raw[index], self.data.y[index], 0


def test_online_ewc_has_avalanches_importance_on_batches_of_one_row(in_float64):
    model, ours = network(), OnlineEWC(gamma=0.6, labels="data")
    ours.setup(model, INFO)
    theirs, module = EWCPlugin(1.0, "online", 0.6), Logits(model)
    for index in range(3):
        now = experience(index)
        meet(ours, model, now)
        wander(model, index)
        ours.after_experience(model, now)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        found = theirs.compute_importances(module, cross_entropy, optimizer, Pairs(now.train), "cpu", 1)
        theirs.update_importances(found, index)
        for name, value in ours.state_dict()["importance"].items():
            torch.testing.assert_close(value, theirs.importances[index][name].data, rtol=1e-9, atol=1e-14)


def test_mas_has_avalanches_importance_on_batches_of_one_row_and_more_than_on_larger_ones(in_float64):
    model, ours, now = network(), MAS(), experience(0)
    ours.setup(model, INFO)
    meet(ours, model, now)
    ours.after_experience(model, now)
    module = Logits(model)
    seat = SimpleNamespace(model=module, device="cpu", optimizer=torch.optim.SGD(module.parameters(), 0.1),
                           experience=SimpleNamespace(dataset=Pairs(now.train)), train_mb_size=1)
    single = MASPlugin()._get_importance(seat)
    seat.train_mb_size = 7
    batched = MASPlugin()._get_importance(seat)
    for name, value in ours.state_dict()["importance"].items():
        torch.testing.assert_close(value, single[name].data, rtol=1e-9, atol=1e-14)
        assert (batched[name].data <= value + 1e-12).all()
    assert batched["body.0.weight"].data.sum() < 0.9 * single["body.0.weight"].data.sum()


def copy_weights(model, target, excluded_parameters):
    """Their weights as they are stored where the model is on another device."""
    for name, param in model.named_parameters():
        target[name].data = param.detach().clone().flatten()


class AvalancheSI:
    """Their plugin's own steps, seated behind our hooks."""

    def __init__(self, module, importance):
        self.module, self.importance, self.plugin = module, importance, SynapticIntelligencePlugin
        self.held, self.data = ({}, {}), {key: {} for key in ("old_theta", "new_theta", "grad", "trajectory",
                                                               "cum_trajectory")}

    def before_experience(self):
        self.plugin.create_syn_data(self.module, self.held, self.data, set())
        self.plugin.init_batch(self.module, self.held, self.data, set())

    def penalty(self, model, batch, output):
        return self.plugin.compute_ewc_loss(self.module, self.held, set(), "cpu", 2 * self.importance)

    def after_backward(self, model):
        self.plugin.pre_update(self.module, self.data, set())

    def after_step(self, model, batch, output):
        self.plugin.post_update(self.module, self.data, set())

    def after_experience(self):
        self.plugin.update_ewc_data(self.module, self.held, self.data, float("inf"), set(), 1, eps=0.02)


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_si_of_avalanche_finds_nothing_on_the_cpu(in_float64):
    """There `param.detach().cpu().flatten()`, the start of a step, is the weights themselves and moves with them."""
    model = network()
    theirs = AvalancheSI(Logits(model), 1.0)
    model.observe((0, 1))
    theirs.before_experience()
    slide(theirs, model, Slope(model, 0), torch.optim.SGD(model.parameters(), 0.02), 20)
    theirs.after_experience()
    assert all((value.data == 0).all() for value in theirs.held[1].values())


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize(("importance", "agrees"), [(0.0, True), (3.0, False)])
def test_si_has_avalanches_importance_until_a_penalty_pulls(importance, agrees, in_float64, monkeypatch):
    """Theirs integrates the gradient of loss and penalty together, and bounds importance from above (lifted here)."""
    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(copy_weights))
    models = network(), network()
    ours, theirs = SI(importance=importance, xi=0.02), AvalancheSI(Logits(models[1]), importance)
    ours.setup(models[0], INFO)
    for index in range(2):
        meet(ours, models[0], experience(index))
        models[1].observe((2 * index, 2 * index + 1))
        theirs.before_experience()
        for strategy, model in zip((ours, theirs), models, strict=True):
            slide(strategy, model, Slope(model, 10 * index), torch.optim.SGD(model.parameters(), 0.02), 20)
        ours.after_experience(models[0], experience(index))
        theirs.after_experience()
        found = ours.state_dict()["anchor"]["importance"]
        close = [torch.allclose(value.flatten(), theirs.held[1][name].data, rtol=1e-8, atol=1e-12)
                 for name, value in found.items()]
        assert all(close) if agrees or index == 0 else not any(close)


def test_rwalk_has_avalanches_importance_where_every_step_goes_down(in_float64):
    """Plain descent without penalty: then their clipping of whole scores and ours of intervals are one."""
    model, ours, theirs = network(), RWalk(importance=0.0, interval=15), RWalkPlugin(0.0, 0.9, 15)
    module, ours.eps = Logits(model), torch.finfo(torch.float64).eps
    ours.setup(model, INFO)
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    seat = SimpleNamespace(model=module, device="cpu", optimizer=optimizer, _criterion=nn.functional.cross_entropy,
                           clock=SimpleNamespace(train_iterations=0, train_exp_counter=0))
    for index in range(2):
        now = experience(index)
        meet(ours, model, now)
        theirs.before_training(seat)
        for step in range(30):
            rows = now.train.take(torch.arange(step % 7, step % 7 + 6))
            seat.mbatch = rows.raw, rows.y, torch.zeros(6)
            seat.clock.train_iterations = step
            theirs.before_training_iteration(seat)
            optimizer.zero_grad()
            cross_entropy(module(rows.raw), rows.y).backward()
            ours.after_backward(model)
            optimizer.step()
            ours.after_step(model, *NOTHING)
            theirs.after_training_iteration(seat)
        ours.after_experience(model, now)
        theirs.after_training_exp(seat)
        for name, value in ours.state_dict()["anchor"]["importance"].items():
            torch.testing.assert_close(value, theirs.exp_penalties[name].data, rtol=1e-6, atol=1e-9)


# growing heads, chains, state


FAMILY = [L2(), OnlineEWC(), SI(), MAS(), RWalk(interval=3)]


def run(strategy, **more):
    toy, (learner,) = Toy(sizes=(2, 3, 1)).open(), fresh(strategy).parts()
    model = build_model(MLP(hidden=[8], head="growing"), toy.info, 0)
    run_stream(learner, toy, model, recipe=toy_recipe(checkpoint_every=0.0), **more)
    return model.state_dict(), learner.state_dict(), learner.metrics()


def name_of(strategy):
    return type(strategy).__name__


@pytest.mark.parametrize("strategy", FAMILY, ids=name_of)
def test_with_a_growing_head_it_resumes_to_the_same_bits(strategy):
    whole = run(strategy)
    with tempfile.TemporaryDirectory() as folder:
        vault = Vault(Path(folder), "check")
        with pytest.raises(Stopped):
            run(strategy, vault=vault, observer=Stop(after_step=42))
        again = run(strategy, vault=vault)
    assert same(whole[0], again[0]) and same(whole[1], again[1])


@pytest.mark.parametrize("strategy", FAMILY, ids=name_of)
def test_with_a_growing_head_it_is_fine_tuning_at_neutral(strategy):
    plain = run(Strategy())[0]
    assert same(run(type(strategy)(importance=0.0))[0], plain)
    assert not same(run(strategy)[0], plain)


@pytest.mark.parametrize("strategy", FAMILY, ids=name_of)
def test_the_stronger_it_holds_the_less_it_moves(strategy):
    ends = []
    for importance in (0.0, 1.0, 1000.0):
        toy = Toy(sizes=(2, 2)).open()
        model = build_model(MLP(hidden=[8]), toy.info, 0)
        at_first = Watch()
        run_stream(Chain(type(strategy)(importance=importance), at_first), toy, model, recipe=toy_recipe())
        ends.append(sum(((param - at_first.theta[name]) ** 2).sum().item() for name, param in snapshot(model).items()))
    assert ends[2] < ends[0] and ends[1] <= ends[0]


class Watch(Strategy):
    """Keeps the weights after the first experience."""

    def after_experience(self, model, experience):
        if experience.index == 0:
            self.theta = snapshot(model)


@pytest.mark.parametrize("strategy", FAMILY, ids=name_of)
def test_it_declares_every_byte(strategy):
    _, state, figures = run(strategy)
    tensors = {id(tensor): tensor for tensor in leaves(state) if tensor.dtype != torch.uint8}  # not the generators
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert figures == {"memory_bytes": held}


def leaves(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from leaves(value)
        elif isinstance(value, torch.Tensor):
            yield value


@pytest.mark.parametrize("strategy", [SI(), RWalk()], ids=name_of)
def test_steps_leave_a_saved_state_alone(strategy):
    model = network()
    strategy.setup(model, INFO)
    meet(strategy, model, experience(0))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    slide(strategy, model, Slope(model, 1), optimizer, 3)
    saved = strategy.state_dict()
    kept = [tensor.clone() for tensor in leaves(saved)]
    slide(strategy, model, Slope(model, 1), optimizer, 30)
    assert all(torch.equal(a, b) for a, b in zip(kept, leaves(saved), strict=True))


def test_rwalk_with_the_papers_replay():
    toy = Toy(sizes=(2, 2)).open()
    model = build_model(MLP(hidden=[8]), toy.info, 0)
    record = run_stream(Chain(ER(memory_size=10), RWalk()), toy, model, recipe=toy_recipe())
    assert record.n_done == 2
