"""Test-time adaptation: each strategy against closed forms or a float64 step by hand, and what all of them obey."""

import dataclasses
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_framework.checks import checks_of, outcome_of
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.models import MLP, Head, Model
from cl_framework.strategies._adaptation import batch_logits, by_batch_in
from cl_framework.strategies._bank import Bank
from cl_framework.strategies.bn_stats import BNStats
from cl_framework.strategies.cotta import CoTTA
from cl_framework.strategies.eata import EATA
from cl_framework.strategies.roid import ROID
from cl_framework.strategies.rotta import RoTTA
from cl_framework.strategies.sar import SAR
from cl_framework.strategies.source import Source
from cl_framework.strategies.tent import Tent
from cl_framework.types import Need, StreamInfo

C, B, CHANNELS = 3, 16, 4
AFFINE = ("body.1.weight", "body.1.bias")


class Raw(nn.Module):
    def forward(self, raw):
        return raw


def info(**own):
    return StreamInfo(**{"n_experiences": 2, "n_classes": C, "input_shape": (1, 4, 4), "is_labelled": False,
                         "batch_size": B, **own})


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.Tanh(), nn.Flatten())
        model = Model(Raw(), body, Head(16, C, is_full=True)).double()
        for param in model.parameters():
            param.data.add_(0.3 * torch.randn(param.shape, dtype=torch.float64))
        body[1].running_mean.normal_()
        body[1].running_var.uniform_(0.5, 2)
    return model.eval()


def batches(n=4, size=B):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(n)]


def source():
    rows = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return Dataset(rows, torch.zeros(30, dtype=torch.int64))


def experience(index=0):
    return Experience(index=index, classes=(0, 1, 2), class_names=("a", "b", "c"), train=source(), past=(source(),))


def start(strategy, model=None, **own):
    model = build() if model is None else model
    strategy.setup(model, info(**own))
    strategy.before_experience(model, experience())
    return model


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def statistics(model):
    return model.body[1].running_mean.clone(), model.body[1].running_var.clone()


def moments(w, x):
    h = F.conv2d(x, w["body.0.weight"], w["body.0.bias"])
    mean = h.mean((0, 2, 3))
    return h, mean, ((h - mean.view(1, -1, 1, 1)) ** 2).mean((0, 2, 3))


def by_hand(w, x, given=None):
    """The network written out, with the statistics of the batch or with given ones."""
    h, *own = moments(w, x)
    mean, variance = (value.view(1, -1, 1, 1) for value in given or own)
    scale, shift = (w[name].view(1, -1, 1, 1) for name in AFFINE)
    h = torch.tanh((h - mean) / (variance + 1e-5).sqrt() * scale + shift)
    return h.flatten(1) @ w["head.weight"].T + w["head.bias"]


def leaves(w, names=AFFINE):
    return {name: value.clone().requires_grad_(name in names) for name, value in w.items()}


def slopes(loss, leaf):
    wanted = {name: value for name, value in leaf.items() if value.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def entropy(z):
    return -(z.softmax(1) * z.log_softmax(1)).sum(1)


class SGD:
    """Momentum 0.9, as in torch: v <- 0.9 v + g, w <- w - lr v."""

    def __init__(self, lr):
        self.lr, self.v = lr, {}

    def step(self, w, g):
        for k in g:
            self.v[k] = 0.9 * self.v.get(k, 0) + g[k]
            w[k] = w[k] - self.lr * self.v[k]


class Adam:
    """Kingma and Ba, algorithm 1."""

    def __init__(self, lr):
        self.lr, self.t, self.m, self.v = lr, 0, {}, {}

    def step(self, w, g):
        self.t += 1
        for k in g:
            self.m[k] = 0.9 * self.m.get(k, 0) + 0.1 * g[k]
            self.v[k] = 0.999 * self.v.get(k, 0) + 0.001 * g[k] ** 2
            first, second = self.m[k] / (1 - 0.9**self.t), self.v[k] / (1 - 0.999**self.t)
            w[k] = w[k] - self.lr * first / (second.sqrt() + 1e-8)


def close(model, w, **tolerance):
    for name, value in weights(model).items():
        torch.testing.assert_close(value, w[name], **{"rtol": 1e-9, "atol": 1e-11, **tolerance})


def same(a, b):
    torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-10)


