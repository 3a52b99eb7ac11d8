"""iCaRL, BiC and GDumb against loops, scipy and Avalanche; what they keep, and what they refuse."""

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import scipy.optimize
import torch

from cl_framework.check_runs import learn
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.models import CNN
from cl_framework.strategies._exemplars import herding
from cl_framework.strategies.bic import BiC, fit_bias
from cl_framework.strategies.gdumb import GDumb, greedy_balance
from cl_framework.strategies.icarl import ICaRL
from cl_framework.toys import SHAPE, Toy, toy_model, toy_recipe
from cl_framework.types import Setting

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.storage_policy import ClassBalancedBuffer, HerdingSelectionStrategy


def batch_of(data, model, n=None):
    batch = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(5))[:n])
    return batch._replace(x=model.preprocess(batch.raw))


def shaken(model, seed=0):
    with torch.no_grad():
        for k, param in enumerate(model.parameters()):
            param.add_(0.3 * torch.randn(param.shape, generator=torch.Generator().manual_seed(seed + k)))


def wander(strategy, stream, n, model=None):
    """Go through the first n experiences; training is replaced by a push to the weights."""
    model = model or toy_model(stream)
    strategy.setup(model, stream.info)
    for index in range(n):
        begin(strategy, model, stream[index])
        shaken(model, 10 * index)
        strategy.after_experience(model, stream[index])
    return model


def begin(strategy, model, experience):
    model.observe(experience.classes, experience.task)
    strategy.before_experience(model, experience)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def features(model, raw):
    with torch.no_grad():
        return unit(model(model.preprocess(raw)).features.double().numpy())


# herding


def herded(phi, m):
    """Equation 4 of iCaRL, candidate by candidate."""
    mean, chosen = phi.mean(0), []
    for k in range(1, min(m, len(phi)) + 1):
        distances = [math.inf if i in chosen else np.linalg.norm(mean - (phi[i] + phi[chosen].sum(0)) / k)
                     for i in range(len(phi))]
        chosen.append(int(np.argmin(distances)))
    return chosen


@pytest.mark.parametrize(("n", "m"), [(1, 3), (20, 7), (30, 30)])
def test_herding_follows_equation_4(n, m):
    phi = unit(np.random.default_rng(n).normal(size=(n, 5)))
    assert herding(torch.tensor(phi), m).tolist() == herded(phi, m)


def test_herding_is_avalanches():
    phi = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double())
    theirs = HerdingSelectionStrategy.make_sorted_indices_from_features(None, phi)
    assert herding(phi, 40).tolist() == theirs


