"""DER, DER++, ER-ACE, MIR and GEM against sums written out by hand, brute force, and Avalanche's own."""

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import copy
import itertools
import math
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from cl_framework.chain import Chain
from cl_framework.check_runs import learn, same
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.models import CNN, MLP
from cl_framework.protocol import build_model
from cl_framework.recipe import Recipe
from cl_framework.state_checks import resumes_inside_an_experience
from cl_framework.strategies import agem, gem
from cl_framework.strategies._dark import dark_columns, dark_loss
from cl_framework.strategies.der import DER
from cl_framework.strategies.derpp import DERpp
from cl_framework.strategies.er_ace import ERACE
from cl_framework.strategies.ewc import EWC
from cl_framework.strategies.gem import GEM
from cl_framework.strategies.lwf import LwF
from cl_framework.strategies.mir import MIR
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy
from cl_framework.types import NOT_YET, Batch, Output, Setting, StreamInfo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training import ACECriterion
    from avalanche.training.plugins import GEMPlugin, MIRPlugin

RATE = 0.1


def network(stream, head="whole", architecture=MLP, **fields):
    fields = fields or {"hidden": [16]}
    return build_model(architecture(head=head, **fields), stream.info, 0)


def meet(strategy, stream, model, index):
    experience = stream[index]
    torch.manual_seed(index)  # a growing head draws its new rows
    model.observe(experience.classes, experience.task)
    strategy.before_experience(model, experience)
    return experience, strategy.optimizer(model.parameters(), Recipe(optimizer="sgd", lr=RATE))


def step(strategy, model, batch, optimizer):
    model.zero_grad()
    batch = strategy.prepare_batch(model, batch)
    batch = batch._replace(x=model.preprocess(batch.raw))
    output = model(batch.x)
    loss = strategy.loss(model, batch, output) + strategy.penalty(model, batch, output)
    loss.backward()
    strategy.after_backward(model)
    optimizer.step()
    strategy.after_step(model, batch, output)
    return batch, loss.detach()


def run(strategy, stream, model, indices, size=8, epochs=1):
    if 0 in indices:
        strategy.setup(model, stream.info)
    for index in indices:
        experience, optimizer = meet(strategy, stream, model, index)
        for _ in range(epochs):
            for batch in experience.train.batches(size):
                step(strategy, model, batch, optimizer)
        strategy.after_experience(model, experience)
    return model


def key(row):
    return tuple(row.flatten().tolist())


def columns(strategy):
    return strategy.state_dict()["buffer"]["columns"]


def spied(strategy, monkeypatch):
    """The draws from a strategy's buffer, as they come."""
    buffer, drawn = strategy._memory.buffer, []
    original = buffer.draw

    def draw(n):
        drawn.append(original(n))
        return drawn[-1]

    monkeypatch.setattr(buffer, "draw", draw)
    return drawn


# DER


@pytest.mark.parametrize("kind", [DER, DERpp])
@pytest.mark.parametrize("head", ["whole", "growing", "full"])
def test_stored_logits_are_those_of_the_step_that_learned_the_row(kind, head):
    stream, epochs = Toy().open(), 2
    weights = {"alpha": 0.0} if kind is DER else {"alpha": 0.0, "beta": 0.0}
    strategy, model, twin = kind(memory_size=10_000, **weights), network(stream, head), network(stream, head)
    run(strategy, stream, model, [0, 1], epochs=epochs)
    told = {}
    for experience in (stream[0], stream[1]):  # the same training, by hand
        torch.manual_seed(experience.index)
        twin.observe(experience.classes)
        for _, start in itertools.product(range(epochs), range(0, len(experience.train), 8)):
            batch = experience.train.take(torch.arange(start, min(start + 8, len(experience.train))))
            logits = twin(twin.preprocess(batch.raw)).logits
            for row, answer in zip(batch.raw, logits.detach(), strict=True):
                told.setdefault(key(row), []).append(answer)
            gradients = torch.autograd.grad(F.cross_entropy(logits, batch.y), list(twin.parameters()))
            with torch.no_grad():
                for param, gradient in zip(twin.parameters(), gradients, strict=True):
                    param -= RATE * gradient
    stored = columns(strategy)
    assert len(stored["y"]) == epochs * (len(stream[0].train) + len(stream[1].train))
    for row, logits, n_valid in zip(stored["raw"], stored["extra/logits"], stored["extra/n_valid"].tolist(),
                                    strict=True):
        answer = told[key(row)].pop(0)
        assert n_valid == len(answer) and torch.equal(logits[n_valid:], torch.zeros(6 - n_valid))
        torch.testing.assert_close(logits[:n_valid], answer)
    assert not any(told.values())


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_the_distance_is_a_mean_over_the_classes_that_were_answered_for(head):
    stream, strategy = Toy(sizes=(2, 1, 3)).open(), DER(memory_size=30, replay_batch_size=10_000, alpha=0.7)
    model = run(strategy, stream, network(stream, head), [0, 1])
    experience, _ = meet(strategy, stream, model, 2)
    batch = strategy.prepare_batch(model, experience.train.take(torch.arange(5)))
    output = model(model.preprocess(batch.raw))
    penalty = strategy.penalty(model, batch, output)
    stored, terms = columns(strategy), []
    logits = model(model.preprocess(stored["raw"])).logits.detach()
    for i, n_valid in enumerate(stored["extra/n_valid"].tolist()):
        terms += [float(logits[i, c] - stored["extra/logits"][i, c]) ** 2 for c in range(n_valid)]
    assert sorted(set(stored["extra/n_valid"].tolist())) == [2, 3]
    assert float(penalty.detach()) == pytest.approx(0.7 * sum(terms) / len(terms), rel=1e-5)
    assert float(penalty.detach()) > 0