# statistics


def test_batch_statistics_hold_inside_and_leave_no_trace():
    model, x = build(), batches()[0]
    before, state = model(x).logits, {k: str(v) for k, v in model.state_dict().items()}
    same(batch_logits(model, x).detach(), by_hand(weights(model), x))
    with pytest.raises(RuntimeError, match="inside"), by_batch_in(model):
        raise RuntimeError("inside")
    assert torch.equal(model(x).logits, before) and not model.training
    assert {k: str(v) for k, v in model.state_dict().items()} == state
    assert "forward" not in vars(model.body[1])
    assert torch.equal(batch_logits(model, x[:1]), model(x[:1]).logits)


@pytest.mark.parametrize(("own", "alpha"), [({"statistics": "mixed", "alpha": 0.3}, 0.3),
                                            ({"statistics": "mixed", "prior_rows": 48}, B / (B + 48)),
                                            ({"statistics": "batch"}, 1.0)])
def test_mixed_statistics(own, alpha):
    strategy = BNStats(**own)
    model, w = start(strategy), weights(build())
    for x in batches():
        _, mean, variance = moments(w, x)
        mixed = [(1 - alpha) * first + alpha * new for first, new in zip(statistics(model), (mean, variance),
                                                                         strict=True)]
        same(strategy.adapt(model, x), by_hand(w, x, mixed))
        same(strategy.predict(model, x, None).detach(), by_hand(w, x, mixed))
    assert all(torch.equal(a, b) for a, b in zip(statistics(model), statistics(build()), strict=True))


def test_moving_statistics():
    strategy = BNStats(statistics="moving", alpha=0.2)
    model, w = start(strategy), weights(build())
    kept = statistics(model)
    for x in batches():
        _, *new = moments(w, x)
        kept = [0.8 * old + 0.2 * value for old, value in zip(kept, new, strict=True)]
        same(strategy.adapt(model, x), by_hand(w, x, kept))
        same(strategy.predict(model, x[:1], None).detach(), by_hand(w, x[:1], kept))
    for own, value in zip(statistics(model), kept, strict=True):
        torch.testing.assert_close(own, value)


# strategies by hand


@pytest.mark.parametrize(("rule", "by"), [("sgd", SGD), ("adam", Adam)])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_tent(rule, by, n_steps):
    strategy = Tent(lr=0.02, update_rule=rule, n_steps=n_steps)
    model, w, optimizer = start(strategy), weights(build()), by(0.02)
    for x in batches():
        same(strategy.adapt(model, x), by_hand(w, x))
        for _ in range(n_steps):
            leaf = leaves(w)
            optimizer.step(w, slopes(entropy(by_hand(leaf, x)).mean(), leaf))
        close(model, w)


@pytest.mark.parametrize("fisher", ["source", "stream"])
def test_eata(fisher):
    own = {"lr": 0.02, "entropy_margin": 0.95, "diversity_margin": 0.97, "penalty_strength": 400.0}
    strategy = EATA(update_rule="sgd", fisher=fisher, n_samples=30 if fisher == "source" else 2 * B, **own)
    model, w, optimizer = start(strategy), weights(build()), SGD(0.02)
    first, mean, measured, margin = dict(w), None, [], 0.95 * math.log(C)
    seen = [source().raw] if fisher == "source" else []
    n_chosen = []
    for i, x in enumerate([*batches(), torch.zeros_like(batches()[0])]):
        if fisher == "stream" and i < 2:
            seen.append(x)
        if len(measured) < len(seen):
            leaf = leaves(w)
            z = by_hand(leaf, seen[-1])
            g = slopes(F.cross_entropy(z, z.argmax(1)), leaf)
            measured.append({k: v**2 * len(z) / 200 for k, v in g.items()})
        f = {k: sum(one[k] for one in measured) / len(measured) for k in AFFINE}
        leaf = leaves(w)
        z = by_hand(leaf, x)
        same(strategy.adapt(model, x), z)
        h, p = entropy(z), z.softmax(1).detach()
        rows = [b for b in range(len(x)) if h[b] < margin
                and (mean is None or abs(float(p[b] @ mean / (p[b].norm() * mean.norm()))) < 0.97)]
        n_chosen.append(len(rows))
        if rows:
            loss = sum(math.exp(margin - h[b].item()) * h[b] for b in rows) / len(rows)
            loss = loss + 400.0 * sum((f[k] * (leaf[k] - first[k]) ** 2).sum() for k in AFFINE)
            optimizer.step(w, slopes(loss, leaf))
            mean = p[rows].mean(0) if mean is None else 0.9 * mean + 0.1 * p[rows].mean(0)
        close(model, w)
    assert min(n_chosen[:2]) > 0 and max(n_chosen) < B
    assert strategy.metrics()["adapted_rows"] == pytest.approx(sum(n_chosen) / (5 * B))