# exemplar sets


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3)])
def test_sets_are_herded_in_order_and_cut_to_their_first(sizes):
    stream, strategy = Toy(sizes=sizes).open(), ICaRL(memory_size=22)
    model = wander(strategy, stream, 1)
    m = 22 // sizes[0]
    before = [strategy._exemplars.of(label).raw for label in range(sizes[0])]
    for label, rows in enumerate(before):
        own = stream[0].train.raw[stream[0].train.y == label]
        assert torch.equal(rows, own[herded(features(model, own), m)])
    begin(strategy, model, stream[1])
    shaken(model, 50)
    strategy.after_experience(model, stream[1])
    assert strategy._exemplars.rows.y.bincount().tolist() == [22 // 4] * 4
    for label, rows in enumerate(before):
        assert torch.equal(strategy._exemplars.of(label).raw, rows[:22 // 4])


def test_a_class_that_comes_again_is_herded_from_its_exemplars_and_new_rows():
    stream, strategy = Toy(sizes=(2, 2), setting=Setting.DOMAIN).open(), ICaRL(memory_size=10)
    model = wander(strategy, stream, 1)
    old = strategy._exemplars.of(1).raw
    begin(strategy, model, stream[1])
    strategy.after_experience(model, stream[1])
    pool = torch.cat([stream[1].train.raw[stream[1].train.y == 1], old])
    assert torch.equal(strategy._exemplars.of(1).raw, pool[herded(features(model, pool), 5)])


@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.TASK])
def test_training_sees_new_rows_and_exemplars(setting):
    stream, strategy = Toy(setting=setting).open(), ICaRL(memory_size=12)
    model = wander(strategy, stream, 1)
    begin(strategy, model, stream[1])
    data = strategy.train_data(stream[1], stream[1].train)
    assert data.y.bincount().tolist() == [6, 6, 22, 22]
    if setting is Setting.TASK:
        assert torch.equal(data.task, data.y // 2)


def test_a_blurry_stream_never_exceeds_the_budget():
    generator = torch.Generator().manual_seed(0)
    stream, strategy = Toy(sizes=(4,)).open(), ICaRL(memory_size=9)
    model = toy_model(stream)
    strategy.setup(model, stream.info)
    for index, labels in enumerate([[0, 1], [1, 2, 2, 0], [3], [0, 3]]):
        y = torch.tensor(labels).repeat(4)
        raw = torch.randint(0, 255, (len(y), *SHAPE), generator=generator, dtype=torch.uint8)
        classes = tuple(sorted(set(labels)))
        experience = Experience(index=index, classes=classes, class_names=("",) * len(classes), train=Dataset(raw, y))
        begin(strategy, model, experience)
        strategy.after_experience(model, experience)
        rows = strategy._exemplars.rows
        assert len(rows) <= 9 and int(rows.y.bincount().max()) <= 9 // int((rows.y.bincount() > 0).sum())
    assert strategy._exemplars.classes == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [ICaRL, GDumb])
def test_a_memory_below_one_row_a_class_is_refused(make):
    stream = Toy().open()
    make(memory_size=6).setup(toy_model(stream), stream.info)
    with pytest.raises(ConfigError, match="each of 6 classes; set it to at least 6"):
        make(memory_size=5).setup(toy_model(stream), stream.info)


def test_bic_wants_a_second_exemplar_to_hold_back():
    stream = Toy().open()
    with pytest.raises(ConfigError, match="memory_size=11 leaves fewer than 2 exemplars for each of 6 classes"):
        BiC(memory_size=11).setup(toy_model(stream), stream.info)


# iCaRL


def icarl_loss(logits, teacher, y, old):
    """The paper's equation, row by row and class by class."""
    total = 0.0
    for i, row in enumerate(logits):
        for k, z in enumerate(row):
            target = 1 / (1 + math.exp(-teacher[i][k])) if k in old else float(y[i] == k)
            g = 1 / (1 + math.exp(-z))
            total -= target * math.log(g) + (1 - target) * math.log(1 - g)
    return total / len(logits)


@pytest.mark.parametrize(("index", "setting", "old"), [
    (0, Setting.CLASS, ()), (2, Setting.CLASS, (0, 1, 2, 3)), (1, Setting.DOMAIN, ())])
def test_icarls_loss_by_hand(index, setting, old):
    stream, strategy = Toy(setting=setting).open(), ICaRL(memory_size=12)
    model = wander(strategy, stream, index)
    begin(strategy, model, stream[index])
    before = copy.deepcopy(model)
    shaken(model, 70)
    batch = batch_of(strategy.train_data(stream[index], stream[index].train), model, 20)
    output = model(batch.x)
    with torch.no_grad():
        teacher = before(batch.x).logits
    expected = icarl_loss(output.logits.tolist(), teacher.tolist(), batch.y.tolist(), old)
    assert strategy.loss(model, batch, output).item() == pytest.approx(expected, rel=1e-5)


def test_icarl_answers_with_the_nearest_mean():
    stream, strategy = Toy().open(), ICaRL(memory_size=18)
    model = wander(strategy, stream, 2)
    raw = stream[1].train.raw
    means = unit(np.stack([features(model, strategy._exemplars.of(k).raw).mean(0) for k in range(4)]))
    with torch.no_grad():
        logits = strategy.predict(model, model.preprocess(raw), None)
    expected = -((features(model, raw)[:, None] - means) ** 2).sum(2)
    assert np.allclose(logits.numpy(), expected, atol=1e-5)
    model.observe((4, 5))
    with torch.no_grad():
        later = strategy.predict(model, model.preprocess(raw), None)
    assert torch.equal(later[:, :4], logits) and bool((later[:, 4:] < logits.min(1, keepdim=True).values).all())


def test_icarl_can_answer_with_the_network_and_does_before_there_are_means():
    stream = Toy().open()
    x = torch.randn(3, *SHAPE)
    network, means = ICaRL(memory_size=18, classifier="network"), ICaRL(memory_size=18)
    model = wander(network, stream, 2)
    assert torch.equal(network.predict(model, x, None), model(x).logits)
    means.setup(model, stream.info)
    assert torch.equal(means.predict(model, x, None), model(x).logits)


def test_icarl_declares_what_it_keeps():
    stream, strategy = Toy().open(), ICaRL(memory_size=18)
    model = wander(strategy, stream, 2)
    weights = 4 * sum(param.numel() for param in model.parameters())
    assert strategy.metrics()["memory_bytes"] == 16 * (16 + 8) + 4 * (4 * 16) + weights
    wander(strategy, stream, 1)
    assert strategy.metrics()["memory_bytes"] == 18 * (16 + 8) + 4 * (2 * 16)


# BiC


def biased_logits(n, alpha=0.4, beta=-1.5):
    """Logits whose softmax is right once the columns 3 and 4 are corrected by alpha and beta."""
    generator = torch.Generator().manual_seed(0)
    right = 2 * torch.randn(n, 5, generator=generator).double()
    y = torch.multinomial(right.softmax(1), 1, generator=generator).squeeze(1)
    is_new = torch.tensor([False, False, False, True, True])
    return torch.where(is_new, (right - beta) / alpha, right), y, is_new


def test_the_correction_recovers_a_known_bias():
    logits, y, is_new = biased_logits(100_000)
    assert fit_bias(logits, y, is_new) == pytest.approx((0.4, -1.5), abs=0.04)


@pytest.mark.parametrize("n", [6, 60])
def test_the_correction_is_scipys_optimum(n):
    logits, y, is_new = biased_logits(n)

    def objective(point):
        q = logits.numpy().copy()
        q[:, is_new.numpy()] = point[0] * q[:, is_new.numpy()] + point[1]
        picked = q[np.arange(n), y.numpy()] - np.log(np.exp(q).sum(1))
        return -picked.mean() + 0.00005 * ((point[0] - 1) ** 2 + point[1] ** 2)

    best = scipy.optimize.minimize(objective, [1.0, 0.0], method="Nelder-Mead",
                                   options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000})
    assert fit_bias(logits, y, is_new) == pytest.approx(tuple(best.x), abs=1e-5)