def test_the_distance_is_mse_loss_where_all_classes_were_answered_for():
    now, then = torch.randn(9, 4), torch.randn(9, 4)
    torch.testing.assert_close(dark_loss(now, dark_columns(then, 4)), F.mse_loss(now, then))


def test_derpp_draws_twice_and_adds_both_terms(monkeypatch):
    stream, strategy = Toy().open(), DERpp(memory_size=40, replay_batch_size=7, alpha=0.3, beta=0.6)
    model = run(strategy, stream, network(stream, "full"), [0])
    experience, _ = meet(strategy, stream, model, 1)
    drawn = spied(strategy, monkeypatch)
    batch, loss = step(strategy, model, experience.train.take(torch.arange(8)), torch.optim.SGD(model.parameters(), 0))
    first, second = drawn
    assert len(first.y) == len(second.y) == 7 and len(batch.y) == 8
    assert {key(row) for row in first.raw} != {key(row) for row in second.raw}

    def logits(raw):
        return model(model.preprocess(raw)).logits

    expected = (F.cross_entropy(logits(batch.raw), batch.y)
                + 0.3 * F.mse_loss(logits(first.raw), first.extra["logits"])
                + 0.6 * F.cross_entropy(logits(second.raw), second.y))
    torch.testing.assert_close(loss, expected.detach())


def test_derpp_learns_labels_within_their_task(monkeypatch):
    stream, strategy = Toy(setting=Setting.TASK).open(), DERpp(memory_size=40, alpha=0.0, beta=1.0)
    model = run(strategy, stream, network(stream), [0])
    experience, _ = meet(strategy, stream, model, 1)
    drawn = spied(strategy, monkeypatch)
    batch = strategy.prepare_batch(model, experience.train.take(torch.arange(8)))
    got = strategy.penalty(model, batch, model(model.preprocess(batch.raw)))
    (rows,) = drawn
    logits = model(model.preprocess(rows.raw)).logits
    assert rows.task.tolist() == [0] * 8
    torch.testing.assert_close(got, F.cross_entropy(logits[:, :2], rows.y))


@pytest.mark.parametrize("strategy", [DER(alpha=0.0), DERpp(alpha=0.0, beta=0.0)])
def test_at_weight_zero_it_is_fine_tuning(strategy):
    plain, tamed = learn(Strategy(), Toy().open()), learn(strategy, Toy().open())
    assert same(plain.model.state_dict(), tamed.model.state_dict())


def test_rows_that_a_later_part_appends_are_not_stored():
    stream, chain = Toy().open(), Chain(DER(memory_size=10_000), ERACE(memory_size=20))
    run(chain, stream, network(stream), [0, 1])
    stored = chain.parts()[0].state_dict()["buffer"]
    assert stored["n_seen"] == len(stream[0].train) + len(stream[1].train)
    rows = [key(row) for row in stored["columns"]["raw"]]
    assert len(set(rows)) == len(rows)