def test_eata_without_rows_changes_nothing():
    strategy = EATA(entropy_margin=0.0)
    model, w = start(strategy), weights(build())
    strategy.adapt(model, batches()[0])
    assert all(torch.equal(v, w[k]) for k, v in weights(model).items()) and strategy._mean is None


@pytest.mark.parametrize("collapse", [0.0, 0.98])
def test_sar(collapse):
    strategy = SAR(lr=0.05, rho=0.1, entropy_margin=0.95, collapse_entropy=collapse)
    model, w, optimizer = start(strategy), weights(build()), SGD(0.05)
    first, margin, mean, n_resets = dict(w), 0.95 * math.log(C), None, 0
    for x in batches():
        leaf = leaves(w)
        z = by_hand(leaf, x)
        same(strategy.adapt(model, x), z)
        rows = entropy(z).detach() < margin
        g = slopes(entropy(z)[rows].mean(), leaf)
        norm = sum((v**2).sum() for v in g.values()).sqrt()
        climbed = leaves({k: v + 0.1 * g[k] / norm if k in g else v for k, v in w.items()})
        h = entropy(by_hand(climbed, x))
        chosen = h[rows & (h < margin)].mean()
        mean = chosen.item() if mean is None else 0.9 * mean + 0.1 * chosen.item()
        optimizer.step(w, slopes(chosen, climbed))
        if mean < collapse:
            w, optimizer, mean, n_resets = dict(first), SGD(0.05), None, n_resets + 1
        close(model, w)
    assert strategy.metrics()["n_resets"] == n_resets and (n_resets > 0) == (collapse > 0)


def test_sar_may_leave_the_last_layers():
    with torch.random.fork_rng():
        model = MLP(hidden=[4, 4, 4], norm="batch").build(info()).eval()
        model.observe(range(C))
    strategy = SAR(n_fixed_layers=2, entropy_margin=1.0)
    start(strategy, model)
    assert list(strategy._adapted.params) == ["body.2.weight", "body.2.bias"]
    with pytest.raises(ConfigError, match="leaves none of the 3"):
        SAR(n_fixed_layers=3).setup(model, info())


@pytest.mark.parametrize("gate", [0.0, 0.99])
def test_cotta_without_chance(gate):
    """With views that double the contrast and no restoring, every step is known."""
    strategy = CoTTA(lr=0.03, update_rule="sgd", momentum=0.7, restore_probability=0.0, confidence_gate=gate, n_views=2)
    model, w, optimizer = start(strategy), weights(build()), SGD(0.03)
    shifts = iter([1.0, 2.0] * 9)
    strategy._views = lambda x: x * next(shifts)
    teacher = dict(w)
    for x in batches():
        target = by_hand(teacher, x) if gate == 0 else (by_hand(teacher, x) + by_hand(teacher, 2 * x)) / 2
        same(strategy.adapt(model, x), target)
        leaf = leaves(w, tuple(w))
        loss = -(target.softmax(1) * by_hand(leaf, x).log_softmax(1)).sum(1).mean()
        optimizer.step(w, slopes(loss, leaf))
        teacher = {k: 0.7 * teacher[k] + 0.3 * w[k] for k in w}
        close(model, w)
        close(strategy._teacher, teacher)


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_cotta_restores_weights_at_random(probability):
    strategy = CoTTA(lr=0.1, restore_probability=probability, n_views=0)
    model = start(strategy)
    for x in batches(1):
        strategy.adapt(model, x)
    first = weights(build())
    restored = torch.cat([(v == first[k]).flatten() for k, v in weights(model).items()]).double()
    spread = 4 * math.sqrt(probability * (1 - probability) / len(restored))
    assert restored.mean().item() == pytest.approx(probability, abs=spread + 1e-12)
    assert any(not torch.equal(v, first[k]) for k, v in weights(strategy._teacher).items())