def test_rows_told_apart_without_fault_leave_the_correction_finite():
    logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    alpha, beta = fit_bias(logits, torch.tensor([0, 1]), torch.tensor([False, True]))
    assert 1 < alpha < 30 and abs(beta) < 30


def test_rows_are_held_back_in_balance_and_not_trained_on():
    stream, strategy = Toy(n_train=40).open(), BiC(memory_size=80, val_fraction=0.2)
    model = wander(strategy, stream, 1)
    begin(strategy, model, stream[1])
    pool = Dataset.concat([stream[1].train, strategy._exemplars.rows])
    held = pool.y[strategy._held]
    assert held.bincount().tolist() == [8, 8, 8, 8] and len(set(strategy._held.tolist())) == 32
    data = strategy.train_data(stream[1], stream[1].train)
    stays = [i for i in range(160) if i not in strategy._held.tolist()]
    assert torch.equal(data.raw, pool.raw[stays]) and torch.equal(data.y, pool.y[stays])


def test_bics_loss_by_hand_with_past_corrections():
    stream, strategy = Toy().open(), BiC(memory_size=40)
    model = wander(strategy, stream, 2)
    scale, shift = strategy._scale.clone(), strategy._shift.clone()
    assert scale[:2].tolist() == [1.0, 1.0] and scale[2] == scale[3] != 1.0 and shift[2] == shift[3] != 0.0
    begin(strategy, model, stream[2])
    before = copy.deepcopy(model)
    shaken(model, 70)
    batch = batch_of(strategy.train_data(stream[2], stream[2].train), model, 20)
    output = model(batch.x)
    with torch.no_grad():
        z = (output.logits * scale + shift).double()
        target = ((before(batch.x).logits * scale + shift)[:, :4].double() / 2).exp()
        target /= target.sum(1, keepdim=True)
        soft = (z[:, :4] / 2).exp()
        distilled = -(target * (soft / soft.sum(1, keepdim=True)).log()).sum(1).mean()
        learned = -(z.exp() / z.exp().sum(1, keepdim=True)).log()[range(20), batch.y].mean()
    expected = 4 / 6 * distilled + 2 / 6 * learned
    assert strategy.loss(model, batch, output).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_first_experience_and_recurring_classes_are_not_corrected():
    stream, strategy = Toy(setting=Setting.DOMAIN).open(), BiC(memory_size=40)
    model = wander(strategy, stream, 2)
    begin(strategy, model, stream[2])
    assert len(strategy.train_data(stream[2], stream[2].train)) == 44 + 40
    batch = batch_of(stream[2].train, model)
    output = model(batch.x)
    assert torch.equal(strategy.loss(model, batch, output), torch.nn.functional.cross_entropy(output.logits, batch.y))
    assert torch.equal(strategy.predict(model, batch.x, None), output.logits)