# ER-ACE


def by_hand(logits, y, classes):
    """The mean of -log softmax over `classes` (one list a row)."""
    terms = [math.log(sum(math.exp(row[c]) for c in within)) - row[label]
             for row, label, within in zip(logits.tolist(), y.tolist(), classes, strict=True)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("setting", "head"), [(Setting.CLASS, "whole"), (Setting.CLASS, "full"),
                                               (Setting.TASK, "whole"), (Setting.DOMAIN, "whole")])
def test_incoming_rows_compete_among_their_own_classes_replayed_ones_among_all(setting, head):
    stream, strategy = Toy(setting=setting).open(), ERACE(memory_size=60, replay_batch_size=20)
    model = run(strategy, stream, network(stream, head), [0, 1])
    meet(strategy, stream, model, 2)
    incoming = stream[2].train.take(torch.tensor([0, 1, 2, 30, 31]))
    batch, loss = step(strategy, model, incoming, torch.optim.SGD(model.parameters(), 0))
    assert len(batch.y) == 25
    logits = model(model.preprocess(batch.raw)).logits.detach()
    present = sorted(set(incoming.y.tolist()))
    if setting is Setting.TASK:
        seen = [[2 * t, 2 * t + 1] for t in batch.task[5:].tolist()]
    else:
        seen = [list(range(logits.shape[1]))] * 20
    expected = by_hand(logits[:5], batch.y[:5], [present] * 5) + by_hand(logits[5:], batch.y[5:], seen)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_incoming_rows_do_not_reach_other_classes():
    stream, strategy = Toy().open(), ERACE(memory_size=60)
    model = run(strategy, stream, network(stream), [0])
    meet(strategy, stream, model, 1)
    batch = strategy.prepare_batch(model, stream[1].train.take(torch.arange(8)))
    logits = torch.randn(16, 4, requires_grad=True)
    strategy.loss(model, batch, Output(logits, logits)).backward()
    others = [c for c in range(4) if c not in batch.y[:8].tolist()]
    assert others and torch.equal(logits.grad[:8, others], torch.zeros(8, len(others)))
    assert bool((logits.grad[8:] != 0).all())


def test_the_asymmetric_loss_is_twice_avalanches():
    stream, strategy = Toy().open(), ERACE(memory_size=60)
    model = run(strategy, stream, network(stream), [0, 1])
    meet(strategy, stream, model, 2)
    batch, loss = step(strategy, model, stream[2].train.take(torch.arange(8)), torch.optim.SGD(model.parameters(), 0))
    logits = model(model.preprocess(batch.raw)).logits.detach()
    torch.testing.assert_close(loss, 2 * ACECriterion()(logits[:8], batch.y[:8], logits[8:], batch.y[8:]))


def test_the_first_step_is_plain_cross_entropy():
    stream, strategy = Toy().open(), ERACE()
    model = network(stream)
    strategy.setup(model, stream.info)
    meet(strategy, stream, model, 0)
    batch, loss = step(strategy, model, stream[0].train.take(torch.arange(4)), torch.optim.SGD(model.parameters(), 0))
    logits = model(model.preprocess(batch.raw)).logits.detach()
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch.y))


# MIR


def rises(model, incoming, raw, y, allowed=None):
    """The rise of each loss, one candidate at a time, after a real step of a real optimizer on a copy."""
    ahead = copy.deepcopy(model)

    def loss(net, rows, labels):
        logits = net(net.preprocess(rows)).logits
        if allowed is not None:
            return torch.stack([F.cross_entropy(row[allowed[label]], torch.tensor(allowed[label].index(label)))
                                for row, label in zip(logits, labels.tolist(), strict=True)]).mean()
        return F.cross_entropy(logits, labels)

    optimizer = torch.optim.SGD(ahead.parameters(), RATE)
    optimizer.zero_grad()
    loss(ahead, incoming.raw, incoming.y).backward()
    optimizer.step()
    with torch.no_grad():
        return [float(loss(ahead, raw[[i]], y[[i]]) - loss(model, raw[[i]], y[[i]])) for i in range(len(y))]