def naive_bank(rows, capacity, n_classes):
    """The bank as a plain list of (row number, label, entropy), by the words of the paper."""
    kept = []
    for now, (label, h) in enumerate(rows):
        def score(entry, now=now):
            return 1 / (1 + math.exp(-(now - entry[0]) / capacity)) + entry[2] / math.log(n_classes)

        count = [sum(entry[1] == c for entry in kept) for c in range(n_classes)]
        if count[label] < capacity / n_classes and len(kept) < capacity:
            kept.append((now, label, h))
            continue
        where = [label] if count[label] >= capacity / n_classes else \
            [c for c in range(n_classes) if count[c] == max(count)]
        worst = max((entry for entry in kept if entry[1] in where), key=score)
        if score(worst) > score((now, label, h)):
            kept.remove(worst)
            kept.append((now, label, h))
    return kept


@pytest.mark.parametrize(("capacity", "n_classes"), [(7, 3), (6, 3), (4, 5), (1, 2)])
def test_the_bank_holds_what_the_paper_says(capacity, n_classes):
    generator = torch.Generator().manual_seed(capacity)
    labels = (torch.rand(60, generator=generator).square() * n_classes).long().tolist()
    entropies = (torch.rand(60, generator=generator, dtype=torch.float64) * math.log(n_classes)).tolist()
    bank = Bank(capacity, n_classes)
    for i, (label, h) in enumerate(zip(labels, entropies, strict=True)):
        bank.offer(torch.tensor([float(i)]), label, h)
        kept = naive_bank(list(zip(labels, entropies, strict=True))[: i + 1], capacity, n_classes)
        rows, ages = bank.rows()
        assert sorted(rows.flatten().tolist()) == sorted(entry[0] for entry in kept)
        torch.testing.assert_close(ages, (i + 1 - rows.flatten()) / capacity)


def test_rotta():
    own = {"lr": 0.03, "alpha": 0.2, "nu": 0.1, "capacity": 6, "update_every": 10}
    strategy = RoTTA(update_rule="sgd", **own)
    model, w, optimizer = start(strategy), weights(build()), SGD(0.03)
    strategy._views = lambda x: 1 - x
    teacher, kept, bank, n = dict(w), [list(statistics(model)), list(statistics(model))], Bank(6, C), 0
    for x in batches():
        z = by_hand(teacher, x, kept[0])
        same(strategy.adapt(model, x), z)
        for row, label, h in zip(x, z.argmax(1).tolist(), entropy(z).tolist(), strict=True):
            bank.offer(row, label, h)
            n += 1
            if n % 10:
                continue
            rows, ages = bank.rows()
            leaf = leaves(w)
            for k, (values, seen) in enumerate(((teacher, rows), (leaf, 1 - rows))):
                new = moments(values, seen)[1:]
                kept[k] = [0.8 * old + 0.2 * value for old, value in zip(kept[k], new, strict=True)]
            target = by_hand(teacher, rows, kept[0]).softmax(1)
            loss = -(target * by_hand(leaf, 1 - rows, kept[1]).log_softmax(1)).sum(1)
            factor = torch.exp(-ages) / (1 + torch.exp(-ages))
            optimizer.step(w, slopes((loss * factor).mean(), leaf))
            kept[1] = [value.detach() for value in kept[1]]
            teacher = {k: 0.9 * teacher[k] + 0.1 * w[k] for k in w}
        close(model, w)
        close(strategy._teacher, teacher)
    for copy, values in ((strategy._teacher, kept[0]), (model, kept[1])):
        for got, expected in zip(statistics(copy), values, strict=True):
            torch.testing.assert_close(got, expected)
    same(strategy.predict(model, x[:1], None), by_hand(teacher, x[:1], kept[0]))