def test_the_correction_is_of_the_last_classes_and_lowers_their_loss():
    stream, strategy = Toy(n_train=40).open(), BiC(memory_size=80)
    model = wander(strategy, stream, 1)
    begin(strategy, model, stream[1])
    with torch.no_grad():
        model.head.bias[2:] += 3.0
    rows = Dataset.concat([stream[1].train, strategy._exemplars.rows]).subset(strategy._held)
    x = model.preprocess(rows.raw)

    def value():
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(strategy.predict(model, x, None), rows.y))

    before = value()
    strategy.after_experience(model, stream[1])
    assert value() < before and float(strategy._shift[2]) == float(strategy._shift[3]) < -0.5
    assert strategy._scale[[0, 1, 4, 5]].tolist() == [1.0] * 4 and strategy._shift[[0, 1, 4, 5]].tolist() == [0.0] * 4


def test_bic_declares_what_it_keeps():
    stream, strategy = Toy().open(), BiC(memory_size=18)
    model = wander(strategy, stream, 2)
    weights = 4 * sum(param.numel() for param in model.parameters())
    assert strategy.metrics()["memory_bytes"] == 16 * (16 + 8) + 2 * 4 * 6 + weights


# GDumb


def literal_sampler(stream, k, generator):
    """Algorithm 1 of the paper, a row at a time; rows are (label, name)."""
    memory, met = [], []
    for label, name in stream:
        count = {c: sum(row[0] == c for row in memory) for c in met}
        if label not in met or count[label] < k / len(met):
            if len(memory) >= k:
                largest = [c for c in met if count[c] == max(count.values())]
                victim = largest[int(torch.randint(len(largest), (1,), generator=generator))]
                rows = [row for row in memory if row[0] == victim]
                memory.remove(rows[int(torch.randint(len(rows), (1,), generator=generator))])
            memory.append((label, name))
            if label not in met:
                met.append(label)
    return memory