@pytest.mark.parametrize("setting", list(Setting))
def test_the_most_interfered_candidates_are_replayed(setting, monkeypatch):
    stream = Toy(setting=setting).open()
    strategy = MIR(memory_size=60, n_candidates=25, replay_batch_size=6)
    model = run(strategy, stream, network(stream), [0, 1])
    experience, _ = meet(strategy, stream, model, 2)
    drawn, incoming = spied(strategy, monkeypatch), experience.train.take(torch.arange(8))
    joined = strategy.prepare_batch(model, incoming)
    (rows,) = drawn
    allowed = {c: [2 * (c // 2), 2 * (c // 2) + 1] for c in range(6)} if setting is Setting.TASK else None
    scores = rises(model, incoming, rows.raw, rows.y, allowed)
    best = sorted(range(25), key=lambda i: -scores[i])[:6]
    assert len(set(scores)) > 6 and torch.equal(joined.raw[:8], incoming.raw)
    assert torch.equal(joined.raw[8:], rows.raw[best]) and torch.equal(joined.y[8:], rows.y[best])
    if setting is Setting.TASK:
        assert torch.equal(joined.task[8:], rows.task[best])


def test_the_choice_is_avalanches(monkeypatch):
    stream, strategy = Toy().open(), MIR(memory_size=60, n_candidates=25, replay_batch_size=6)
    model = run(strategy, stream, network(stream), [0])
    experience, optimizer = meet(strategy, stream, model, 1)
    drawn, incoming = spied(strategy, monkeypatch), experience.train.take(torch.arange(8))
    joined = strategy.prepare_batch(model, incoming)
    (rows,) = drawn

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x).logits

    theirs, plugin, criterion = Logits(), MIRPlugin(batch_size_mem=6), torch.nn.CrossEntropyLoss()
    plugin.replay_loader = iter([(model.preprocess(rows.raw), rows.y, torch.zeros(25))])
    loss = criterion(theirs(model.preprocess(incoming.raw)), incoming.y)
    trainer = types.SimpleNamespace(loss=loss.clone(), model=theirs, optimizer=optimizer, device="cpu",
                                    _criterion=criterion)
    plugin.before_backward(trainer)
    ours = criterion(theirs(model.preprocess(joined.raw[8:])), joined.y[8:])
    torch.testing.assert_close(trainer.loss - loss, ours)


def test_looking_ahead_leaves_no_trace():
    stream, strategy = Toy(sizes=(2, 2)).open(), MIR(memory_size=60, replay_batch_size=4)
    model = run(strategy, stream, network(stream, architecture=CNN, channels=[4]), [0])
    experience, _ = meet(strategy, stream, model, 1)
    model.train()
    model.zero_grad()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    joined = strategy.prepare_batch(model, experience.train.take(torch.arange(8)))
    assert len(joined.y) == 12 and same(model.state_dict(), before)
    assert all(param.grad is None for param in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_with_few_candidates_all_are_replayed():
    stream, strategy = Toy().open(), MIR(memory_size=60, n_candidates=5)
    model = run(strategy, stream, network(stream), [0])
    experience, _ = meet(strategy, stream, model, 1)
    assert len(strategy.prepare_batch(model, experience.train.take(torch.arange(8))).y) == 13


# GEM


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def enumerated(g, G, margin, eps=1e-3):
    """The programme's solution by trying which multipliers are at the margin; G [K, P]."""
    k = len(G)
    matrix, along, best = G @ G.T + eps * torch.eye(k, dtype=G.dtype), G @ g, None
    for is_free in itertools.product([False, True], repeat=k):
        free = torch.tensor(is_free)
        v = torch.full((k,), margin, dtype=G.dtype)
        if free.any():
            rest = along[free] + matrix[free][:, ~free] @ v[~free]
            v[free] = torch.linalg.solve(matrix[free][:, free], -rest)
        value = 0.5 * v @ matrix @ v + along @ v
        if bool((v >= margin - 1e-12).all()) and (best is None or value < best[0]):
            best = value, v
    return best[1]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_multipliers_solve_the_programme(seed, margin, k):
    g, G = randn(12, seed=seed), randn(k, 12, seed=100 + seed)
    v = gem.multipliers(G @ G.T, G @ g, margin)
    torch.testing.assert_close(v, enumerated(g, G, margin), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_projected_gradient_conflicts_with_nothing(seed, margin):
    g, G = randn(30, seed=seed), randn(4, 30, seed=200 + seed)
    parts = [g[:10].clone().view(2, 5), g[10:].clone()]
    gem.project(parts, [[row[:10].view(2, 5), row[10:]] for row in G], margin)
    got = torch.cat([part.flatten() for part in parts])
    if bool((G @ g >= 0).all()):
        assert torch.equal(got, g)
        return
    v = enumerated(g, G, margin)
    torch.testing.assert_close(got, g + v @ G)
    assert bool((G @ got >= -1e-3 * v - 1e-9).all())
    if margin == 0:  # the nearest point of the cone, by a solver of the primal
        nearest = minimize(lambda x: float(((x - g.numpy()) ** 2).sum()), g.numpy(), method="SLSQP",
                           jac=lambda x: 2 * (x - g.numpy()), options={"ftol": 1e-12},
                           constraints={"type": "ineq", "fun": lambda x: G.numpy() @ x, "jac": lambda x: G.numpy()})
        torch.testing.assert_close(got, torch.from_numpy(nearest.x), rtol=0, atol=1e-3)


def test_without_conflict_nothing_changes_whatever_the_margin():
    g = torch.tensor([1.0, 2.0])
    kept = g.clone()
    gem.project([g], [[torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1e-9])]], margin=0.5)
    assert torch.equal(g, kept)


def test_a_single_memory_without_margin_is_agem():
    g, reference = 100 * randn(20, seed=1), 100 * randn(20, seed=2)
    reference *= -torch.sign(g @ reference)
    ours, theirs = [g.clone()], [g.clone()]
    gem.project(ours, [[reference]], margin=0.0)
    agem.project(theirs, [reference])
    assert float((theirs[0] - g).norm()) > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_parallel_references_have_a_solution():
    g, reference = 1e3 * randn(50, seed=3), 1e3 * randn(50, seed=4)
    reference *= -torch.sign(g @ reference)
    parts = [g.clone()]
    gem.project(parts, [[reference]] * 6, margin=0.0)
    expected = g - (g @ reference) / (reference @ reference) * reference
    torch.testing.assert_close(parts[0], expected, rtol=1e-5, atol=1e-5)


def test_the_projection_is_avalanches():
    pytest.importorskip("quadprog", reason="Avalanche's GEM solves its programme with quadprog, which is not installed")
    plugin, g = GEMPlugin(patterns_per_experience=1, memory_strength=0.5), randn(30, seed=0)
    plugin.G = randn(4, 30, seed=200)
    parts = [g.clone()]
    gem.project(parts, [[row] for row in plugin.G], 0.5)
    torch.testing.assert_close(parts[0].float(), plugin.solve_quadprog(g))


@pytest.mark.parametrize("setting", list(Setting))
def test_the_constraints_are_the_gradients_of_each_past_experience(setting):
    stream, strategy = Toy(setting=setting).open(), GEM(memory_size=3000, memory_strength=0.5)
    model = run(strategy, stream, network(stream), [0, 1])
    experience, _ = meet(strategy, stream, model, 2)
    params = list(model.parameters())

    def gradient(batch):
        logits = model(model.preprocess(batch.raw)).logits
        if setting is Setting.TASK:  # each of these batches is of one task
            first = 2 * int(batch.task[0])
            loss = F.cross_entropy(logits[:, first:first + 2], batch.y - first)
        else:
            loss = F.cross_entropy(logits, batch.y)
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, params)]).double()

    G = torch.stack([gradient(stream[k].train.take(torch.arange(44))) for k in (0, 1)])
    batch = strategy.prepare_batch(model, experience.train.take(torch.arange(16)))
    g = gradient(batch)
    model.zero_grad()
    strategy.loss(model, batch, model(model.preprocess(batch.raw))).backward()
    strategy.after_backward(model)
    got = torch.cat([param.grad.flatten() for param in params]).double()
    if setting is Setting.CLASS:
        assert bool((G @ g < 0).any()), "class-incremental batches conflict with the past"
    expected = g + enumerated(g, G, 0.5) @ G if bool((G @ g < 0).any()) else g
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("is_online", [False, True])
def test_each_experience_leaves_a_sample_of_its_rows(is_online):
    stream = Toy(sizes=(1, 2, 1), setting=Setting.TASK, is_online=is_online, n_train=25).open()
    strategy = GEM(memory_size=95)  # a share of 31
    run(strategy, stream, network(stream), [0, 1], epochs=1 if is_online else 3)
    first, second = strategy.state_dict()["past"]
    assert [len(first["y"]), len(second["y"])] == [25, 31]
    for memory, experience, task in ((first, stream[0], 0), (second, stream[1], 1)):
        rows = [key(row) for row in memory["raw"]]
        assert len(set(rows)) == len(rows) and set(rows) <= {key(row) for row in experience.train.raw}
        assert set(memory["task"].tolist()) == {task}
    assert sorted(set(second["y"].tolist())) == [1, 2]
    assert strategy.state_dict()["present"]["buffer"]["n_seen"] == 0