def test_roid():
    strategy = ROID(lr=0.03, update_rule="sgd", source_momentum=0.8)
    model, w, optimizer = start(strategy), weights(build()), SGD(0.03)
    strategy._views = lambda x: 1 - x
    first, mean = dict(w), torch.full((C,), 1 / C, dtype=torch.float64)
    for x in batches():
        leaf = leaves(w)
        z = by_hand(leaf, x)
        p = z.softmax(1)
        prior = p.mean(0)
        smooth = max(1 / B, 1 / C) / prior.max()
        same(strategy.adapt(model, x), z * (prior + smooth) / (1 + smooth * C))
        q = p.detach()
        diversity = 1 - (q @ mean) / (q.norm(dim=1) * mean.norm())
        diversity = (diversity - diversity.min()) / (diversity.max() - diversity.min())
        certainty = -entropy(z).detach()
        certainty = (certainty - certainty.min()) / (certainty.max() - certainty.min())
        weight = torch.exp(diversity * certainty * 3) * (diversity >= diversity.mean())
        mean = 0.9 * mean + 0.1 * q.mean(0)
        clipped = p.clamp(max=0.99)
        loss = -(clipped * (clipped / (1 - clipped) + 1e-5).log()).sum(1)
        kept = weight > 0
        other = by_hand(leaf, 1 - x[kept])
        agree = torch.zeros_like(loss)
        agree[kept] = -0.5 * (p[kept] * other.log_softmax(1) + other.softmax(1) * z[kept].log_softmax(1)).sum(1)
        optimizer.step(w, slopes((weight * (loss + agree)).sum() / B, leaf))
        w = {k: 0.8 * w[k] + 0.2 * first[k] for k in w}
        close(model, w, rtol=1e-6, atol=1e-8)
    assert 0 < strategy.metrics()["adapted_rows"] < 1


# what all of them obey

ALL = [Source(), BNStats(), BNStats(statistics="mixed"), BNStats(statistics="moving"), Tent(), EATA(entropy_margin=1.0),
       EATA(entropy_margin=1.0, fisher="stream"), SAR(entropy_margin=1.0), CoTTA(n_views=2, confidence_gate=1.0),
       RoTTA(capacity=8, update_every=8), ROID()]


def fresh(strategy, **own):
    values = {spec.name: vars(strategy)[spec.name] for spec in dataclasses.fields(strategy)}
    return type(strategy)(**{**values, **own})


def label(strategy):
    return "-".join([type(strategy).__name__, *(str(v) for v in vars(strategy).values() if isinstance(v, str))])


@pytest.mark.parametrize("plugin", ALL, ids=label)
def test_taken_up_in_the_middle_it_ends_with_the_same_bits(plugin):
    strategy, file = fresh(plugin), io.BytesIO()
    model = start(strategy)
    for x in batches()[:2]:
        strategy.adapt(model, x)
    torch.save([model.state_dict(), strategy.state_dict()], file)
    saved, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = build(), fresh(plugin)
    resumed.setup(again, info())
    again.load_state_dict(saved)
    resumed.load_state_dict(again, state)
    for x in batches()[2:]:
        assert torch.equal(strategy.adapt(model, x), resumed.adapt(again, x))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
               if isinstance(a, torch.Tensor))
    x = batches()[0]
    assert torch.equal(strategy.predict(model, x, None), resumed.predict(again, x, None))
    assert strategy.metrics() == resumed.metrics()


@pytest.mark.parametrize("plugin", ALL, ids=label)
def test_a_batch_is_answered_before_it_is_learned(plugin):
    answers = []
    for lr in (0.0, 0.2):
        strategy = fresh(plugin, **({"lr": lr} if "lr" in vars(plugin) else {}))
        model = start(strategy)
        answers.append([strategy.adapt(model, x) for x in batches(2)])
    assert torch.equal(answers[0][0], answers[1][0])
    assert torch.equal(answers[0][1], answers[1][1]) == ("lr" not in vars(plugin))
    assert not any(answer.requires_grad for answer in answers[1])