@pytest.mark.parametrize("k", [5, 12, 31, 500])
@pytest.mark.parametrize("seed", range(4))
def test_the_sampler_is_the_literal_algorithm(k, seed):
    rng = np.random.default_rng(seed)
    labels = [*rng.choice(2, 40), *rng.choice(5, 40, p=[0.1, 0, 0.6, 0.2, 0.1]), *rng.choice(4, 20)]
    rows = [(int(label), i) for i, label in enumerate(labels)]
    expected = literal_sampler(rows, k, torch.Generator().manual_seed(seed))
    kept = greedy_balance([], [label for label, _ in rows], k, torch.Generator().manual_seed(seed))
    assert kept == sorted(name for _, name in expected)
    assert len(kept) <= k


def test_the_sampler_may_be_fed_in_pieces():
    """Counts are those of one pass; which of equal classes has a row more is drawn."""
    labels = [0] * 30 + [1] * 30 + [2] * 3 + [3] * 30
    held = []
    for start in range(0, len(labels), 7):
        both = held + labels[start:start + 7]
        held = [both[i] for i in greedy_balance(held, labels[start:start + 7], 20, torch.Generator())]
    whole = [labels[i] for i in greedy_balance([], labels, 20, torch.Generator())]
    assert sorted(np.bincount(held)) == sorted(np.bincount(whole)) and np.bincount(held)[2] == 3


def test_rows_of_a_class_are_kept_equally_often():
    """Offered in a random order, every row of a class that comes once has the same chance."""
    hits = torch.zeros(40)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        order = torch.randperm(40, generator=generator)
        stay = greedy_balance([], (order // 20).tolist(), 10, generator)
        hits[order[stay]] += 1
    assert torch.allclose(hits / 600, torch.tensor(0.25), atol=0.09)


@pytest.mark.parametrize("k", [7, 20, 33])
def test_classes_get_as_many_rows_as_in_avalanches_buffer(k):
    counts = np.bincount([i // 50 for i in greedy_balance([], [i // 50 for i in range(250)], k, torch.Generator())])
    assert sorted(counts) == sorted(ClassBalancedBuffer(k, adaptive_size=True).get_group_lengths(5))


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_gdumb_learns_its_memory_from_the_initial_weights(head):
    stream, strategy = Toy().open(), GDumb(memory_size=13)
    model = dataclasses.replace(CNN(channels=[3]), head=head).build(stream.info)
    strategy.setup(model, stream.info)
    initial = {name: value.clone() for name, value in model.named_parameters()}
    for index, experience in enumerate(stream):
        begin(strategy, model, experience)
        for name, value in model.named_parameters():
            assert torch.equal(value[:len(initial[name])], initial[name]), name
        initial = {name: value.clone() for name, value in model.named_parameters()}
        data = strategy.train_data(experience, experience.train)
        assert sorted(data.y.bincount().tolist()) == [[6, 7], [3, 3, 3, 4], [2, 2, 2, 2, 2, 3]][index]
        seen = torch.cat([stream[i].train.raw for i in range(index + 1)])
        labels = torch.cat([stream[i].train.y for i in range(index + 1)])
        for raw, y in zip(data.raw, data.y, strict=True):
            assert bool(((seen == raw).flatten(1).all(1) & (labels == y)).any())
        shaken(model, index)
    weights = 4 * sum(param.numel() for param in model.parameters()) + 3 * (4 + 4) + 8
    assert strategy.metrics()["memory_bytes"] == 13 * (16 + 8) + weights


def test_gdumb_is_a_network_trained_on_the_memory_alone():
    toy = Toy(sizes=(2, 2))
    result = learn(GDumb(memory_size=10), toy.open())
    assert len(result.strategy._rows) == 10
    online = learn(GDumb(memory_size=10), dataclasses.replace(toy, is_online=True).open(), recipe=toy_recipe(epochs=1))
    assert bool(online.record.online.isnan().all())
    assert torch.equal(online.strategy._rows.raw, result.strategy._rows.raw)


@pytest.mark.parametrize("make", [ICaRL, BiC, GDumb])
def test_an_experience_of_one_class_is_one(make):
    result = learn(make(memory_size=20), Toy(sizes=(1, 1, 2)).open())
    assert result.record is not None and result.record.n_done == 3