def test_weights_without_a_gradient_keep_none():
    stream, strategy = Toy().open(), GEM()
    model = run(strategy, stream, network(stream), [0])
    batch = stream[0].train.take(torch.arange(4))
    F.cross_entropy(model(model.preprocess(batch.raw)).logits, batch.y).backward()
    model.extra = torch.nn.Parameter(torch.ones(2))
    strategy.after_backward(model)
    assert model.extra.grad is None


# all of them

INFO = StreamInfo(n_experiences=5, n_classes=10, input_shape=(1, 28, 28), is_online=True)


@pytest.mark.parametrize(("strategy", "expected"), [
    (DER(), 500 * (784 + 8 + 8 + 4 * 10 + 8)),  # pixels, label, key, logits, how many of them are answers
    (DERpp(), 500 * (784 + 8 + 8 + 4 * 10 + 8)),
    (ERACE(), 500 * (784 + 8 + 8)),  # pixels, label, key
    (MIR(), 500 * (784 + 8 + 8)),
    (GEM(), 2 * 100 * (784 + 8) + 100 * (784 + 8 + 8)),  # two finished memories, and the one that is being filled
], ids=lambda value: type(value).__name__)
def test_memory_is_declared_to_the_byte(strategy, expected):
    model = MLP(hidden=[4]).build(INFO)
    strategy.setup(model, INFO)
    for index in range(3):
        classes = (2 * index, 2 * index + 1)
        model.observe(classes)
        raw, y = torch.randint(0, 255, (300, 1, 28, 28), dtype=torch.uint8), torch.randint(*classes, (300,))
        batch = strategy.prepare_batch(model, Batch(raw, NOT_YET, y))
        strategy.after_step(model, batch, model(model.preprocess(batch.raw)))
        if index < 2:
            strategy.after_experience(model, Experience(index=index, classes=classes, class_names=("a", "b"),
                                                        train=Dataset(raw, y)))
    assert strategy.metrics() == {"memory_bytes": expected}