@pytest.mark.parametrize("plugin", ALL, ids=label)
def test_predict_is_pure_and_adapt_leaves_mode_rows_and_gradients(plugin):
    strategy = fresh(plugin)
    model = start(strategy)
    x = batches()[0]
    given = x.clone()
    strategy.adapt(model, x)
    assert torch.equal(x, given) and not any(module.training for module in model.modules())
    assert all(param.grad is None for param in model.parameters())
    before = io.BytesIO(), io.BytesIO()
    torch.save([model.state_dict(), strategy.state_dict()], before[0])
    first = strategy.predict(model, x, None)
    assert torch.equal(first, strategy.predict(model, x, None)) and first.shape == (B, C)
    torch.save([model.state_dict(), strategy.state_dict()], before[1])
    assert before[0].getvalue() == before[1].getvalue()


@pytest.mark.parametrize("plugin", ALL, ids=label)
def test_the_memory_that_it_declares_covers_its_state(plugin):
    strategy = fresh(plugin)
    model = start(strategy)
    for x in batches():
        strategy.adapt(model, x)

    def held(value):
        if isinstance(value, torch.Tensor):
            return value.numel() * value.element_size() if value.dtype == torch.float64 else 0
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return sum(held(item) for item in inner)

    figures = strategy.metrics()
    assert held(strategy.state_dict()) <= figures.get("memory_bytes", 0) + 64
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("plugin", ALL, ids=label)
def test_a_labelled_stream_is_refused(plugin):
    with pytest.raises(ConfigError, match=r"unlabelled stream.*use scenario=corrupted"):
        fresh(plugin).setup(build(), info(is_labelled=True))


@pytest.mark.parametrize("plugin", [BNStats(), Tent(), EATA(), SAR(), RoTTA(), ROID()], ids=label)
def test_a_model_without_normalisation_is_refused(plugin):
    model = MLP(hidden=[4]).build(info())
    with pytest.raises(ConfigError, match=r"this model has none; set\s+model=cnn"):
        fresh(plugin).setup(model, info())


@pytest.mark.parametrize("plugin", [BNStats(), Tent(), EATA(), SAR(), CoTTA(), ROID()], ids=label)
def test_batches_of_one_row_are_refused_where_they_are_measured(plugin):
    with pytest.raises(ConfigError, match=r"batch of one row has none; set scenario\.batch_size=64"):
        fresh(plugin).setup(build(), info(batch_size=1))
    strategy = fresh(plugin)
    model = start(strategy)
    assert strategy.adapt(model, batches()[0][:1]).isfinite().all()


@pytest.mark.parametrize("plugin", [Source(), BNStats(statistics="moving"), RoTTA()], ids=label)
def test_others_take_single_rows(plugin):
    strategy = fresh(plugin)
    model = start(strategy, batch_size=1)
    for x in batches(2):
        assert strategy.adapt(model, x[:1]).isfinite().all()


@pytest.mark.parametrize("plugin", [BNStats(statistics="moving"), EATA(fisher="stream")])
def test_conformance_of_other_forms(plugin):
    """All checks but the long one of memory, which is tested above."""
    outcomes = [outcome_of(plugin, check) for check in checks_of(plugin) if check.__name__ != "declares_its_memory"]
    assert len(outcomes) > 10 and not [outcome for outcome in outcomes if not outcome.is_fine]


def test_images_outside_the_range_are_told_once():
    strategy = Tent()
    model = start(strategy)
    strategy.adapt(model, 255 * batches()[0])
    with pytest.warns(UserWarning, match=r"1 of 1 batches of the stream hold images outside \[0, 1\]; give uint8"):
        strategy.metrics()
    strategy.metrics()


def test_source_data_are_asked_for_where_they_are_used():
    assert EATA().needs == {Need.UNLABELLED, Need.SOURCE_DATA}
    assert EATA(fisher="stream").needs == EATA(penalty_strength=0.0).needs == {Need.UNLABELLED}
    rows = Dataset(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    strategy = EATA()
    strategy.setup(build(), info())
    empty = Experience(index=0, classes=(0,), class_names=("a",), train=rows, past=())
    with pytest.raises(ConfigError, match=r"set strategy\.eata\.fisher=stream"):
        strategy.before_experience(build(), empty)