@pytest.mark.parametrize("kind", [DER, DERpp, ERACE, MIR, GEM])
def test_a_negative_memory_is_refused(kind):
    with pytest.raises(ConfigError, match=r"memory_size must be at least 0, got -1"):
        kind(memory_size=-1)


@pytest.mark.parametrize("kind", [DER, DERpp, ERACE, MIR, GEM])
def test_rows_of_another_shape_are_refused(kind):
    stream, strategy = Toy(is_online=True).open(), kind()
    model = network(stream)
    strategy.setup(model, stream.info)
    model.observe((0, 1))
    small, large = (Batch(torch.zeros(3, 1, side, side, dtype=torch.uint8), NOT_YET, torch.zeros(3, dtype=torch.int64))
                    for side in (4, 5))
    output = Output(torch.zeros(3, 2), torch.zeros(3, 16))
    strategy.prepare_batch(model, small)
    strategy.after_step(model, small, output)
    with pytest.raises(ConfigError, match=r"keeps rows of shape \(1, 4, 4\) and torch.uint8, got \(1, 5, 5\)"):
        strategy.after_step(model, large, output)


def test_gem_refuses_a_memory_that_leaves_an_experience_without_a_row():
    stream, strategy = Toy().open(), GEM(memory_size=2)
    with pytest.raises(ConfigError, match=r"GEM\.memory_size=2 leaves no row for each of 3 experiences"):
        strategy.setup(network(stream), stream.info)


@pytest.mark.parametrize("chain", [Chain(ERACE(memory_size=20), DER(memory_size=20)), Chain(MIR(memory_size=20), EWC()),
                                   Chain(GEM(memory_size=20), LwF())], ids=repr)
def test_chains_run_and_resume(chain):
    resumes_inside_an_experience(chain)
